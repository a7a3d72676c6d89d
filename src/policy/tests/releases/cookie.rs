//! Tests of `hashOn[].httpCookie`.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn issue(fields: &str) -> Option<Issue> {
    let policy = compile(&with_cookie(&format!(r#""name":"id",{fields}"#)));
    policy.releases[0].issues()?.issue.clone()
}

#[test]
fn a_cookie_with_a_ttl_is_issued_with_default_attributes() {
    let plain = Issue {
        ttl: Duration::from_secs(3_600),
        path: "/".into(),
        domain: None,
        secure: false,
        http_only: true,
        same_site: "Lax",
        partitioned: false,
    };
    assert_eq!(issue(r#""ttl":"1h""#), Some(plain.clone()));
    // Without these two, scripts can read the cookie and other sites' pages send it.
    let open = r#""ttl":"1h","httpOnly":false,"sameSite":"None","secure":true"#;
    assert_eq!(
        issue(open),
        Some(Issue { http_only: false, same_site: "None", secure: true, ..plain.clone() })
    );
    let partitioned = r#""ttl":"1h","partitioned":true,"secure":true"#;
    assert_eq!(
        issue(partitioned),
        Some(Issue { same_site: "None", secure: true, partitioned: true, ..plain })
    );
}

#[test]
fn an_issued_cookie_has_the_documents_attributes() {
    let all = r#""ttl":"0s","path":"/shop","domain":"Example.com","secure":true,"httpOnly":true,"sameSite":"None","partitioned":true"#;
    let full = Issue {
        ttl: Duration::ZERO,
        path: "/shop".into(),
        domain: Some("example.com".into()),
        secure: true,
        http_only: true,
        same_site: "None",
        partitioned: true,
    };
    assert_eq!(issue(all), Some(full));
}

#[test]
fn a_cookie_without_a_ttl_is_not_issued_and_has_no_attributes() {
    let attributes = [
        r#""path":"/""#,
        r#""domain":"a""#,
        r#""secure":false"#,
        r#""httpOnly":true"#,
        r#""sameSite":"Lax""#,
        r#""partitioned":true"#,
    ];
    for attribute in attributes {
        let key = attribute.split('"').nth(1).unwrap();
        assert_problem_of_release(&[(
            with_cookie(&format!(r#""name":"id",{attribute}"#)),
            &format!("hashOn[0].httpCookie.{key}: has no effect alone; add ttl"),
        )]);
    }
    assert_eq!(compile(&with_cookie(r#""name":"id""#)).releases[0].issues(), None);
}

#[test]
fn a_cookie_lives_at_most_400_days() {
    assert_compiles(&[with_cookie(r#""name":"id","ttl":"9600h""#)]);
    assert_problem_of_release(&[(
        with_cookie(r#""name":"id","ttl":3600"#),
        r#"hashOn[0].httpCookie.ttl: 3600 has no unit. Write "3600s" for seconds."#,
    )]);
    for ttl in [r#""9600h1ms""#, r#""-1s""#, r#""1d""#] {
        assert_problem_of_release(&[(
            with_cookie(&format!(r#""name":"id","ttl":{ttl}"#)),
            &format!(
                r#"hashOn[0].httpCookie.ttl: {ttl} is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 0s to 9600h"#
            ),
        )]);
    }
}

#[test]
fn attributes_have_the_values_that_browsers_know() {
    let path = "allowed: a path that starts with \"/\", in visible ASCII, with no \"?\" or \"#\"";
    let rows = [
        (r#""path":"shop""#, format!(r#"path: "shop" is not allowed; {path}"#)),
        (
            r#""path":"/a;b""#,
            r#"path: has a ";", which would end the attribute; use a path without it"#.into(),
        ),
        (r#""domain":"""#, r#"domain: "" is not allowed; allowed: a domain such as example.com"#.into()),
        (r#""secure":"yes""#, r#"secure: "yes" is not allowed; allowed: true or false"#.into()),
        (r#""httpOnly":1"#, "httpOnly: 1 is not allowed; allowed: true or false".into()),
        (
            r#""sameSite":"lax""#,
            r#"sameSite: "lax" is not allowed; allowed: Lax, Strict, None; did you mean "Lax"?"#.into(),
        ),
    ];
    let domains = [".example.com", "example.com.", "a;b", "a b", "https://a", "a:80", "exämple.com"];
    let domains = domains.map(|domain| {
        let problem = format!(r#"domain: "{domain}" is not allowed; allowed: a domain such as example.com"#);
        (format!(r#""domain":"{domain}""#), problem)
    });
    let rows = rows.map(|(field, problem)| (field.to_owned(), problem));
    for (field, problem) in rows.iter().chain(&domains) {
        assert_problem_of_release(&[(
            with_cookie(&format!(r#""name":"id","ttl":"1h",{field}"#)),
            &format!("hashOn[0].httpCookie.{problem}"),
        )]);
    }
}

#[test]
fn a_cookie_that_browsers_would_reject_is_refused() {
    let prefix = "name: browsers accept this prefix only with secure. Add secure: true.";
    let host = "name: browsers accept __Host- only with path / and without a domain. Remove path and domain.";
    for (fields, problem) in [
        (
            r#""name":"id","sameSite":"None""#,
            "sameSite: browsers accept None only with secure. Add secure: true, or use Lax or Strict.",
        ),
        (
            r#""name":"id","partitioned":true,"secure":false"#,
            "partitioned: browsers accept it only with secure. Add secure: true.",
        ),
        (r#""name":"__Secure-id""#, prefix),
        (r#""name":"__Host-id""#, prefix),
        (r#""name":"__Host-id","secure":true,"domain":"a.b""#, host),
        (r#""name":"__Host-id","secure":true,"path":"/shop""#, host),
    ] {
        assert_problem_of_release(&[(
            with_cookie(&format!(r#"{fields},"ttl":"1h""#)),
            &format!("hashOn[0].httpCookie.{problem}"),
        )]);
    }
    assert_compiles(&[
        with_cookie(r#""name":"id","ttl":"1h","secure":true,"sameSite":"None","partitioned":true"#),
        with_cookie(r#""name":"__Secure-id","ttl":"1h","secure":true,"domain":"a.b","path":"/shop""#),
        with_cookie(r#""name":"__Host-id","ttl":"1h","secure":true,"path":"/""#),
        with_cookie(r#""name":"__Host-id""#),
    ]);
}

#[test]
fn an_unknown_attribute_or_a_missing_name_is_refused() {
    assert_problem_of_release(&[
        (
            with_cookie(r#""name":"id","ttl":"1h","maxAge":1"#),
            "hashOn[0].httpCookie.maxAge: unknown field; allowed: name, ttl, path, domain, secure, httpOnly, sameSite, partitioned",
        ),
        (
            with_cookie(r#""ttl":"1h""#),
            "hashOn[0].httpCookie.name: missing; add the name of a cookie: letters, digits and any of !#$%&'*+-.^_`|~",
        ),
    ]);
}

#[test]
fn the_name_is_a_token_and_keeps_its_case() {
    let Key::Cookie(cookie) = &compile(&with_cookie(r#""name":"Id!""#)).releases[0].keys[0] else {
        panic!("not a cookie");
    };
    assert_eq!(cookie.name, "Id!");
    for name in ["A;B", "A B", "A=B", "Ä"] {
        assert_problem_of_release(&[(
            with_cookie(&format!(r#""name":"{name}""#)),
            &format!(
                r#"hashOn[0].httpCookie.name: "{name}" is not allowed; allowed: the name of a cookie: letters, digits and any of !#$%&'*+-.^_`|~"#
            ),
        )]);
    }
}

#[test]
fn a_release_issues_at_most_one_cookie() {
    let keys = |keys: &str| with(&format!(r#""hashOn":[{keys}]"#));
    let (a, b) = (r#"{"httpCookie":{"name":"a","ttl":"1h"}}"#, r#"{"httpCookie":{"name":"b","ttl":"1h"}}"#);
    let problem = "a second cookie with ttl would never be issued; keep one";
    let between = r#"{"httpHeaderName":"x-user"},{"httpCookie":{"name":"c"}}"#;
    assert_problem_of_release(&[
        (keys(&format!("{a},{b}")), &format!("hashOn[1]: {problem}")),
        (keys(&format!("{a},{between},{b}")), &format!("hashOn[3]: {problem}")),
    ]);
    compile(&keys(&format!("{between},{a}")));
}
