//! Matches in the terms of an Istio `HTTPMatchRequest`: the entries of a list are alternatives, the
//! conditions of one entry must all hold.

use super::reader::Value;
use crate::request::{self, Headers, Request};

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
}

/// A condition on one string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum StringMatch {
    Present,
    Exact(String),
    Prefix(String),
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
            StringMatch::Prefix(text) => value.get(..text.len()).is_some_and(|start| same(start, text)),
        }
    }

    /// `{exact: …}` or `{prefix: …}`; where `present` is allowed, `{}` stands for any value.
    fn read(value: &Value<'_>, present: bool) -> Option<Self> {
        let fields = value.object(&["exact", "prefix", "regex"])?;
        fields.later("regex", Value::text);
        let text = |key| fields.get(key).map(|value| value.text().map(str::to_owned));
        match (text("exact"), text("prefix"), fields.get("regex")) {
            (Some(exact), None, None) => Some(StringMatch::Exact(exact?)),
            (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix?)),
            (None, None, Some(_)) => None,
            (None, None, None) if present => Some(StringMatch::Present),
            _ => value.refuse("one of exact, prefix"),
        }
    }
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

    /// Whether the request meets one of the alternatives, or there are none to meet.
    pub fn hold<R: Request>(&self, request: &mut Headers<'_, R>) -> bool {
        self.is_empty() || self.any(request)
    }

    /// Whether the request meets one of the alternatives.
    pub fn any<R: Request>(&self, request: &mut Headers<'_, R>) -> bool {
        self.0.iter().any(|conditions| conditions.hold(request))
    }
}

impl RequestMatch {
    fn read(value: &Value<'_>) -> Option<Self> {
        let known =
            ["name", "uri", "ignoreUriCase", "scheme", "method", "authority", "headers", "withoutHeaders"];
        let known = [&known[..], &["queryParams"], &CONTROL_PLANE[..]].concat();
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
        headers.extend(named(fields.get("headers"), str::to_ascii_lowercase));
        let conditions = RequestMatch {
            uri: uri?,
            ignore_uri_case: ignore_uri_case?,
            headers,
            without_headers: named(fields.get("withoutHeaders"), str::to_ascii_lowercase),
            query_params: named(fields.get("queryParams"), str::to_owned),
        };
        let conditional = known.iter().filter(|key| !["name", "ignoreUriCase"].contains(key));
        if !conditional.into_iter().any(|key| fields.get(key).is_some()) {
            return value.problem("would match every request; allowed: at least one condition");
        }
        Some(conditions)
    }

    fn hold<R: Request>(&self, request: &mut Headers<'_, R>) -> bool {
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
    }
}

/// Conditions by name; a bad one is noted and left out.
fn named(value: Option<&Value<'_>>, name: fn(&str) -> String) -> Vec<(String, StringMatch)> {
    let entries = value.and_then(Value::entries);
    let conditions = entries.iter().flat_map(|entries| entries.iter());
    conditions
        .filter_map(|(key, value)| {
            if key.is_empty() || key.contains(|c: char| c.is_control() || c == ' ') {
                return value.problem("a bad name; allowed: a name with no spaces or control characters");
            }
            Some((name(key), StringMatch::read(value, true)?))
        })
        .collect()
}
