//! Matches in the terms of an Istio `HTTPMatchRequest`: the entries of a list are alternatives, the
//! conditions of one entry must all hold.

use core::hash::{Hash, Hasher};

use ipnet::IpNet;
use regex_lite::{Regex, RegexBuilder};

use super::document::Node;
use super::reader::Value;
use crate::value::request::{self, Headers, Request};

/// Alternatives. An empty list, or none, matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Matches(Vec<RequestMatch>);

/// What one request must meet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct RequestMatch {
    /// Against the path without its query.
    uri: Option<StringMatch>,
    ignore_uri_case: bool,
    /// Conditions on pseudo-headers and headers, in the order that fails soonest: method first.
    headers: Vec<(String, StringMatch)>,
    without_headers: Vec<(String, StringMatch)>,
    query_params: Vec<(String, StringMatch)>,
    /// On the first value of each.
    cookies: Vec<(String, StringMatch)>,
    /// Where the request comes from, as the proxy sees it. Empty: anywhere.
    source_ip_blocks: Vec<IpNet>,
}

/// A condition on one string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum StringMatch {
    Present,
    Exact(String),
    Prefix(String),
    Regex(Pattern),
}

/// A regular expression that the whole of a value must match, as in Istio. Two are the same if their text is.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    compiled: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// The longest regular expression, in bytes.
const PATTERN: usize = 1_024;

/// The most memory that a compiled one may take, in bytes. The time to match goes by it, too.
const COMPILED: usize = 64 * 1_024;

/// The longest value that is matched, in bytes: the time to match grows with it, and clients choose it.
const MATCHED: usize = 4_096;

impl Pattern {
    fn read(value: &Value<'_>) -> Option<Self> {
        let text = value.text()?;
        if text.len() > PATTERN {
            return value.problem(format!("{} bytes; allowed: at most {PATTERN}", text.len()));
        }
        match RegexBuilder::new(&format!("^(?:{text})$")).size_limit(COMPILED).build() {
            Ok(compiled) => Some(Pattern { text: text.to_owned(), compiled }),
            Err(error) => value.problem(format!(
                "{} is no regular expression: {error}; allowed: RE2's syntax without Unicode classes, as regex-lite has it",
                value.node()
            )),
        }
    }

    /// Text alone can match: what is no UTF-8 does not. Nor does a value that is too long.
    fn matches(&self, value: &[u8]) -> bool {
        let text = core::str::from_utf8(value).ok().filter(|text| text.len() <= MATCHED);
        text.is_some_and(|text| self.compiled.is_match(text))
    }
}

impl StringMatch {
    fn holds(&self, value: Option<&[u8]>, ignore_case: bool) -> bool {
        let Some(value) = value else {
            return false;
        };
        let same = |value: &[u8], text: &str| match ignore_case {
            true => value.eq_ignore_ascii_case(text.as_bytes()),
            false => value == text.as_bytes(),
        };
        match self {
            StringMatch::Present => true,
            StringMatch::Exact(text) => same(value, text),
            StringMatch::Regex(pattern) => pattern.matches(value),
            StringMatch::Prefix(text) => value.get(..text.len()).is_some_and(|start| same(start, text)),
        }
    }

    /// `{exact: …}`, `{prefix: …}` or `{regex: …}`; where `present` is allowed, `{}` stands for any value.
    fn read(value: &Value<'_>, present: bool) -> Option<Self> {
        let fields = value.object(&["exact", "prefix", "regex"])?;
        match (fields.get("exact"), fields.get("prefix"), fields.get("regex")) {
            // Empty is a value like any other: `?key` and `?key=` have it.
            (Some(exact), None, None) if *exact.node() == Node::Text(String::new()) => {
                Some(StringMatch::Exact(String::new()))
            }
            (Some(exact), None, None) => Some(StringMatch::Exact(exact.text()?.to_owned())),
            (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix.text()?.to_owned())),
            (None, None, Some(regex)) => Pattern::read(regex).map(StringMatch::Regex),
            (None, None, None) if present => Some(StringMatch::Present),
            _ => value.refuse("one of exact, prefix, regex"),
        }
    }
}

/// What a condition says of the path, its query aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCondition<'m> {
    /// Nothing, or nothing that can be looked up.
    Any,
    /// It is this.
    Exact(&'m str),
    /// It begins with this.
    Prefix(&'m str),
}

/// Keys of an Istio `HTTPMatchRequest` that name what only a control plane knows.
const CONTROL_PLANE: [&str; 5] = ["sourceLabels", "sourceNamespace", "gateways", "statPrefix", "port"];

impl Matches {
    /// Reads a list of `HTTPMatchRequest`s.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let items = value.list()?;
        Some(Self(items.iter().filter_map(RequestMatch::read).collect()))
    }

    /// Whether there is no condition at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What each alternative says of path and authority, as far as it can be looked up.
    pub fn lookup_conditions(&self) -> impl Iterator<Item = (PathCondition<'_>, Option<&str>)> {
        let everywhere = self.is_empty().then_some((PathCondition::Any, None));
        self.0.iter().map(RequestMatch::lookup_condition).chain(everywhere)
    }

    /// Whether the request meets one of the alternatives, or there are none to meet.
    pub fn hold<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.is_empty() || self.any(request)
    }

    /// Whether the request meets one of the alternatives.
    pub fn any<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.0.iter().any(|conditions| conditions.hold(request))
    }
}

impl RequestMatch {
    fn read(value: &Value<'_>) -> Option<Self> {
        let known =
            ["name", "uri", "ignoreUriCase", "scheme", "method", "authority", "headers", "withoutHeaders"];
        // The last two are not Istio's: it has no cookies but in a header's text, and this name elsewhere.
        let own = ["queryParams", "cookies", "sourceIpBlocks"];
        let known = [&known[..], &own, &CONTROL_PLANE[..]].concat();
        let fields = value.object(&known)?;
        for key in CONTROL_PLANE {
            if let Some(value) = fields.get(key) {
                value.problem::<()>(
                    "not supported: a filter does not see what this names; allowed: leave it out",
                );
            }
        }
        fields.get("name").and_then(Value::text);
        let string = |value: &Value<'_>| StringMatch::read(value, false);
        let uri = fields.read("uri", None, |value| string(value).map(Some));
        let ignore_uri_case = fields.read("ignoreUriCase", false, Value::boolean);

        let mut headers = Vec::new();
        for (key, pseudo) in [("method", ":method"), ("scheme", ":scheme"), ("authority", ":authority")] {
            if let Some(condition) = fields.get(key).and_then(string) {
                headers.push((pseudo.to_owned(), condition));
            }
        }
        headers.extend(named(fields.get("headers"), header));
        let source_ip_blocks = fields.read("sourceIpBlocks", Vec::new(), |value| match value.list()? {
            items if items.is_empty() => value.problem("an empty list; allowed: at least one network"),
            items => Some(items.iter().filter_map(Value::network).collect()),
        });
        let conditions = RequestMatch {
            uri: uri?,
            ignore_uri_case: ignore_uri_case?,
            headers,
            without_headers: named(fields.get("withoutHeaders"), header),
            query_params: named(fields.get("queryParams"), |name, _| Some(name.to_owned())),
            cookies: named(fields.get("cookies"), |name, _| Some(name.to_owned())),
            source_ip_blocks: source_ip_blocks?,
        };
        let conditional = known.iter().filter(|key| !["name", "ignoreUriCase"].contains(key));
        // `headers: {}` is no condition either.
        let maps = ["headers", "withoutHeaders", "queryParams", "cookies"];
        let empty = |key: &str| {
            let value = fields.get(key).filter(|_| maps.contains(&key));
            value.is_some_and(|value| matches!(value.node(), Node::Object(fields) if fields.is_empty()))
        };
        if !conditional.into_iter().any(|key| fields.get(key).is_some() && !empty(key)) {
            return value.problem("would match every request; allowed: at least one condition");
        }
        Some(conditions)
    }

    fn lookup_condition(&self) -> (PathCondition<'_>, Option<&str>) {
        let path = match &self.uri {
            Some(StringMatch::Exact(path)) if !self.ignore_uri_case => PathCondition::Exact(path),
            Some(StringMatch::Prefix(path)) if !self.ignore_uri_case => PathCondition::Prefix(path),
            _ => PathCondition::Any,
        };
        let authority = self.headers.iter().find_map(|(name, condition)| match condition {
            StringMatch::Exact(authority) if name == ":authority" => Some(authority.as_str()),
            _ => None,
        });
        (path, authority)
    }

    /// Conditions on one thing come together, and none is looked at once another has failed: each header
    /// that is not asked for saves a host call.
    fn hold<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        let uri = self.uri.as_ref().is_none_or(|condition| {
            let path = request.get(":path").map(request::path);
            condition.holds(path, self.ignore_uri_case)
        });
        uri && self.headers.iter().all(|(name, condition)| condition.holds(request.get(name), false))
            && !self.without_headers.iter().any(|(name, condition)| condition.holds(request.get(name), false))
            && self.query_params.iter().all(|(name, condition)| {
                let target = request.get(":path").unwrap_or_default();
                request::query_values(target, name).any(|value| condition.holds(Some(value), false))
            })
            && self.cookies.iter().all(|(name, condition)| condition.holds(request.cookie(name), false))
            && (self.source_ip_blocks.is_empty() || self.comes_from(request))
    }

    fn comes_from<R: Request>(&self, request: &Headers<'_, R>) -> bool {
        let source = request.source();
        source.is_some_and(|source| self.source_ip_blocks.iter().any(|block| block.contains(&source.ip())))
    }
}

/// Conditions by name; a bad one is noted and left out.
fn named(
    value: Option<&Value<'_>>,
    name: fn(&str, &Value<'_>) -> Option<String>,
) -> Vec<(String, StringMatch)> {
    let entries = value.and_then(Value::entries);
    let conditions = entries.iter().flat_map(|entries| entries.iter());
    conditions
        .filter_map(|(key, value)| {
            if key.is_empty() || key.contains(|c: char| c.is_control() || c == ' ') {
                return value.problem("a bad name; allowed: a name with no spaces or control characters");
            }
            Some((name(key, value)?, StringMatch::read(value, true)?))
        })
        .collect()
}

/// The name of a header, in lower case. Under these four, Istio would ignore the condition.
fn header(name: &str, value: &Value<'_>) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if ["uri", "scheme", "method", "authority"].contains(&name.as_str()) {
        return value.problem(format!("{name} is no header; allowed: {name} beside headers"));
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::policy::problem::ProblemLog;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct Get(Vec<(&'static str, &'static [u8])>);

    impl Request for Get {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(*value))
        }
    }

    fn matches(text: &str) -> Matches {
        let node: Node = serde_json::from_str(text).unwrap();
        let log = ProblemLog::default();
        let matches = Matches::read(&Value::root(&node, &log));
        log.finish(matches).unwrap()
    }

    /// Whether a GET of `path` with these headers meets the conditions.
    fn holds(conditions: &str, path: &'static str, headers: &[(&'static str, &'static [u8])]) -> bool {
        let mut all: Vec<(&str, &[u8])> = vec![
            (":path", path.as_bytes()),
            (":method", b"GET"),
            (":scheme", b"http"),
            (":authority", b"shop:80"),
        ];
        all.extend(headers);
        matches(conditions).hold(&mut Headers::new(&Get(all), &[]))
    }

    #[test]
    fn no_conditions_hold_for_every_request_but_name_none() {
        assert!(holds("[]", "/", &[]));
        assert!(!matches("[]").any(&mut Headers::new(&Get(Vec::new()), &[])));
    }

    #[test]
    fn entries_are_alternatives_and_their_conditions_must_all_hold() {
        let either = r#"[{"uri":{"exact":"/a"},"headers":{"x":{"exact":"1"}}},{"uri":{"exact":"/b"}}]"#;
        assert!(holds(either, "/a", &[("x", b"1")]));
        assert!(!holds(either, "/a", &[("x", b"2")]));
        assert!(holds(either, "/b", &[]));
        assert!(!holds(either, "/c", &[("x", b"1")]));
    }

    #[test]
    fn a_uri_is_a_path_without_its_query() {
        assert!(holds(r#"[{"uri":{"exact":"/a"}}]"#, "/a?b=c", &[]));
        assert!(!holds(r#"[{"uri":{"exact":"/a"}}]"#, "/a/", &[]));
        assert!(holds(r#"[{"uri":{"prefix":"/a"}}]"#, "/abc", &[]));
        assert!(!holds(r#"[{"uri":{"prefix":"/a?b"}}]"#, "/a?b=c", &[]));
        assert!(!holds(r#"[{"uri":{"prefix":"/abc"}}]"#, "/ab", &[]));
    }

    #[test]
    fn ignore_uri_case_is_for_the_uri_alone() {
        let any_case = r#"[{"uri":{"prefix":"/API"},"ignoreUriCase":true,"headers":{"x":{"exact":"A"}}}]"#;
        assert!(holds(any_case, "/api/v1", &[("x", b"A")]));
        assert!(!holds(any_case, "/api/v1", &[("x", b"a")]));
        assert!(!holds(r#"[{"uri":{"prefix":"/API"}}]"#, "/api", &[]));
    }

    #[test]
    fn method_scheme_and_authority_are_conditions_of_their_own() {
        assert!(holds(r#"[{"method":{"exact":"GET"},"scheme":{"exact":"http"}}]"#, "/", &[]));
        assert!(!holds(r#"[{"method":{"exact":"get"}}]"#, "/", &[]));
        assert!(!holds(r#"[{"scheme":{"exact":"https"}}]"#, "/", &[]));
        assert!(holds(r#"[{"authority":{"exact":"shop:80"}}]"#, "/", &[]));
        assert!(holds(r#"[{"authority":{"prefix":"shop"}}]"#, "/", &[]));
        assert!(!holds(r#"[{"authority":{"exact":"shop"}}]"#, "/", &[]));
    }

    #[test]
    fn header_names_have_no_case_and_their_values_do() {
        assert!(holds(r#"[{"headers":{"X-Tester":{"exact":"Yes"}}}]"#, "/", &[("x-tester", b"Yes")]));
        assert!(!holds(r#"[{"headers":{"X-Tester":{"exact":"Yes"}}}]"#, "/", &[("x-tester", b"yes")]));
        assert!(!holds(r#"[{"headers":{"x-tester":{"exact":"Yes"}}}]"#, "/", &[]));
    }

    #[test]
    fn an_empty_condition_is_met_by_any_value() {
        let present = r#"[{"headers":{"x":{}}}]"#;
        assert!(holds(present, "/", &[("x", b"")]));
        assert!(holds(present, "/", &[("x", b"1")]));
        assert!(!holds(present, "/", &[]));
    }

    #[test]
    fn a_regex_must_match_the_whole_value_and_text_alone_can() {
        let header = r#"[{"headers":{"x":{"regex":"v[0-9]+|canary"}}}]"#;
        for (value, matches) in [
            (&b"v12"[..], true),
            (b"canary", true),
            (b"v", false),
            (b"xv1", false),
            (b"v1x", false),
            (b"v1\xff", false),
        ] {
            assert_eq!(holds(header, "/", &[("x", value)]), matches, "{value:?}");
        }
        assert!(holds(r#"[{"uri":{"regex":"/users/[^/]+/orders"}}]"#, "/users/7/orders?x=1", &[]));
        assert!(!holds(r#"[{"uri":{"regex":"/users/[^/]+/orders"}}]"#, "/users/7/8/orders", &[]));
        assert!(holds(r#"[{"uri":{"regex":"(?i)/API.*"}}]"#, "/api/v1", &[]));
        assert!(holds(r#"[{"queryParams":{"a":{"regex":"1|2"}}}]"#, "/?a=3&a=2", &[]));
        let any = r#"[{"headers":{"x":{"regex":"a*"}}}]"#;
        assert!(holds(any, "/", &[("x", &[b'a'; 4_096])]));
        assert!(!holds(any, "/", &[("x", &[b'a'; 4_097])]));
        // As in Istio, the case of a regular expression is its own matter.
        assert!(!holds(r#"[{"uri":{"regex":"/API"},"ignoreUriCase":true}]"#, "/api", &[]));
        assert!(!holds(r#"[{"withoutHeaders":{"x":{"regex":".*"}}}]"#, "/", &[("x", b"")]));
    }

    #[test]
    fn no_header_of_without_headers_may_match() {
        let without = r#"[{"withoutHeaders":{"x":{"exact":"1"},"y":{}}}]"#;
        assert!(holds(without, "/", &[]));
        assert!(holds(without, "/", &[("x", b"2")]));
        assert!(!holds(without, "/", &[("x", b"1")]));
        assert!(!holds(without, "/", &[("x", b"2"), ("y", b"")]));
    }

    #[test]
    fn query_parameters_must_all_hold() {
        let both = r#"[{"queryParams":{"a":{"exact":"1"},"B":{}}}]"#;
        assert!(holds(both, "/p?a=1&B", &[]));
        assert!(holds(both, "/p?B=x&a=1", &[]));
        assert!(!holds(both, "/p?a=1&b", &[]));
        assert!(!holds(both, "/p?a=11&B", &[]));
        assert!(!holds(both, "/p", &[]));
        assert!(holds(r#"[{"queryParams":{"a":{"prefix":"1"}}}]"#, "/p?a=11", &[]));
        assert!(holds(r#"[{"queryParams":{"a":{"exact":""}}}]"#, "/p?a", &[]));
        assert!(!holds(r#"[{"queryParams":{"a":{"exact":""}}}]"#, "/p?a=1", &[]));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_compared_as_they_are() {
        assert!(!holds(r#"[{"headers":{"x":{"exact":"é"}}}]"#, "/", &[("x", b"\xe9")]));
        assert!(holds(r#"[{"headers":{"x":{"exact":"é"}}}]"#, "/", &[("x", b"\xc3\xa9")]));
        assert!(holds(r#"[{"headers":{"x":{"prefix":"é"}}}]"#, "/", &[("x", b"\xc3\xa9\xff")]));
        assert!(!holds(r#"[{"headers":{"x":{"prefix":"é"}}}]"#, "/", &[("x", b"\xc3")]));
        assert!(holds(r#"[{"headers":{"x":{}}}]"#, "/", &[("x", b"\xff\xfe\0")]));
    }

    #[test]
    fn a_request_with_no_path_meets_no_condition_on_it() {
        for conditions in [r#"[{"uri":{"prefix":"/"}}]"#, r#"[{"queryParams":{"a":{}}}]"#] {
            assert!(!matches(conditions).hold(&mut Headers::new(&Get(Vec::new()), &[])));
        }
    }
}
