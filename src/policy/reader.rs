//! Typed reading of a document's values. Each method notes a problem and gives `None` where a value is not
//! of its kind; the caller goes on with the next key, so that one pass finds every problem.

use core::fmt::Display;
use core::net::IpAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use ipnet::IpNet;

use super::document::Node;
use super::problem::ProblemLog;
use crate::value::time::Time;

/// A value of the document and where it stands.
#[derive(Clone)]
pub struct Value<'a> {
    node: &'a Node,
    path: String,
    /// The steps from the root, each counted among its siblings.
    position: Vec<usize>,
    log: &'a ProblemLog,
}

impl<'a> Value<'a> {
    /// The document itself.
    pub fn root(node: &'a Node, log: &'a ProblemLog) -> Self {
        Self { node, path: String::new(), position: Vec::new(), log }
    }

    /// Notes that the value is not one of what is `allowed`.
    pub fn refuse<T>(&self, allowed: impl Display) -> Option<T> {
        self.problem(format!("{} is not allowed; allowed: {allowed}", self.node))
    }

    /// Notes a problem in words of the caller's own.
    pub fn problem<T>(&self, message: impl Display) -> Option<T> {
        self.log.note(&self.position, &self.path, message.to_string());
        None
    }

    /// Whether nothing of the document has been noted so far.
    pub fn is_first_problem(&self) -> bool {
        self.log.is_empty()
    }

    /// The fields of an object. `known` are the keys it may have.
    pub fn object(&self, known: &[&str]) -> Option<Fields<'a>> {
        let fields = self.entries()?;
        for field in &fields.0.entries {
            if !known.contains(&field.0) {
                let message = match nearest(field.0, known) {
                    Some(near) => format!("unknown field; did you mean {near:?}?"),
                    None => format!("unknown field; allowed: {}", known.join(", ")),
                };
                field.1.problem::<()>(message);
            }
        }
        Some(fields.0)
    }

    /// The entries of an object whose keys are the user's own names.
    pub fn entries(&self) -> Option<Entries<'a>> {
        let Node::Object(fields) = self.node else {
            return self.refuse("an object");
        };
        let mut entries: Vec<(&'a str, Value<'a>)> = Vec::with_capacity(fields.len());
        for (index, (key, node)) in fields.iter().enumerate() {
            let value = self.below(node, index, &segment(&self.path, key));
            if entries.iter().any(|(known, _)| known == key) {
                value.problem::<()>("given twice; allowed: once");
            } else {
                entries.push((key, value));
            }
        }
        Some(Entries(Fields { entries, object: self.clone() }))
    }

    /// The items of a list.
    pub fn list(&self) -> Option<Vec<Value<'a>>> {
        let Node::List(items) = self.node else {
            return self.refuse("a list");
        };
        let items = items.iter().enumerate();
        Some(items.map(|(index, node)| self.below(node, index, &format!("[{index}]"))).collect())
    }

    /// A string of at least one character.
    pub fn text(&self) -> Option<&'a str> {
        match self.node {
            Node::Text(text) if !text.is_empty() => Some(text),
            _ => self.refuse("a string, not empty"),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.node {
            Node::Bool(value) => Some(*value),
            _ => self.refuse("true or false"),
        }
    }

    /// A whole number in `range`. `90.0` is one: some hosts keep every number as a float.
    pub fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        self.whole()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .or_else(|| self.refuse(format!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn whole(&self) -> Option<i128> {
        match self.node {
            Node::Integer(number) => Some(*number),
            // Beyond 2^53 a float no longer tells one whole number from the next.
            Node::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i128),
            _ => None,
        }
    }

    /// Seconds as Kubernetes writes them, a number, though fractions are allowed here; to the millisecond.
    pub fn seconds(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let seconds = match self.node {
            Node::Integer(number) => *number as f64,
            Node::Number(number) => *number,
            _ => -1.0,
        };
        // A float beyond the range of the integer saturates, and NaN becomes 0: neither can panic.
        let span = Duration::from_millis((seconds * 1_000.0).round() as u64);
        if seconds >= 0.0 && range.contains(&span) {
            return Some(span);
        }
        let [low, high] = [range.start(), range.end()].map(Duration::as_secs_f64);
        self.refuse(format!("a number of seconds from {low} to {high}"))
    }

    /// A duration as Istio writes it, such as `300ms`, `1.5s` or `1h30m`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let span = match self.node {
            Node::Text(text) => duration(text),
            _ => None,
        };
        span.filter(|span| range.contains(span)).or_else(|| {
            // Zero nanoseconds is no unit that one could write here.
            let low = Some(range.start()).filter(|low| !low.is_zero());
            let low = low.map_or("0s".to_owned(), |low| format!("{low:?}"));
            let high = range.end();
            self.refuse(format!(
                "a duration such as \"300ms\", \"1.5s\" or \"1h30m\", from {low} to {high:?}"
            ))
        })
    }

    /// A point in time in RFC 3339 and in UTC, such as `2026-12-01T10:00:00Z`; to the millisecond.
    pub fn time(&self) -> Option<Time> {
        let time = match self.node {
            Node::Text(text) => Time::from_rfc3339(text),
            _ => None,
        };
        time.or_else(|| self.refuse("a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z"))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.choice_or(choices, "")
    }

    /// The same where it could have been something else, which `others` says.
    pub fn choice_or<T: Copy>(&self, choices: &[(&str, T)], others: &str) -> Option<T> {
        let word = match self.node {
            Node::Text(text) => choices.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let Some((_, choice)) = word else {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let near = match self.node {
                Node::Text(text) => nearest(text, &words),
                _ => None,
            };
            let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            return self.refuse(format!("{}{others}{hint}", words.join(", ")));
        };
        Some(*choice)
    }

    /// A name that goes into logs, metrics, replies and header values. The rule is that of a Kubernetes
    /// label value: up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends.
    pub fn label(&self) -> Option<&'a str> {
        self.text().and_then(|text| {
            if is_label(text) {
                return Some(text);
            }
            self.refuse(LABEL)
        })
    }

    /// The same rule for a `name` that stands elsewhere, such as in the key of this value.
    pub fn as_label<'n>(&self, name: &'n str) -> Option<&'n str> {
        let named = is_label(name).then_some(name);
        named.or_else(|| self.problem(format!("a bad name; allowed: {LABEL}")))
    }

    /// An IP address, or a network as `10.0.0.0/8`.
    pub fn network(&self) -> Option<IpNet> {
        let text = self.text()?;
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.or_else(|| self.refuse("an address or a network, such as 10.0.0.1, 10.0.0.0/8 or ::1/128"))
    }

    /// A DNS label (RFC 1123): up to 63 lower-case letters, digits and `-`, no `-` at an end.
    pub fn dns_label(&self) -> Option<&'a str> {
        let text = self.text()?;
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if is_label(text) && text.bytes().all(lower) {
            return Some(text);
        }
        self.refuse("a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end")
    }

    /// A header name, given back in lower case. Refused: a name that is no HTTP token, and one that the
    /// proxy itself depends on, where the policy would `write` it.
    pub fn header_name(&self, write: bool) -> Option<String> {
        self.as_header_name(self.text()?, write)
    }

    /// The same rule for a `name` that stands elsewhere, such as in the key of this value.
    pub fn as_header_name(&self, name: &str, write: bool) -> Option<String> {
        let name = name.to_ascii_lowercase();
        if !is_token(&name) {
            return self.problem(format!("{} is not a header name; allowed: {TOKEN}", Node::Text(name)));
        }
        if write && PROXY_HEADERS.contains(&name.as_str()) {
            return self.problem(format!(
                "{name:?} is the proxy's own; allowed: any but {}",
                PROXY_HEADERS.join(", ")
            ));
        }
        Some(name)
    }

    /// The name of a cookie: a token, as a header's is, but its case counts.
    pub fn cookie_name(&self) -> Option<&'a str> {
        let name = self.text()?;
        let named = is_token(name).then_some(name);
        named.or_else(|| self.problem(format!("{} is not the name of a cookie; allowed: {TOKEN}", self.node)))
    }

    /// A header value: at most 4 KiB, and no control characters, so that it can't end the header it stands in.
    pub fn header_value(&self) -> Option<&'a str> {
        let Node::Text(text) = self.node else {
            return self.refuse("a string");
        };
        if text.len() > HEADER_VALUE || text.chars().any(char::is_control) {
            return self
                .refuse(format!("a header value: at most {HEADER_VALUE} bytes, no control characters"));
        }
        Some(text)
    }

    /// Headers by name, given back in lower case. `may_write` notes which of them this place may not write.
    pub fn headers(&self, may_write: impl Fn(&Value<'a>, &str) -> bool) -> Option<Vec<(String, String)>> {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in self.entries()?.iter() {
            let Some(name) = value.as_header_name(name, true).filter(|name| may_write(value, name)) else {
                continue;
            };
            let Some(text) = value.header_value() else {
                continue;
            };
            if headers.iter().any(|(known, _)| *known == name) {
                value
                    .problem::<()>(format!("a second header {name:?}, as case does not count; allowed: one"));
            }
            headers.push((name, text.to_owned()));
        }
        self.headers_at_most(headers.len());
        Some(headers)
    }

    /// Notes that `count` headers are more than a policy may add to one message. The proxy takes no map of
    /// more than some thousand, and then leaves all of them out.
    pub fn headers_at_most(&self, count: usize) {
        if count > HEADERS {
            self.problem::<()>(format!("{count} headers; allowed: at most {HEADERS}"));
        }
    }

    /// A request path, without a query: it starts with `/`.
    pub fn path(&self) -> Option<&'a str> {
        let text = self.text()?;
        let clean = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
        if text.starts_with('/') && text.bytes().all(clean) {
            return Some(text);
        }
        self.refuse("a path that starts with \"/\", in visible ASCII, with no \"?\" or \"#\"")
    }

    fn below(&self, node: &'a Node, index: usize, segment: &str) -> Value<'a> {
        let mut position = self.position.clone();
        position.push(index);
        Value { node, path: format!("{}{segment}", self.path), position, log: self.log }
    }

    /// The node itself, for what only some kinds of value share.
    pub fn node(&self) -> &'a Node {
        self.node
    }
}

/// What [`Value::label`] allows, in words.
pub const LABEL: &str =
    "1 to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends";

/// Whether `text` is what [`Value::label`] allows.
pub fn is_label(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

/// What a token is (RFC 9110, section 5.6.2), in words.
const TOKEN: &str = "letters, digits and any of !#$%&'*+-.^_`|~";

fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// The longest header value, in bytes.
const HEADER_VALUE: usize = 4_096;

/// The most headers that a policy adds to one message.
const HEADERS: usize = 50;

/// Headers that frame a message or name its host: a policy may not write them.
const PROXY_HEADERS: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"];

/// The fields of one object.
#[derive(Clone)]
pub struct Fields<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
    object: Value<'a>,
}

impl<'a> Fields<'a> {
    /// The field's value, if it is there.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The field's value; that it is missing is a problem. `allowed` says what belongs there.
    pub fn require(&self, key: &str, allowed: &str) -> Option<&Value<'a>> {
        self.get(key).or_else(|| {
            let path = format!("{}{}", self.object.path, segment(&self.object.path, key));
            let message = format!("missing; allowed: {allowed}");
            self.object.log.note(&self.object.position, &path, message);
            None
        })
    }

    /// What `read` makes of the field, or `default` where the field is not there.
    pub fn read<T>(&self, key: &str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        self.get(key).map_or(Some(default), read)
    }

    /// What `read` makes of each item of the list in the field; empty where the field is not there. A bad
    /// item is noted and left out.
    pub fn each<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.read(key, Vec::new(), |value| Some(value.list()?.iter().filter_map(read).collect()))
    }

    /// Notes this problem with the field, if it is there: it contradicts the rest of the object.
    pub fn contradiction(&self, key: &str, message: &str) {
        if let Some(value) = self.get(key) {
            value.problem::<()>(message);
        }
    }

    /// The object the fields are of.
    pub fn object(&self) -> &Value<'a> {
        &self.object
    }
}

/// The entries of an object with keys of the user's own.
pub struct Entries<'a>(Fields<'a>);

impl<'a> Entries<'a> {
    /// Key and value, in the document's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.0.entries.iter().map(|(key, value)| (*key, value))
    }
}

/// The path segment of a key: `.weight`, or `["a key"]` where a dot would mislead.
pub fn segment(parent: &str, key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match key {
        key if key.is_empty() || key.len() > 64 || !key.bytes().all(plain) => {
            let short: String = key.chars().take(64).collect();
            format!("[{short:?}]")
        }
        key if parent.is_empty() => key.to_owned(),
        key => format!(".{key}"),
    }
}

/// The known word that `word` most likely was meant to be: at most two slips away, and less than half of it.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Slips in case alone are the likeliest of all. A word far too long is no slip, and costly to compare.
    if word.len() > 64 {
        return None;
    }
    let distance =
        |known: &str| strsim::osa_distance(&word.to_ascii_lowercase(), &known.to_ascii_lowercase());
    let (slips, near) =
        known.iter().map(|known| (distance(known), *known)).min_by_key(|(slips, _)| *slips)?;
    (slips <= 2 && slips * 2 < near.len()).then_some(near)
}

/// Reads a duration: one or more of a decimal number and a unit (`h`, `m`, `s`, `ms`), to the millisecond.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(times(number, millis)?))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// So many times a decimal number, rounded. As whole numbers: to read floats takes tables of ten kilobytes.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than these make no difference.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let parts = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = (read(fraction)? * unit + parts / 2) / parts;
    let sum = read(whole)?.checked_mul(unit)?.checked_add(part)?;
    (!whole.is_empty() || !fraction.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_are_read_as_istio_writes_them() {
        for (text, millis) in [
            ("0s", 0),
            ("300ms", 300),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            (".5s", 500),
            ("2.s", 2_000),
            ("0.0005s", 1),
            ("0.0004999s", 0),
            ("0.5ms", 1),
            ("1.00000000099h", 3_600_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1d",
            ".s",
            "99999999999999999999s",
            "9999999999999999999h",
            "1..5s",
            "1e3s",
            "5s5",
            "é",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_slip_gets_a_suggestion_and_a_stranger_none() {
        let known = ["weight", "default", "match"];
        assert_eq!(nearest("wieght", &known), Some("weight"));
        assert_eq!(nearest("Weight", &known), Some("weight"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn labels_are_what_kubernetes_takes_as_a_label_value() {
        for text in ["v1", "v1.2_rc-3", "A"] {
            assert!(is_label(text), "{text}");
        }
        for text in ["", "-v1", "v1-", "v 1", "v1|", "é", &"a".repeat(64)] {
            assert!(!is_label(text), "{text}");
        }
    }
}
