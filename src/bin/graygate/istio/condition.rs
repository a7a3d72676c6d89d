//! Conditions of routes, and what is known of the requests that they are held against.

use graygate::policy::document::Node;
use graygate::value::string_match::{Pattern, StringMatch};

use crate::tree::{fields, get, get_text};

/// Whether a condition holds for requests of which only some things are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// For none of them.
    Never,
    /// For some of them.
    Maybe,
    /// For all of them.
    Always,
}

impl Verdict {
    fn of(holds: bool) -> Self {
        if holds { Verdict::Always } else { Verdict::Never }
    }

    fn negated(self) -> Self {
        match self {
            Verdict::Never => Verdict::Always,
            Verdict::Maybe => Verdict::Maybe,
            Verdict::Always => Verdict::Never,
        }
    }
}

/// A condition on a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextMatch<'n> {
    /// The whole value.
    Exact(&'n str),
    /// The beginning of the value.
    Prefix(&'n str),
    /// A pattern for the whole value.
    Regex(&'n str),
    /// Any value.
    Present,
}

impl<'n> TextMatch<'n> {
    /// Reads `{exact: …}`, `{prefix: …}`, `{regex: …}`, or nothing for any value.
    pub fn read(node: &'n Node) -> Self {
        let text = |key| get_text(node, &[key]);
        match (text("exact"), text("prefix"), text("regex")) {
            (Some(exact), _, _) => TextMatch::Exact(exact),
            (None, Some(prefix), _) => TextMatch::Prefix(prefix),
            (None, None, Some("*")) | (None, None, None) => TextMatch::Present,
            (None, None, Some(regex)) => TextMatch::Regex(regex),
        }
    }

    /// Returns whether the condition holds for this value.
    pub fn holds_for(&self, value: &str, ignore_case: bool) -> Verdict {
        let condition = match self {
            TextMatch::Present => return Verdict::Always,
            TextMatch::Exact(text) => StringMatch::Exact((*text).to_owned()),
            TextMatch::Prefix(text) => StringMatch::Prefix((*text).to_owned()),
            TextMatch::Regex(text) => match Pattern::compile(text, ignore_case) {
                Ok(pattern) => StringMatch::Regex(pattern),
                Err(_) => return Verdict::Maybe,
            },
        };
        condition.evaluate(Some(value.as_bytes()), ignore_case).map_or(Verdict::Maybe, Verdict::of)
    }

    /// Returns whether the condition holds for values that meet `given`.
    fn holds_under(&self, given: TextMatch<'_>, ignore_case: bool) -> Verdict {
        let starts = |text: &str, start: &str| {
            let head = text.get(..start.len());
            head.is_some_and(
                |head| if ignore_case { head.eq_ignore_ascii_case(start) } else { head == start },
            )
        };
        match (self, given) {
            (TextMatch::Present, _) => Verdict::Always,
            (_, TextMatch::Exact(value)) => self.holds_for(value, ignore_case),
            (TextMatch::Prefix(text), TextMatch::Prefix(given)) if starts(given, text) => Verdict::Always,
            (TextMatch::Exact(text) | TextMatch::Prefix(text), TextMatch::Prefix(given)) => {
                if starts(text, given) { Verdict::Maybe } else { Verdict::Never }
            }
            _ => Verdict::Maybe,
        }
    }
}

/// One condition of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<'n> {
    /// A header.
    Header {
        /// The path to the condition.
        path: String,
        /// The header's name as it is written.
        name: &'n str,
        /// The condition on its value.
        text: TextMatch<'n>,
        /// Whether the route is for requests that do not meet it.
        negated: bool,
    },
    /// The path of the request.
    Uri {
        /// The condition.
        text: TextMatch<'n>,
        /// Whether case does not count.
        ignore_case: bool,
    },
    /// The method.
    Method(TextMatch<'n>),
    /// The port that the request is for.
    Port(u32),
    /// The gateways that the request came to.
    Gateways(Vec<&'n str>),
    /// The labels of the Pod that sends the request.
    SourceLabels(Vec<(&'n str, &'n str)>),
    /// The namespace of the Pod that sends the request.
    SourceNamespace(&'n str),
    /// A condition on something else.
    Other,
}

/// What is known of requests.
#[derive(Clone, Copy, Default)]
pub struct KnownRequest<'f> {
    /// The header that the filter writes, with values that it may have.
    pub steered: Option<(&'f str, &'f [String])>,
    /// One alternative of the release's `match`.
    pub alternative: Option<&'f Node>,
    /// The port of the service, if the route is for the service's own name.
    pub port: Option<u16>,
    /// Whether the request comes to a gateway.
    pub at_gateway: bool,
    /// The namespace of the sender.
    pub namespace: Option<&'f str>,
    /// The labels of the sender.
    pub labels: &'f [(String, String)],
}

impl Condition<'_> {
    /// Returns whether the condition holds for the requests.
    pub fn verdict(&self, request: &KnownRequest<'_>) -> Verdict {
        let given = |keys: &[&str]| request.alternative.and_then(|node| get(node, keys)).map(TextMatch::read);
        let under = |text: &TextMatch<'_>, given: Option<TextMatch<'_>>, ignore_case| match given {
            Some(given) => text.holds_under(given, ignore_case),
            None if *text == TextMatch::Present => Verdict::Always,
            None => Verdict::Maybe,
        };
        match self {
            Condition::Header { name, text, negated, .. } => {
                let verdict = match request.steered {
                    Some((header, values)) if name.eq_ignore_ascii_case(header) => {
                        let verdicts = || values.iter().map(|value| text.holds_for(value, false));
                        let first = verdicts().next().unwrap_or(Verdict::Maybe);
                        if verdicts().all(|verdict| verdict == first) { first } else { Verdict::Maybe }
                    }
                    _ => {
                        let headers = request.alternative.and_then(|node| get(node, &["headers"]));
                        let given = headers
                            .map(fields)
                            .unwrap_or_default()
                            .iter()
                            .find(|(key, _)| key.eq_ignore_ascii_case(name));
                        // An absent header meets not even the condition for any value.
                        given.map_or(Verdict::Maybe, |(_, node)| {
                            text.holds_under(TextMatch::read(node), false)
                        })
                    }
                };
                if *negated { verdict.negated() } else { verdict }
            }
            Condition::Uri { text: TextMatch::Prefix("/"), .. } => Verdict::Always,
            Condition::Uri { text, ignore_case } => under(text, given(&["uri"]), *ignore_case),
            Condition::Method(text) => under(text, given(&["method"]), false),
            Condition::Port(port) => {
                request.port.map_or(Verdict::Maybe, |known| Verdict::of(u32::from(known) == *port))
            }
            Condition::Gateways(names) => {
                let fits = |name: &&str| (*name == "mesh") != request.at_gateway;
                match (names.iter().any(fits), request.at_gateway) {
                    (false, _) => Verdict::Never,
                    (true, false) => Verdict::Always,
                    // It may be another gateway.
                    (true, true) => Verdict::Maybe,
                }
            }
            Condition::SourceLabels(wanted) => {
                let has = |key: &str| request.labels.iter().find(|(known, _)| known == key);
                let verdicts = wanted.iter().map(|(key, value)| match has(key) {
                    Some((_, known)) => Verdict::of(known == value),
                    None => Verdict::Maybe,
                });
                verdicts.min().unwrap_or(Verdict::Always)
            }
            Condition::SourceNamespace(wanted) => {
                request.namespace.map_or(Verdict::Maybe, |known| Verdict::of(known == *wanted))
            }
            Condition::Other => Verdict::Maybe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn uri(text: TextMatch<'_>) -> Condition<'_> {
        Condition::Uri { text, ignore_case: false }
    }

    #[test]
    fn a_condition_on_the_steer_header_is_decided_by_the_value_that_the_filter_writes() {
        let values = ["v2".to_owned()];
        let known = KnownRequest { steered: Some(("x-v", &values)), ..KnownRequest::default() };
        let header = |name, text, negated| {
            Condition::Header { path: String::new(), name, text, negated }.verdict(&known)
        };
        for (text, expected) in [
            (TextMatch::Exact("v2"), Verdict::Always),
            (TextMatch::Exact("v1"), Verdict::Never),
            (TextMatch::Prefix("v"), Verdict::Always),
            (TextMatch::Regex("v[23]"), Verdict::Always),
            (TextMatch::Regex("v"), Verdict::Never),
            (TextMatch::Regex("("), Verdict::Maybe),
            (TextMatch::Present, Verdict::Always),
        ] {
            assert_eq!(header("X-V", text, false), expected, "{text:?}");
            assert_eq!(header("x-v", text, true), expected.negated(), "{text:?}");
            assert_eq!(header("x-other", text, false), Verdict::Maybe);
        }
    }

    #[test]
    fn a_condition_on_the_path_is_held_against_the_match_of_the_release() {
        let alternative: Node = serde_json::from_value(json!({"uri": {"prefix": "/api/"}})).unwrap();
        let known = KnownRequest { alternative: Some(&alternative), ..KnownRequest::default() };
        for (text, expected) in [
            (TextMatch::Prefix("/"), Verdict::Always),
            (TextMatch::Prefix("/api"), Verdict::Always),
            (TextMatch::Prefix("/api/v1"), Verdict::Maybe),
            (TextMatch::Exact("/api/x"), Verdict::Maybe),
            (TextMatch::Prefix("/static"), Verdict::Never),
            (TextMatch::Exact("/"), Verdict::Never),
            (TextMatch::Regex(".*"), Verdict::Maybe),
        ] {
            assert_eq!(uri(text).verdict(&known), expected, "{text:?}");
            let any = KnownRequest::default();
            let expected = if text == TextMatch::Prefix("/") { Verdict::Always } else { Verdict::Maybe };
            assert_eq!(uri(text).verdict(&any), expected, "{text:?}");
        }
    }

    #[test]
    fn conditions_on_the_sender_are_decided_by_its_namespace_and_labels() {
        let labels = [("app".to_owned(), "a".to_owned())];
        let known = KnownRequest {
            namespace: Some("shop"),
            labels: &labels,
            port: Some(80),
            ..KnownRequest::default()
        };
        for (condition, expected) in [
            (Condition::SourceNamespace("shop"), Verdict::Always),
            (Condition::SourceNamespace("other"), Verdict::Never),
            (Condition::SourceLabels(vec![("app", "a")]), Verdict::Always),
            (Condition::SourceLabels(vec![("app", "b")]), Verdict::Never),
            (Condition::SourceLabels(vec![("app", "a"), ("version", "1")]), Verdict::Maybe),
            (Condition::Port(80), Verdict::Always),
            (Condition::Port(81), Verdict::Never),
            (Condition::Gateways(vec!["public", "mesh"]), Verdict::Always),
            (Condition::Gateways(vec!["public"]), Verdict::Never),
        ] {
            assert_eq!(condition.verdict(&known), expected, "{condition:?}");
        }
    }
}
