//! Typed access to the values of a document.
//!
//! Each reading method returns `None` and reports a problem if the value is not of the kind or in the range that it
//! wants. The caller continues with the next key, so one pass finds every problem.

use core::fmt::Display;
use core::net::IpAddr;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::BTreeSet;
use std::rc::Rc;

use ipnet::IpNet;

use super::document::Node;
use super::keys::NOT_NULL;
use super::keys::spec::ObjectSpec;
use super::problem::{Position, ProblemLog};
use crate::value::date::Date;
use crate::value::host::MeshPlace;

/// A value of the document, with its place in it.
#[derive(Clone)]
pub struct Value<'a> {
    node: &'a Node,
    /// The place of the value. `None` for the document itself.
    place: Option<Rc<Place<'a>>>,
    /// Whether problems are with the key of the value.
    is_key: bool,
    log: &'a ProblemLog,
    proxy: Option<&'a MeshPlace<'a>>,
}

/// The place of a value below another one. Its path is put together only for a message, as a document has many values
/// and few problems.
struct Place<'a> {
    parent: Option<Rc<Place<'a>>>,
    /// The index among the siblings.
    index: usize,
    /// The key, or `None` for an item of a list.
    key: Option<&'a str>,
}

impl<'a> Value<'a> {
    /// Returns the document itself as a value.
    pub fn root(node: &'a Node, log: &'a ProblemLog) -> Self {
        Self { node, place: None, is_key: false, log, proxy: None }
    }

    /// Returns the value, to be read for a proxy at this place in a mesh.
    pub fn for_proxy(self, proxy: Option<&'a MeshPlace<'a>>) -> Self {
        Self { proxy, ..self }
    }

    /// Returns the value, with problems that are about its key.
    pub fn at_key(&self) -> Self {
        Self { is_key: true, ..self.clone() }
    }

    /// Returns the place in a mesh of the proxy that the document is read for, if it is known.
    pub fn proxy(&self) -> Option<MeshPlace<'a>> {
        self.proxy.copied()
    }

    /// Reports that the value is not what is `allowed`. Returns `None`.
    pub fn refuse<T>(&self, allowed: impl Display) -> Option<T> {
        self.note(None, &format_args!("{} is not allowed; allowed: {allowed}", self.node));
        None
    }

    /// Reports a problem with this message. Returns `None`.
    pub fn problem<T>(&self, message: impl Display) -> Option<T> {
        self.note(None, &message);
        None
    }

    /// Reports a problem with the value, or with its field of this name. There are calls in hundreds of places, so it is
    /// one function for all types of messages.
    #[inline(never)]
    fn note(&self, field: Option<&str>, message: &dyn Display) {
        let mut places = Vec::new();
        let mut next = self.place.as_deref();
        while let Some(place) = next {
            places.push(place);
            next = place.parent.as_deref();
        }
        let mut path = String::new();
        let mut steps = Vec::with_capacity(places.len());
        for place in places.iter().rev() {
            path += &match place.key {
                Some(key) => segment(&path, key),
                None => format!("[{}]", place.index),
            };
            steps.push(place.index);
        }
        if let Some(field) = field {
            path += &segment(&path, field);
        }
        let is_key = self.is_key && field.is_none();
        self.log.note(Position { steps, is_key }, &path, message.to_string());
    }

    /// Returns whether no problem was reported anywhere in the policy so far.
    pub fn policy_is_valid_so_far(&self) -> bool {
        self.log.is_part_valid()
    }

    /// Reads an object that may have only the keys of the table. A key with the value null counts as absent: templates,
    /// such as Helm's, write it for a value that is not set.
    pub fn object(&self, known: &ObjectSpec) -> Option<Fields<'a>> {
        let mut fields = self.object_with_nulls(known)?;
        fields.entries.retain(|(key, value)| !matches!(value.node, Node::Null) || NOT_NULL.contains(key));
        Some(fields)
    }

    /// Reads an object in which a key with the value null is present. Readers refuse such a value. Used where an absent
    /// key would make a condition hold more often.
    pub fn object_with_nulls(&self, known: &ObjectSpec) -> Option<Fields<'a>> {
        let Entries(fields) = self.entries()?;
        for (key, value) in &fields.entries {
            if !known.has(key) {
                let names: Vec<&str> = known.keys.iter().map(|spec| spec.name).collect();
                let message = match nearest(key, &names) {
                    Some(near) => format!("unknown field; did you mean {near:?}?"),
                    None => format!("unknown field; allowed: {}", names.join(", ")),
                };
                value.at_key().problem::<()>(message);
            }
        }
        Some(fields)
    }

    /// Reads an object whose keys are names that the user chose.
    pub fn entries(&self) -> Option<Entries<'a>> {
        let Node::Object(fields) = self.node else {
            return self.refuse("an object");
        };
        let mut entries: Vec<(&'a str, Value<'a>)> = Vec::with_capacity(fields.len());
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for (index, (key, node)) in fields.iter().enumerate() {
            let value = self.child(node, index, Some(key));
            if !known.insert(key) {
                value.at_key().problem::<()>("given twice; allowed: once");
            } else {
                entries.push((key, value));
            }
        }
        Some(Entries(Fields { entries, object: self.clone() }))
    }

    /// Reads a list and returns its items.
    pub fn list(&self) -> Option<Vec<Value<'a>>> {
        let Node::List(items) = self.node else {
            return self.refuse("a list");
        };
        let items = items.iter().enumerate();
        Some(items.map(|(index, node)| self.child(node, index, None)).collect())
    }

    /// Reports a list or an object with more than `most` entries, before they are read.
    pub fn limit_entries(&self, what: &str, most: usize) -> Option<()> {
        let count = match self.node {
            Node::List(items) => items.len(),
            Node::Object(fields) => fields.len(),
            _ => 0,
        };
        if count > most {
            return self.problem(format!(
                "{count} {what}; allowed: at most {most}. List fewer, or cover several by one."
            ));
        }
        Some(())
    }

    /// Reads a string that is not empty.
    pub fn text(&self) -> Option<&'a str> {
        match self.node {
            Node::Text(text) if !text.is_empty() => Some(text),
            _ => self.refuse("a string, not empty"),
        }
    }

    /// Returns whether the value is this string.
    pub fn is_text(&self, text: &str) -> bool {
        matches!(self.node, Node::Text(own) if own == text)
    }

    /// Reads `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.node {
            Node::Bool(value) => Some(*value),
            _ => self.refuse("true or false"),
        }
    }

    /// Reads a whole number in `range`. Takes `90.0` as one, as some hosts keep every number as a float.
    pub fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        self.whole_number()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .or_else(|| self.refuse(format!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn whole_number(&self) -> Option<i128> {
        match self.node {
            Node::Integer(number) => Some(*number),
            // Beyond 2^53, a float cannot represent every whole number.
            Node::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i128),
            _ => None,
        }
    }

    /// Reads a number of seconds in `range`, as Kubernetes has it. Allows fractions and rounds to the millisecond.
    pub fn seconds(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let seconds = match self.node {
            Node::Integer(number) => *number as f64,
            Node::Number(number) => *number,
            _ => -1.0,
        };
        // The cast cannot panic: a float out of range saturates, and NaN becomes 0.
        let duration = Duration::from_millis((seconds * 1_000.0).round() as u64);
        if seconds >= 0.0 && range.contains(&duration) {
            return Some(duration);
        }
        let [low, high] = [range.start(), range.end()].map(Duration::as_secs_f64);
        self.refuse(format!("a number of seconds from {low} to {high}"))
    }

    /// Reads a duration in `range`, as Istio writes it, such as `300ms`, `1.5s` or `1h30m`. Rounds to the millisecond.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = match self.node {
            Node::Text(text) => parse_duration(text),
            _ => None,
        };
        duration.filter(|duration| range.contains(duration)).or_else(|| {
            let (low, high) = (range.start(), range.end());
            // `Debug` writes zero as "0ns", a unit that is not allowed here.
            let low = if low.is_zero() { "0s".to_owned() } else { format!("{low:?}") };
            self.refuse(format!(
                "a duration such as \"300ms\", \"1.5s\" or \"1h30m\", from {low} to {high:?}"
            ))
        })
    }

    /// Reads a point in time in RFC 3339 and UTC, to the millisecond, such as `2026-12-01T10:00:00Z`.
    pub fn date(&self) -> Option<Date> {
        let date = match self.node {
            Node::Text(text) => Date::from_rfc3339(text),
            _ => None,
        };
        date.or_else(|| self.refuse("a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z"))
    }

    /// Reads one of the strings in `choices` and returns what it stands for.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.choice_or(choices, "")
    }

    /// Reads one of the strings in `choices`. `others` ends the list of allowed values in the problem, for a caller
    /// that also takes other values.
    pub fn choice_or<T: Clone>(&self, choices: &[(&str, T)], others: &str) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let index = self.position_among(&words, others)?;
        choices.get(index).map(|(_, choice)| choice.clone())
    }

    /// Returns the position of the value among `words`. See [`Value::choice_or`].
    #[inline(never)]
    fn position_among(&self, words: &[&str], others: &str) -> Option<usize> {
        let text = match self.node {
            Node::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let position = text.and_then(|text| words.iter().position(|word| *word == text));
        position.or_else(|| {
            let near = text.and_then(|text| nearest(text, words));
            let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            self.refuse(format_args!("{}{others}{hint}", words.join(", ")))
        })
    }

    /// Reads a name that goes into logs, metrics, replies and header values.
    ///
    /// The rule is that of a Kubernetes label value. A name has 1 to 63 letters, digits, `-`, `_` and `.`, with a
    /// letter or digit at both ends.
    pub fn label(&self) -> Option<&'a str> {
        self.text().and_then(|text| {
            if is_label(text) {
                return Some(text);
            }
            self.refuse(LABEL)
        })
    }

    /// Applies the rule of [`Value::label`] to `name`, which is not the value itself. It may be the value's key.
    pub fn validate_label<'n>(&self, name: &'n str) -> Option<&'n str> {
        let valid = is_label(name).then_some(name);
        valid.or_else(|| self.problem(format!("a bad name; allowed: {LABEL}")))
    }

    /// Reads an IP address, or a network such as `10.0.0.0/8`.
    pub fn network(&self) -> Option<IpNet> {
        let text = self.text()?;
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.or_else(|| self.refuse("an address or a network, such as 10.0.0.1, 10.0.0.0/8 or ::1/128"))
    }

    /// Reads a DNS label (RFC 1123): 1 to 63 lower-case letters, digits and `-`, with no `-` at either end.
    pub fn dns_label(&self) -> Option<&'a str> {
        let text = self.text()?;
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if is_label(text) && text.bytes().all(is_allowed) {
            return Some(text);
        }
        self.refuse("a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end")
    }

    /// Reads a header name and returns it in lower case.
    ///
    /// Refuses a name that is not an HTTP token. If the policy will `write` the header, also refuses a name that the
    /// proxy itself depends on.
    pub fn header_name(&self, write: bool) -> Option<String> {
        self.validate_header_name(self.text()?, write)
    }

    /// Applies the rule of [`Value::header_name`] to `name`, which is not the value itself. It may be the value's key.
    pub fn validate_header_name(&self, name: &str, write: bool) -> Option<String> {
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

    /// Reads the name of a cookie. Like a header name it is an HTTP token, but its case is significant.
    pub fn cookie_name(&self) -> Option<&'a str> {
        let name = self.text()?;
        let valid = is_token(name).then_some(name);
        valid.or_else(|| self.problem(format!("{} is not the name of a cookie; allowed: {TOKEN}", self.node)))
    }

    /// Reads a header value of at most 4 KiB. Refuses control characters, as a line break would end the header.
    pub fn header_value(&self) -> Option<&'a str> {
        let Node::Text(text) = self.node else {
            return self.refuse("a string");
        };
        if text.len() > MAX_HEADER_VALUE_BYTES || text.chars().any(char::is_control) {
            return self.refuse(format!(
                "a header value: at most {MAX_HEADER_VALUE_BYTES} bytes, no control characters"
            ));
        }
        Some(text)
    }

    /// Reads a map from header names to values and returns the names in lower case. `may_write` tells for each header
    /// whether it may be written here, and reports a problem if not.
    pub fn headers(&self, may_write: impl Fn(&Value<'a>, &str) -> bool) -> Option<Vec<(String, String)>> {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in self.entries()?.iter() {
            let Some(name) =
                value.at_key().validate_header_name(name, true).filter(|name| may_write(value, name))
            else {
                continue;
            };
            let Some(text) = value.header_value() else {
                continue;
            };
            if headers.iter().any(|(known, _)| *known == name) {
                value
                    .at_key()
                    .problem::<()>(format!("a second header {name:?}, as case does not count; allowed: one"));
            }
            headers.push((name, text.to_owned()));
        }
        self.limit_headers(headers.len());
        Some(headers)
    }

    /// Reports a problem if `count` headers are more than a policy may add to one message. From about a thousand
    /// headers on, the proxy would refuse the map and add none.
    pub fn limit_headers(&self, count: usize) {
        if count > MAX_HEADERS {
            self.problem::<()>(format!("{count} headers; allowed: at most {MAX_HEADERS}"));
        }
    }

    /// Reads a request path without a query. It starts with `/` and has only visible ASCII characters.
    pub fn path(&self) -> Option<&'a str> {
        let text = self.text()?;
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
        if text.starts_with('/') && text.bytes().all(is_allowed) {
            return Some(text);
        }
        self.refuse("a path that starts with \"/\", in visible ASCII, with no \"?\" or \"#\"")
    }

    fn child(&self, node: &'a Node, index: usize, key: Option<&'a str>) -> Value<'a> {
        let place = Place { parent: self.place.clone(), index, key };
        Value { node, place: Some(Rc::new(place)), is_key: false, log: self.log, proxy: self.proxy }
    }

    /// Returns the node, for readers that take several kinds of value.
    pub fn node(&self) -> &'a Node {
        self.node
    }
}

/// Describes for messages what [`Value::label`] allows.
pub const LABEL: &str =
    "1 to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends";

/// Returns whether [`Value::label`] allows `text`.
pub fn is_label(text: &str) -> bool {
    let is_valid_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && is_valid_end(text.bytes().next())
        && is_valid_end(text.bytes().last())
}

/// Describes for messages which characters an HTTP token may have (RFC 9110, section 5.6.2).
const TOKEN: &str = "letters, digits and any of !#$%&'*+-.^_`|~";

fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// The longest header value, in bytes.
const MAX_HEADER_VALUE_BYTES: usize = 4_096;

/// The most headers that a policy may add to one message.
const MAX_HEADERS: usize = 50;

/// The headers that frame a message or name its host. A policy must not write them.
const PROXY_HEADERS: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"];

/// The fields of an object with known keys.
#[derive(Clone)]
pub struct Fields<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
    object: Value<'a>,
}

impl<'a> Fields<'a> {
    /// Returns the field's value, or `None` without a problem if the field is missing.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns the field's value. If the field is missing, reports a problem that says what is `allowed`.
    pub fn require(&self, key: &str, allowed: &str) -> Option<&Value<'a>> {
        self.get(key).or_else(|| {
            self.object.note(Some(key), &format_args!("missing; allowed: {allowed}"));
            None
        })
    }

    /// Reads the field by `read`. Returns `default` if the field is missing, and `None` if its value is invalid.
    pub fn read<T>(&self, key: &str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        self.get(key).map_or(Some(default), read)
    }

    /// Reads a field that holds a list, each item by `read`. Leaves invalid items out. Returns an empty list if the
    /// field is missing.
    pub fn read_list<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.read(key, Vec::new(), |value| Some(value.list()?.iter().filter_map(read).collect()))
    }

    /// Reports a problem with a field that contradicts the rest of the object. Does nothing if the field is missing.
    pub fn contradiction(&self, key: &str, message: &str) {
        if let Some(value) = self.get(key) {
            value.problem::<()>(message);
        }
    }

    /// Returns the object that has these fields.
    pub fn object(&self) -> &Value<'a> {
        &self.object
    }
}

/// The entries of an object whose keys are names that the user chose.
pub struct Entries<'a>(Fields<'a>);

impl<'a> Entries<'a> {
    /// Returns keys and values in document order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.0.entries.iter().map(|(key, value)| (*key, value))
    }
}

/// Returns the path segment of a key: `.weight`, or `["a key"]` for a key that is not a plain word.
pub fn segment(parent: &str, key: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match key {
        key if key.is_empty() || key.len() > 64 || !key.bytes().all(is_plain) => {
            let short: String = key.chars().take(64).collect();
            format!("[{short:?}]")
        }
        key if parent.is_empty() => key.to_owned(),
        key => format!(".{key}"),
    }
}

/// Returns the known word that `word` is most likely a misspelling of. It is at most two edits away, and fewer than
/// half as many as it has bytes. Differences in case are free, as they are the most common mistake.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A much longer word is no misspelling, and costs time to compare.
    if word.len() > 64 {
        return None;
    }
    let distance =
        |known: &str| strsim::osa_distance(&word.to_ascii_lowercase(), &known.to_ascii_lowercase());
    let (edits, near) =
        known.iter().map(|known| (distance(known), *known)).min_by_key(|(edits, _)| *edits)?;
    (edits <= 2 && edits * 2 < near.len()).then_some(near)
}

/// Parses a duration: one or more decimal numbers, each with a unit (`h`, `m`, `s` or `ms`). Rounds each to the
/// millisecond.
fn parse_duration(text: &str) -> Option<Duration> {
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
        total = total.checked_add(Duration::from_millis(multiply(number, millis)?))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Multiplies a decimal number by `unit` and rounds. Uses integers, as parsing floats would add 10 kB of tables to the
/// module.
fn multiply(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Further digits make no difference to the rounded result.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let denominator = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let rounded = (parse(fraction)? * unit + denominator / 2) / denominator;
    let sum = parse(whole)?.checked_mul(unit)?.checked_add(rounded)?;
    (!whole.is_empty() || !fraction.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_are_parsed_as_istio_writes_them() {
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
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
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
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_misspelt_word_gets_a_suggestion() {
        let known = ["weight", "default", "match"];
        assert_eq!(nearest("wieght", &known), Some("weight"));
        assert_eq!(nearest("Weight", &known), Some("weight"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn labels_follow_the_rule_of_kubernetes_label_values() {
        for text in ["v1", "v1.2_rc-3", "A"] {
            assert!(is_label(text), "{text}");
        }
        for text in ["", "-v1", "v1-", "v 1", "v1|", "é", &"a".repeat(64)] {
            assert!(!is_label(text), "{text}");
        }
    }
}
