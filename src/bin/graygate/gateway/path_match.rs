//! Matches of an HTTPRoute: what they say of the path, the method and the headers of a request.

use graygate::policy::document::Node;
use regex_lite::Regex;

use crate::tree::{get, get_text, items};

/// The condition on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatch<'n> {
    /// The path itself.
    Exact(&'n str),
    /// The path, or one below it.
    Prefix(&'n str),
    /// A regular expression for the whole path.
    Regex(&'n str),
}

/// A condition on a header.
#[derive(Clone, Copy, Debug)]
pub struct HeaderMatch<'n> {
    /// The name.
    pub name: &'n str,
    /// The value, or the regular expression.
    pub value: &'n str,
    is_regex: bool,
}

/// One item of `matches`.
#[derive(Debug)]
pub struct RouteMatch<'n> {
    /// The path.
    pub path: PathMatch<'n>,
    /// The headers.
    pub headers: Vec<HeaderMatch<'n>>,
    /// The method, if it is given.
    pub method: Option<&'n str>,
    /// Whether there are conditions on the query.
    pub has_query: bool,
}

impl PathMatch<'_> {
    /// Returns whether it takes this path.
    pub fn takes(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => *exact == path,
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(regex) => is_whole_match(regex, path),
        }
    }
}

impl HeaderMatch<'_> {
    /// Returns whether it takes this value.
    pub fn takes(&self, value: &str) -> bool {
        if self.is_regex { is_whole_match(self.value, value) } else { self.value == value }
    }

    /// Returns whether it is a condition on this header.
    pub fn is_on(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Returns whether the expression matches the whole text. An expression that is not understood matches nothing.
fn is_whole_match(regex: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(text))
}

impl<'n> RouteMatch<'n> {
    /// Returns the matches of a rule. A rule without any takes every request.
    pub fn all(rule: &'n Node) -> Vec<Self> {
        let matches = items(get(rule, &["matches"]));
        match matches {
            [] => vec![RouteMatch::read(&Node::Null)],
            matches => matches.iter().map(RouteMatch::read).collect(),
        }
    }

    fn read(node: &'n Node) -> Self {
        let value = get_text(node, &["path", "value"]).unwrap_or("/");
        let path = match get_text(node, &["path", "type"]) {
            Some("Exact") => PathMatch::Exact(value),
            Some("RegularExpression") => PathMatch::Regex(value),
            _ => PathMatch::Prefix(value),
        };
        let header = |node: &'n Node| HeaderMatch {
            name: get_text(node, &["name"]).unwrap_or_default(),
            value: get_text(node, &["value"]).unwrap_or_default(),
            is_regex: get_text(node, &["type"]) == Some("RegularExpression"),
        };
        RouteMatch {
            path,
            headers: items(get(node, &["headers"])).iter().map(header).collect(),
            method: get_text(node, &["method"]),
            has_query: !items(get(node, &["queryParams"])).is_empty(),
        }
    }

    /// Returns whether it takes each request with this method and path.
    pub fn takes_all(&self, method: &str, path: &str) -> bool {
        self.headers.is_empty()
            && !self.has_query
            && self.method.is_none_or(|known| known == method)
            && self.path.takes(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> bool {
        let node: Node = serde_json::from_value(json!({"matches": [value]})).unwrap();
        RouteMatch::all(&node)[0].takes_all("GET", "/livez")
    }

    #[test]
    fn a_probe_path_is_taken_by_its_path_a_prefix_of_it_or_an_expression() {
        for (path, kind) in [
            ("/livez", "Exact"),
            ("/livez", "PathPrefix"),
            ("/", "PathPrefix"),
            ("/[a-z]+", "RegularExpression"),
        ] {
            assert!(read(json!({"path": {"type": kind, "value": path}})), "{kind} {path}");
        }
        for (path, kind) in [
            ("/live", "Exact"),
            ("/live", "PathPrefix"),
            ("/livez/", "Exact"),
            ("/[a-y]+", "RegularExpression"),
        ] {
            assert!(!read(json!({"path": {"type": kind, "value": path}})), "{kind} {path}");
        }
        assert!(read(json!({})));
    }

    #[test]
    fn a_rule_with_another_condition_does_not_take_every_probe() {
        assert!(read(json!({"method": "GET"})));
        assert!(!read(json!({"method": "POST"})));
        assert!(!read(json!({"headers": [{"name": "x", "value": "y"}]})));
        assert!(!read(json!({"queryParams": [{"name": "x", "value": "y"}]})));
    }
}
