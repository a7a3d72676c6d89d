//! Tests of documents that must be refused, without a panic.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const MIB: usize = 1 << 20;

/// Asserts that the document is refused, with messages short enough for a log.
fn assert_refused(document: impl AsRef<[u8]>) {
    let document = document.as_ref();
    let start = String::from_utf8_lossy(&document[..document.len().min(80)]).into_owned();
    let problems = Policy::from_json(document).expect_err(&start);
    assert!(problems.iter().count() > 0, "{start}");
    for problem in problems.iter() {
        assert!(!problem.message.is_empty(), "{start}");
        assert!(problem.to_string().len() < 2_000, "{start}: {} bytes", problem.to_string().len());
    }
}

#[test]
fn a_document_that_is_not_an_object_is_refused() {
    for document in ["", " ", "null", "true", "0", "-1.5", r#""name""#, "[]", "[{}]", "{", "{}{}", "\0"] {
        assert_refused(document);
    }
}

#[test]
fn a_document_that_is_not_utf_8_is_refused() {
    assert_refused(b"\xff\xfe");
    assert_refused(b"{\"name\":\"\xff\"}");
    assert_refused(b"{\"\xc3\x28\":1}");
    assert_refused(r#"{"name":"\ud800"}"#);
    assert_refused(b"\xef\xbb\xbf{\"name\":\"p\"}");
}

#[test]
fn text_that_is_not_json_is_described_in_plain_words() {
    let utf_16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [b"\xff\xfe".as_slice(), utf_16.as_slice()].concat();
    for (text, words) in [
        (b"".as_slice(), "the configuration is empty. "),
        (b" \n", "the configuration is empty. "),
        (b"name: p", "the configuration does not begin with {, "),
        (b"\n\x07\n\x04name", "the configuration does not begin with {, "),
        (&with_mark, "the configuration does not begin with {, "),
        (
            b"{\"name\": \"p\", // why\n}",
            "not JSON: key must be a string at line 1 column 15. JSON has no comments, ",
        ),
        (b"{\"name\": \"p\",}", "not JSON: trailing comma at line 1 column 14. JSON has no comments, "),
    ] {
        let problem = Policy::from_json(text).unwrap_err().to_string();
        assert!(problem.starts_with(words), "{problem}");
        assert!(problem.ends_with("as a google.protobuf.StringValue."), "{problem}");
    }
}

#[test]
fn a_deeply_nested_document_is_refused() {
    for depth in [64, 120, 126, 127, 128, 129, 1_000, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        assert_refused(format!("{open}{close}"));
        assert_refused(format!(r#"{{"name":{open}{close}}}"#));
        let (open, close) = (r#"{"upstreams":"#.repeat(depth), "}".repeat(depth));
        assert_refused(format!("{open}1{close}"));
    }
}

#[test]
fn a_document_with_huge_values_is_refused() {
    let long = "x".repeat(MIB);
    assert_refused(format!(r#"{{"name":"{long}"}}"#));
    assert_refused(format!(r#"{{"name":"p","{long}":1}}"#));
    assert_refused(with_release(&format!(r#""steer":{{"header":"{long} "}},{VERSIONS}"#)));
    assert_refused(with_gate(&format!(r#""reply":{{"body":"{long}"}}"#)));
    assert_refused(format!(r#"{{"name":"p","gates":[{{"upstream":"{long}"}}]}}"#));
    assert_refused(format!(
        r#"{{"name":"p","upstreams":{{"{long}":{{"cluster":"a"}}}},"gates":[{{"upstream":"a"}}]}}"#
    ));
    assert_refused(format!(r#"{{"name":[{}0]}}"#, "0,".repeat(MIB / 2)));
    assert_refused(format!(r#"{{"name":"p","gates":[{}0]}}"#, "0,".repeat(MIB / 64)));
    assert_refused(format!(r#"{{{}"name":"p"}}"#, r#""a":1,"#.repeat(MIB / 64)));
    let fields: String = (0..MIB / 64).map(|i| format!(r#""f{i}":1,"#)).collect();
    assert_refused(format!(r#"{{{fields}"name":"p"}}"#));
}

/// Each message about an unknown name lists known ones, so the lengths of the two lists must not multiply.
#[test]
fn many_unknown_names_among_many_upstreams_are_refused() {
    let upstreams: Vec<_> = (0..2_000).map(|i| format!(r#""u{i}":{{"cluster":"c"}}"#)).collect();
    let gates = vec![r#"{"upstream":"x"}"#; 2_000];
    assert_refused(format!(
        r#"{{"name":"p","upstreams":{{{}}},"gates":[{}]}}"#,
        upstreams.join(","),
        gates.join(",")
    ));
}

#[test]
fn a_number_out_of_range_of_its_type_is_refused() {
    for number in ["18446744073709551616", "-9223372036854775809", "1e308", "1e400", "-1e400", "1e-400"] {
        for document in [
            format!(r#"{{"name":{number}}}"#),
            with_check(&format!(r#""periodSeconds":{number}"#)),
            with_check(&format!(r#""failureThreshold":{number}"#)),
            with_versions(&format!(r#"{{"name":"v","upstream":"a","weight":{number}.0,"default":true}}"#)),
            with_get(&format!(r#""port":{number}"#)),
        ] {
            assert_refused(document);
        }
    }
    for duration in [
        "1e9s",
        "999999999999999999999999h",
        &"9".repeat(400),
        &format!("{}s", "9".repeat(400)),
        &"9999999999999999h".repeat(2_000),
    ] {
        assert_refused(with_breaker(&format!(r#""notReadyFor":"{duration}""#)));
    }
}

#[test]
fn every_repeated_key_is_refused() {
    let document: serde_json::Value = serde_json::from_str(FULL).unwrap();
    let found = problems(&doubled(&document));
    let repeated =
        found.iter().filter(|problem| problem.ends_with(": given twice; keep one of them")).count();
    assert_eq!(repeated, found.len(), "{found:#?}");
    // Fields below a repeated key are not read, so they have no problem of their own.
    assert!(repeated > 80, "{repeated}");
}

/// Writes the document with each key of each object twice.
fn doubled(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            let twice = |(key, value)| {
                let field = format!("{key:?}:{}", doubled(value));
                format!("{field},{field}")
            };
            format!("{{{}}}", fields.iter().map(twice).collect::<Vec<_>>().join(","))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(doubled).collect::<Vec<_>>().join(","))
        }
        value => value.to_string(),
    }
}

#[test]
fn an_empty_string_is_refused_unless_it_has_a_meaning() {
    let mut compiled = Vec::new();
    for (at, _) in FULL.match_indices('"').step_by(2) {
        let length = FULL[at + 1..].find('"').unwrap();
        // This empties keys as well, which makes them unknown and leaves the known ones missing.
        let emptied = format!("{}{}", &FULL[..at + 1], &FULL[at + 1 + length..]);
        match Policy::from_json(emptied.as_bytes()) {
            Ok(_) => compiled.push(&FULL[at + 1..at + 1 + length]),
            Err(_) => assert_refused(emptied),
        }
    }
    // These strings may be empty: values of headers and conditions, the path of a check, a gRPC service, and text between
    // quotes in a body.
    let may_be_empty = [
        "/healthz",
        "graygate",
        "/healthz",
        "/ready",
        "shop.Db",
        "",
        "shop.Reviews",
        "reviews",
        "true",
        "always",
        "blue",
        "v2",
        "warming-up",
        "}",
        ":[]}",
    ];
    compiled.retain(|value| !may_be_empty.contains(value));
    assert_eq!(compiled, [""; 0]);
}

#[test]
fn nul_bytes_are_refused() {
    assert_refused(FULL.replace("reviews", "re\\u0000views"));
    assert_refused(FULL.replace("app", "a\0pp"));
    assert_refused(with_get(r#""path":"/\u0000""#));
    assert_refused(with_get(r#""host":"\u0000""#));
    assert_refused(with_get(r#""httpHeaders":[{"name":"\u0000","value":"\u0000"}]"#));
    assert_refused(with_match(r#"{"headers":{"\u0000":{"exact":"\u0000"}}}"#));
}
