//! Matches, in the terms of an Istio `HTTPMatchRequest`. The entries of a list are alternatives, and all conditions of
//! one entry must hold.

use std::borrow::Cow;

use ipnet::IpNet;

use super::document::Node;
use super::format;
use super::host;
use super::keys;
use super::keys::spec::{Format, KeyRule};
use super::reader::{Fields, Value};
use crate::value::authority::Authority;
use crate::value::baggage;
use crate::value::host::Hosts;
use crate::value::request::{self, AUTHORITY, Headers, Request};
use crate::value::string_match::{MAX_STEPS, Pattern, PatternError, StringMatch};

/// A list of alternatives, such as the `match` of a gate. An empty list matches every request for
/// [`hold`](Matches::hold), and none for [`any`](Matches::any).
///
/// # Examples
///
/// ```
/// use graygate::policy::Policy;
/// use graygate::value::request::{Headers, Request};
/// use std::borrow::Cow;
///
/// /// A request with a path and no other header.
/// struct Path(&'static str);
///
/// impl Request for Path {
///     fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
///         (name == ":path").then(|| Cow::Borrowed(self.0.as_bytes()))
///     }
/// }
///
/// let policy = Policy::from_json(
///     br#"{
///         "name": "shop",
///         "upstreams": {"app": {"cluster": "app"}},
///         "gates": [{"upstream": "app", "match": [{"uri": {"prefix": "/api"}}, {"uri": {"exact": "/cart"}}]}]
///     }"#,
/// )?;
/// let matches = &policy.gates[0].matches;
/// assert!(matches.hold(&mut Headers::new(&Path("/api/items?page=2"), &[])));
/// assert!(matches.hold(&mut Headers::new(&Path("/cart"), &[])));
/// assert!(!matches.hold(&mut Headers::new(&Path("/cart/7"), &[])));
/// # Ok::<(), graygate::policy::problem::Problems>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Matches(Vec<RequestMatch>);

/// One alternative: conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct RequestMatch {
    /// The hosts that the request may be for. `None` means any.
    hosts: Option<Hosts>,
    /// A condition on the path without its query.
    uri: Option<StringMatch>,
    ignore_uri_case: bool,
    /// Conditions on pseudo-headers and headers. The method comes first, as it fails soonest.
    headers: Vec<(String, StringMatch)>,
    without_headers: Vec<(String, StringMatch)>,
    query_params: Vec<(String, StringMatch)>,
    /// Conditions on the first value of each cookie.
    cookies: Vec<(String, StringMatch)>,
    /// Conditions on the first well-formed value of each member of `baggage`.
    baggage: Vec<(String, StringMatch)>,
    /// The networks that the request may come from, by its source address as the proxy sees it. Empty means any.
    source_ip_blocks: Vec<IpNet>,
}

/// The longest regular expression, in bytes.
const MAX_PATTERN_BYTES: usize = 1_024;

impl Pattern {
    fn read(value: &Value<'_>, ignore_case: bool) -> Option<Self> {
        let text = value.text()?;
        if text.len() > MAX_PATTERN_BYTES {
            return value.problem(format!("{} bytes; allowed: at most {MAX_PATTERN_BYTES}", text.len()));
        }
        match Pattern::compile(text, ignore_case) {
            Ok(pattern) => Some(pattern),
            Err(PatternError::Invalid(error)) => value.problem(format!(
                "{} is not a valid regular expression: {error}; allowed: {}",
                value.node(),
                Format::Regex
            )),
            Err(PatternError::TooLarge(steps)) => value.problem(format!(
                "the regular expression takes up to {steps} steps for each character; allowed: at most {MAX_STEPS}. Repeat less, or split it into several alternatives."
            )),
            Err(PatternError::Verbose) => value.problem(
                "the regular expression has the flag x, which is unknown to RE2; allowed: i, m, s and U. Write it without blanks and comments.",
            ),
        }
    }
}

/// The kinds of value for which a condition is read. They differ in what a condition may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A path, which every request has.
    Path,
    /// The method, the scheme or an origin. A condition on it holds for no absent value.
    Method,
    /// `:authority`, which is compared as in [`Authority`].
    Authority,
    /// A value that may be absent, such as a header. An empty condition holds for any value.
    Header,
}

impl StringMatch {
    /// Reads `{exact: …}`, `{prefix: …}` or `{regex: …}`.
    fn read(value: &Value<'_>, subject: Subject) -> Option<Self> {
        // As in Istio, a condition that says nothing holds for any value. In YAML, that is a name and a colon.
        if subject.may_be_empty() && matches!(value.node(), Node::Null) {
            return Some(StringMatch::Present);
        }
        Self::read_fields(&value.object()?, subject)
    }

    /// Reads the condition from an object that may have other fields as well. See [`StringMatch::read`].
    pub fn read_fields(fields: &Fields<'_>, subject: Subject) -> Option<Self> {
        match (fields.get("exact"), fields.get("prefix"), fields.get("regex")) {
            // An empty value is valid: `?key` and `?key=` have one.
            (Some(exact), None, None) => match exact.node() {
                Node::Text(text) if subject == Subject::Authority => {
                    let text = Authority::of(text.as_bytes());
                    Some(StringMatch::Exact(String::from_utf8_lossy(text.with_port()).into_owned()))
                }
                Node::Text(text) => Some(StringMatch::Exact(text.clone())),
                _ => exact.refuse(),
            },
            (None, Some(prefix), None) if subject == Subject::Authority => {
                Some(StringMatch::Prefix(prefix.text()?.to_ascii_lowercase()))
            }
            (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix.text()?.to_owned())),
            // Istio's word for any value. It is no regular expression.
            (None, None, Some(regex)) if subject != Subject::Path && regex.is_text("*") => {
                Some(StringMatch::Present)
            }
            (None, None, Some(regex)) => {
                Pattern::read(regex, subject == Subject::Authority).map(StringMatch::Regex)
            }
            (None, None, None) if subject.may_be_empty() => Some(StringMatch::Present),
            // Reported by the table's rule.
            _ => None,
        }
    }
}

impl Subject {
    /// Returns the subject of a condition on this header.
    fn of_header(name: &str) -> Self {
        if name == AUTHORITY { Subject::Authority } else { Subject::Header }
    }

    /// Returns whether a condition may be empty.
    fn may_be_empty(self) -> bool {
        matches!(self, Subject::Header | Subject::Authority)
    }
}

/// A condition on the path without its query, as far as an index can look it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCondition<'m> {
    /// There is no condition, or it cannot be looked up.
    Any,
    /// The path equals this one.
    Exact(&'m str),
    /// The path begins with this one.
    Prefix(&'m str),
}

impl Matches {
    /// Reads a list of `HTTPMatchRequest`s.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let items = value.list()?;
        Some(Self(items.iter().filter_map(RequestMatch::read).collect()))
    }

    /// Returns the number of alternatives. Each further name of a host counts as one.
    pub fn count(&self) -> usize {
        self.0.iter().map(|entry| entry.hosts.as_ref().map_or(1, Hosts::count)).sum()
    }

    /// Returns whether there is no alternative.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether there are alternatives and each says for which hosts it is, be it all of them by `hosts: ["*"]`.
    pub fn name_hosts(&self) -> bool {
        !self.is_empty() && self.0.iter().all(RequestMatch::names_hosts)
    }

    /// Returns one alternative, which is met by the requests for these hosts.
    pub fn of_hosts(hosts: Hosts) -> Self {
        Matches(vec![RequestMatch { hosts: Some(hosts), ..RequestMatch::default() }])
    }

    /// Calls `take` with the conditions on path and authority of each alternative, as far as an index can look them up. An
    /// authority is exact, and `None` means any. An empty list has one entry that matches everywhere.
    pub fn each_lookup<'m>(&'m self, take: &mut dyn FnMut(PathCondition<'m>, Option<&'m str>)) {
        if self.is_empty() {
            take(PathCondition::Any, None);
        }
        for conditions in &self.0 {
            conditions.each_lookup(take);
        }
    }

    /// Returns whether each alternative is a condition on the path that an index can look up, and no other condition.
    pub fn are_looked_up(&self) -> bool {
        !self.is_empty() && self.0.iter().all(RequestMatch::is_looked_up)
    }

    /// Returns whether the request meets at least one alternative, or the list is empty. An alternative with a value that
    /// is too long for its regular expression is not met.
    pub fn hold<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.is_empty() || self.any(request)
    }

    /// Returns whether the request meets at least one alternative. See [`Matches::hold`].
    pub fn any<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.0.iter().any(|conditions| conditions.hold(request, false))
    }

    /// Returns the same as [`Matches::hold`], but an alternative is met if only values that are too long for its regular
    /// expressions could decide otherwise.
    pub fn may_hold<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.is_empty() || self.may_any(request)
    }

    /// Returns whether the request meets at least one alternative. See [`Matches::may_hold`].
    pub fn may_any<'r, R: Request>(&'r self, request: &mut Headers<'r, R>) -> bool {
        self.0.iter().any(|conditions| conditions.hold(request, true))
    }
}

impl RequestMatch {
    fn read(value: &Value<'_>) -> Option<Self> {
        // Without a condition whose value a template did not set, the others would hold for more requests.
        let fields = value.object()?;
        fields.get("name").and_then(Value::text);
        let hosts = fields.optional("hosts", host::read);
        let uri = fields.optional("uri", |value| StringMatch::read(value, Subject::Path));
        let ignore_uri_case = fields.boolean("ignoreUriCase");

        let mut headers = Vec::new();
        for (key, name, subject) in [
            ("method", ":method", Subject::Method),
            ("scheme", ":scheme", Subject::Method),
            ("authority", AUTHORITY, Subject::Authority),
        ] {
            let read = |value: &Value<'_>| match value.node() {
                Node::Null => value.refuse(),
                _ => StringMatch::read(value, subject),
            };
            if let Some(condition) = fields.get(key).and_then(read) {
                headers.push((name.to_owned(), condition));
            }
        }
        headers.extend(read_named(fields.get("headers"), read_header_name));
        let source_ip_blocks = fields.read_list("sourceIpBlocks", Value::network);
        let conditions = RequestMatch {
            hosts: hosts?,
            uri: uri?,
            ignore_uri_case: ignore_uri_case?,
            headers,
            without_headers: read_named(fields.get("withoutHeaders"), read_header_name),
            query_params: read_named(fields.get("queryParams"), |name, _| Some(name.to_owned())),
            cookies: read_named(fields.get("cookies"), |name, _| Some(name.to_owned())),
            baggage: read_named(fields.get("baggage"), read_member_key),
            source_ip_blocks: source_ip_blocks?,
        };
        // An empty map, such as `headers: {}`, is not a condition.
        let maps = ["headers", "withoutHeaders", "queryParams", "cookies", "baggage"];
        let is_empty_map =
            |value: &Value<'_>| matches!(value.node(), Node::Object(fields) if fields.is_empty());
        let given = |key: &&str| fields.has(key);
        if let KeyRule::AtLeastOne(known) = keys::MATCH.rule
            && known.iter().any(given)
            && known
                .iter()
                .filter(|key| given(key))
                .all(|key| maps.contains(key) && fields.get(key).is_some_and(is_empty_map))
        {
            return value.problem("would match every request; add a condition");
        }
        Some(conditions)
    }

    fn each_lookup<'m>(&'m self, take: &mut dyn FnMut(PathCondition<'m>, Option<&'m str>)) {
        let path = self.path_condition();
        let authority = self.headers.iter().find_map(|(name, condition)| match condition {
            StringMatch::Exact(authority) if name == AUTHORITY => Some(authority.as_str()),
            _ => None,
        });
        match &self.hosts {
            Some(hosts) if authority.is_none() && !hosts.has_wildcard() => {
                for name in hosts.names() {
                    take(path, Some(name));
                }
            }
            _ => take(path, authority),
        }
    }

    fn path_condition(&self) -> PathCondition<'_> {
        match &self.uri {
            Some(StringMatch::Exact(path)) if !self.ignore_uri_case => PathCondition::Exact(path),
            Some(StringMatch::Prefix(path)) if !self.ignore_uri_case => PathCondition::Prefix(path),
            _ => PathCondition::Any,
        }
    }

    fn is_looked_up(&self) -> bool {
        let alone = RequestMatch { uri: self.uri.clone(), ..RequestMatch::default() };
        self.path_condition() != PathCondition::Any && *self == alone
    }

    fn names_hosts(&self) -> bool {
        let mut headers = self.headers.iter();
        let is_of_host = |(name, condition): &(String, StringMatch)| {
            name == AUTHORITY && *condition != StringMatch::Present
        };
        self.hosts.is_some() || headers.any(is_of_host)
    }

    /// Returns whether all conditions hold. Stops at the first that fails, as each header that is not read saves a host
    /// call. A condition that cannot be decided counts as `unknown`. See [`decide`].
    fn hold<'r, R: Request>(&'r self, request: &mut Headers<'r, R>, unknown: bool) -> bool {
        let uri = self.uri.as_ref().is_none_or(|condition| {
            let ignore_case = self.ignore_uri_case;
            let holds = if condition.is_regex() {
                decide(request, ":path", condition, ignore_case, |target| {
                    target.map(request::path).map(Cow::Borrowed)
                })
            } else {
                condition.evaluate(request.path(), ignore_case)
            };
            holds.unwrap_or(unknown)
        });
        uri && self.is_for_host(request)
            && self.headers.iter().all(|(name, condition)| {
                decide(request, name, condition, false, |value| value.map(Cow::Borrowed)).unwrap_or(unknown)
            })
            && !self.without_headers.iter().any(|(name, condition)| {
                // As in Istio, a condition on the value takes an absent header as empty.
                let absent = (*condition != StringMatch::Present).then_some(&b""[..]);
                decide(request, name, condition, false, |value| value.or(absent).map(Cow::Borrowed))
                    .unwrap_or(!unknown)
            })
            && self.query_params.iter().all(|(name, condition)| {
                // As in Envoy's routes, the first value counts.
                let holds = decide(request, ":path", condition, false, |target| {
                    request::query_values(target.unwrap_or_default(), name).next().map(Cow::Borrowed)
                });
                holds.unwrap_or(unknown)
            })
            && self.cookies.iter().all(|(name, condition)| {
                let holds = decide(request, "cookie", condition, false, |header| {
                    request::cookie(header?, name).map(Cow::Borrowed)
                });
                holds.unwrap_or(unknown)
            })
            && self.baggage.iter().all(|(key, condition)| {
                let holds =
                    decide(request, baggage::HEADER, condition, false, |header| baggage::value(header?, key));
                holds.unwrap_or(unknown)
            })
            && (self.source_ip_blocks.is_empty() || self.comes_from(request))
    }

    #[inline(never)]
    fn is_for_host<R: Request>(&self, request: &mut Headers<'_, R>) -> bool {
        let Some(hosts) = &self.hosts else {
            return true;
        };
        hosts.include(&Authority::of(request.get(AUTHORITY).unwrap_or_default()))
    }

    fn comes_from<R: Request>(&self, request: &Headers<'_, R>) -> bool {
        let source = request.source();
        source.is_some_and(|source| self.source_ip_blocks.iter().any(|block| block.contains(&source.ip())))
    }
}

/// Returns whether the condition holds for what `select` takes from this header. Returns `None` if the value is too long for
/// a regular expression, or if the request has made too much work of them before.
fn decide<'r, R: Request>(
    request: &mut Headers<'r, R>,
    name: &'r str,
    condition: &StringMatch,
    ignore_case: bool,
    select: impl for<'v> FnOnce(Option<&'v [u8]>) -> Option<Cow<'v, [u8]>>,
) -> Option<bool> {
    if condition.is_regex() && request.has_worked_enough() {
        return None;
    }
    let value = select(request.get(name));
    let value = value.as_deref();
    let work = condition.work(value.map_or(0, <[u8]>::len));
    let holds = match value {
        Some(value) if name == AUTHORITY => Authority::of(value).meets(condition),
        value => condition.evaluate(value, ignore_case),
    };
    request.work(work);
    holds
}

/// Reads a map from names to conditions. Reports each invalid entry and leaves it out.
fn read_named(
    value: Option<&Value<'_>>,
    read_name: fn(&str, &Value<'_>) -> Option<String>,
) -> Vec<(String, StringMatch)> {
    let entries = value.and_then(Value::entries).unwrap_or_default();
    let read = |(key, value): (&str, Value<'_>)| {
        if key.is_empty() || key.contains(|c: char| c.is_control() || c == ' ') {
            return value.at_key().problem("a bad name; use a name without spaces and control characters");
        }
        let name = read_name(key, &value.at_key())?;
        let condition = StringMatch::read(&value, Subject::of_header(&name))?;
        Some((name, condition))
    };
    entries.into_iter().filter_map(read).collect()
}

fn read_member_key(key: &str, value: &Value<'_>) -> Option<String> {
    let valid = format::accepts(Format::MemberKey, key).then(|| key.to_owned());
    valid.or_else(|| value.problem(format!("a bad name; allowed: {}", Format::MemberKey)))
}

/// Returns the name under which the proxy has this header, in lower case. Refuses four names under which Istio would
/// ignore the condition.
fn read_header_name(name: &str, value: &Value<'_>) -> Option<String> {
    match name.to_ascii_lowercase().as_str() {
        name @ ("uri" | "scheme" | "method" | "authority") => {
            value.problem(format!("{name} is not a header; move it one level up, beside headers"))
        }
        name if name.starts_with("@request.auth.claims") => value.problem(
            "not supported: a filter does not see the claims of a token. Match a header that carries the claim, as outputClaimToHeaders of a RequestAuthentication writes it.",
        ),
        name if request::PSEUDO_HEADERS.contains(&name) => Some(name.to_owned()),
        name => value.validate_header_name(name, Format::HeaderName).map(request::canonical_name),
    }
}

#[cfg(test)]
mod tests;
