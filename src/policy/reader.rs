//! Typed access to the values of a document.
//!
//! Each value knows its [`Shape`] from the table of keys. A reading method returns `None` and reports a problem if the
//! value is of another shape. The caller continues with the next key, so one pass finds every problem.

use core::fmt::Display;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::rc::Rc;

use ipnet::IpNet;

use super::document::Node;
use super::format;
use super::keys::NOT_NULL;
use super::keys::spec::{Format, KeyRule, KeySpec, ObjectSpec, PROXY_HEADERS, Shape};
use super::problem::{Position, ProblemLog};
use super::spelling::{nearest, nearest_key};
use crate::value::date::Date;
use crate::value::duration;
use crate::value::host::MeshPlace;

/// A value of the document, with its place in it and what the table of keys says about it.
#[derive(Clone)]
pub struct Value<'a> {
    node: &'a Node,
    /// The place of the value. `None` for the document itself.
    place: Option<Rc<Place<'a>>>,
    /// Whether problems are about the key of the value.
    is_key: bool,
    log: &'a ProblemLog,
    proxy: Option<&'a MeshPlace<'a>>,
    shape: Shape,
    /// The least and the most entries of a list or a map.
    bounds: (u16, u16),
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

/// The bounds of a list or a map that may have any number of entries.
const ANY_NUMBER: (u16, u16) = (0, u16::MAX);

impl<'a> Value<'a> {
    /// Returns the document itself as a value of this shape.
    pub fn root(node: &'a Node, log: &'a ProblemLog, shape: Shape) -> Self {
        Self { node, place: None, is_key: false, log, proxy: None, shape, bounds: ANY_NUMBER }
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

    /// Reports that the value does not have its shape. Returns `None`.
    pub fn refuse<T>(&self) -> Option<T> {
        match self.near_miss() {
            Some(message) => self.problem(message),
            None => self.refuse_as(&self.shape),
        }
    }

    /// Reports that the value is not what is `allowed`. Returns `None`.
    pub fn refuse_as<T>(&self, allowed: &dyn Display) -> Option<T> {
        let near = self.shape.words().zip(self.node.text()).and_then(|(words, text)| nearest(text, words));
        let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        self.note(None, &format_args!("{} is not allowed; allowed: {allowed}{hint}", self.node));
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

    /// Returns what is wrong with a value that only has the wrong quotes or unit.
    #[inline(never)]
    fn near_miss(&self) -> Option<String> {
        let node = self.node;
        match node {
            Node::Text(text) => {
                let is_bare = match self.shape {
                    Shape::Boolean => matches!(text.as_str(), "true" | "false"),
                    Shape::True => text == "true",
                    Shape::Whole(low, high) => {
                        let is_in_range =
                            |text: &str| text.parse().is_ok_and(|number: u32| (low..=high).contains(&number));
                        let share = text.strip_suffix('%').map(str::trim_end);
                        if let Some(number) = share.filter(|number| is_in_range(number)) {
                            return Some(format!(
                                "{node} is not a number. Write it without the sign: {number}"
                            ));
                        }
                        is_in_range(text)
                    }
                    Shape::Seconds(_) if text.parse::<u32>().is_ok() => true,
                    Shape::Seconds(_) => {
                        let seconds = duration::parse(text)?.as_secs_f64();
                        return Some(format!(
                            "{node} is a duration. Write the seconds as a number: {seconds}"
                        ));
                    }
                    Shape::List(item) => {
                        let is_text = |shape: &Shape| matches!(shape, Shape::Text(_)).then_some(());
                        item.find(is_text)?;
                        return Some(format!("{node} is not a list. Write it in brackets: [{node}]"));
                    }
                    _ => false,
                };
                is_bare.then(|| format!("{node} is a string. Write it without quotes: {text}"))
            }
            Node::Integer(number) if matches!(self.shape, Shape::Duration(_)) => {
                Some(format!("{number} has no unit. Write \"{number}s\" for seconds."))
            }
            Node::Bool(_) | Node::Integer(_) | Node::Number(_) => {
                let text = node.to_string();
                let is_quoted = |shape: &Shape| match shape {
                    Shape::Text(Format::Date) => None,
                    Shape::Text(format) => format::accepts(*format, &text).then_some(()),
                    _ => None,
                };
                self.shape.find(is_quoted)?;
                Some(format!("{text} is not a string. Write it in quotes: \"{text}\""))
            }
            _ => None,
        }
    }

    /// Returns whether no problem was reported anywhere in the policy so far.
    pub fn policy_is_valid_so_far(&self) -> bool {
        self.log.is_part_valid()
    }

    /// Reads an object that may have only the keys of the table.
    ///
    /// Reports unknown keys, missing ones, and those that exclude or need others. A misspelt key counts as present, so that
    /// one mistake is one problem. A key with the value null counts as absent, as templates such as Helm's write it for a
    /// value that is not set, unless the table says otherwise.
    pub fn object(&self) -> Option<Fields<'a>> {
        let Some(spec) = self.shape.object() else {
            return self.refuse();
        };
        let mut entries = self.read_entries(|key| match spec.key(key) {
            Some(key) => (key.shape, key.entries),
            None => (Shape::Null, ANY_NUMBER),
        })?;
        // An unknown key beside a missing one is most likely meant to be it.
        let is_there = |key: &KeySpec| entries.iter().any(|(name, _)| *name == key.name);
        let mut missing = spec.keys.iter().filter(|key| key.is_required() && !is_there(key));
        let unknown = entries.iter().filter(|(key, _)| !spec.has(key)).count();
        let lonely_missing = match (missing.next(), missing.next()) {
            (Some(key), None) if unknown == 1 => Some(key.name),
            _ => None,
        };
        let mut misspelt = Vec::new();
        for (key, value) in &entries {
            match value.shape {
                _ if !spec.has(key) => {
                    let near = nearest_key(key, spec).or(lonely_missing);
                    misspelt.extend(near);
                    // A key of an object below is a common mistake, such as `path` beside `httpGet`.
                    let holds = |spec: &&KeySpec| matches!(spec.shape, Shape::Object(inner) if inner.key(key).is_some());
                    let message = match (near, spec.keys.iter().find(holds)) {
                        (Some(near), _) => format!("unknown field; did you mean {near:?}?"),
                        (None, Some(holder)) => format!("unknown field; move it into {}", holder.name),
                        (None, None) => {
                            let names: Vec<_> = spec.keys.iter().map(|spec| spec.name).collect();
                            format!("unknown field; allowed: {}", names.join(", "))
                        }
                    };
                    value.at_key().problem::<()>(message);
                }
                Shape::Refused(reason) if spec.keeps_nulls || !matches!(value.node, Node::Null) => {
                    value.at_key().problem::<()>(reason);
                }
                _ => {}
            }
        }
        if !spec.keeps_nulls {
            entries.retain(|(key, value)| !matches!(value.node, Node::Null) || NOT_NULL.contains(key));
        }
        let fields = Fields { entries, object: self.clone(), spec, misspelt };
        fields.check_presence();
        Some(fields)
    }

    /// Reads an object whose keys are names that the user chose.
    pub fn entries(&self) -> Option<Vec<(&'a str, Value<'a>)>> {
        let inner = self.shape.inner().copied().unwrap_or(Shape::Null);
        let entries = self.read_entries(|_| (inner, ANY_NUMBER))?;
        self.check_bounds(entries.len())?;
        Some(entries)
    }

    /// Returns the fields of an object, each key once. `shape_of` tells what a key's value may be.
    fn read_entries(
        &self,
        shape_of: impl Fn(&str) -> (Shape, (u16, u16)),
    ) -> Option<Vec<(&'a str, Value<'a>)>> {
        let Node::Object(fields) = self.node else {
            return self.refuse();
        };
        let mut entries: Vec<(&'a str, Value<'a>)> = Vec::with_capacity(fields.len());
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for (index, (key, node)) in fields.iter().enumerate() {
            let value = self.child(node, index, Some(key), shape_of(key));
            if known.insert(key) {
                entries.push((key, value));
            } else {
                value.at_key().problem::<()>("given twice; keep one of them");
            }
        }
        Some(entries)
    }

    /// Reads a list and returns its items.
    pub fn list(&self) -> Option<Vec<Value<'a>>> {
        let Node::List(items) = self.node else {
            return self.refuse();
        };
        self.check_bounds(items.len())?;
        let inner = self.shape.inner().copied().unwrap_or(Shape::Null);
        let items = items.iter().enumerate();
        Some(items.map(|(index, node)| self.child(node, index, None, (inner, ANY_NUMBER))).collect())
    }

    /// Reports a list or a map with too few or too many entries, before they are read.
    fn check_bounds(&self, count: usize) -> Option<()> {
        let (least, most) = self.bounds;
        if count < usize::from(least) {
            return self.problem("empty; add at least one entry");
        }
        if count > usize::from(most) {
            return self.problem(format!(
                "{count} entries; allowed: at most {most}. List fewer, or cover several by one."
            ));
        }
        Some(())
    }

    /// Reads a string in the format that the table has for it.
    pub fn text(&self) -> Option<&'a str> {
        let format = self.shape.find(|shape| match shape {
            Shape::Text(format) => Some(*format),
            Shape::Upstream => Some(Format::NotEmpty),
            _ => None,
        });
        match (self.node, format) {
            (Node::Text(text), Some(format)) if format::accepts(format, text) => Some(text),
            _ => self.refuse(),
        }
    }

    /// Returns whether the value is this string.
    pub fn is_text(&self, text: &str) -> bool {
        matches!(self.node, Node::Text(own) if own == text)
    }

    /// Reads `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match (self.node, self.shape) {
            (Node::Bool(false), Shape::True) => self.refuse(),
            (Node::Bool(value), _) => Some(*value),
            _ => self.refuse(),
        }
    }

    /// Reads a whole number in its range. Takes `90.0` as one, as some hosts keep every number as a float.
    pub fn whole(&self) -> Option<u32> {
        let number = match self.node {
            Node::Integer(number) => Some(*number),
            // Beyond 2^53, a float cannot represent every whole number.
            Node::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i128),
            _ => None,
        };
        let range = self.shape.find(|shape| match shape {
            Shape::Whole(low, high) => Some(*low..=*high),
            _ => None,
        });
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.filter(|number| range.is_some_and(|range| range.contains(number))).or_else(|| self.refuse())
    }

    /// Reads a number of seconds in its range, as Kubernetes has it. Allows fractions and rounds to the millisecond.
    pub fn seconds(&self) -> Option<Duration> {
        let seconds = match self.node {
            Node::Integer(number) => *number as f64,
            Node::Number(number) => *number,
            _ => -1.0,
        };
        let millis = seconds * 1_000.0;
        match self.shape {
            Shape::Seconds([low, high]) if (*low as f64..=*high as f64).contains(&millis) => {
                Some(Duration::from_millis(millis.round() as u64))
            }
            _ => self.refuse(),
        }
    }

    /// Reads a duration in its range, as Istio writes it, such as `300ms`, `1.5s` or `1h30m`. Rounds to the millisecond.
    pub fn duration(&self) -> Option<Duration> {
        let parsed = match self.node {
            Node::Text(text) => duration::parse(text),
            _ => None,
        };
        let range = match self.shape {
            Shape::Duration([low, high]) => Duration::from_millis(*low)..=Duration::from_millis(*high),
            _ => return self.refuse(),
        };
        parsed.filter(|duration| range.contains(duration)).or_else(|| self.refuse())
    }

    /// Reads a point in time in RFC 3339 and UTC, to the millisecond, such as `2026-12-01T10:00:00Z`.
    pub fn date(&self) -> Option<Date> {
        let date = match self.node {
            Node::Text(text) => Date::from_rfc3339(text),
            _ => None,
        };
        date.or_else(|| self.refuse())
    }

    /// Reads one of the words of the table.
    pub fn word(&self) -> Option<&'static str> {
        let word = self.shape.words().and_then(|words| words.iter().find(|word| self.is_text(word)));
        word.copied().or_else(|| self.refuse())
    }

    /// Applies the rule of a label to `name`, which is not the value itself. It may be the value's key.
    pub fn validate_label<'n>(&self, name: &'n str) -> Option<&'n str> {
        let valid = format::accepts(Format::Label, name).then_some(name);
        valid.or_else(|| self.problem(format_args!("a bad name; allowed: {}", Format::Label)))
    }

    /// Reads an IP address, or a network such as `10.0.0.0/8`.
    pub fn network(&self) -> Option<IpNet> {
        let text = self.text()?;
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.or_else(|| self.refuse())
    }

    /// Reads a header name and returns it in lower case.
    ///
    /// Refuses a name that is not an HTTP token. If the policy will write the header, also refuses a name that the
    /// proxy itself depends on.
    pub fn header_name(&self) -> Option<String> {
        match (self.node, self.shape) {
            (Node::Text(name), Shape::Text(format)) if !name.is_empty() => {
                self.validate_header_name(name, format)
            }
            _ => self.refuse(),
        }
    }

    /// Applies the rule of [`Value::header_name`] to `name`, which is not the value itself. It may be the value's key.
    pub fn validate_header_name(&self, name: &str, format: Format) -> Option<String> {
        let name = name.to_ascii_lowercase();
        if !format::accepts(Format::HeaderName, &name) {
            let allowed = Format::HeaderName;
            return self.problem(format!("{} is not allowed; allowed: {allowed}", Node::Text(name)));
        }
        if !format::accepts(format, &name) {
            return self.problem(format!(
                "{name:?} belongs to the proxy; use any header but {}",
                PROXY_HEADERS.join(", ")
            ));
        }
        Some(name)
    }

    /// Reads a map from header names to values and returns the names in lower case. `may_write` tells for each header
    /// whether it may be written here, and reports a problem if not.
    pub fn headers(&self, may_write: impl Fn(&Value<'a>, &str) -> bool) -> Option<Vec<(String, String)>> {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in self.entries()? {
            let name = value.at_key().validate_header_name(name, Format::WrittenHeader);
            let Some(name) = name.filter(|name| may_write(&value, name)) else {
                continue;
            };
            let Some(text) = value.text() else {
                continue;
            };
            if headers.iter().any(|(known, _)| *known == name) {
                value.at_key().problem::<()>(format!(
                    "the header {name:?} a second time, as case is ignored; keep one"
                ));
            }
            headers.push((name, text.to_owned()));
        }
        Some(headers)
    }

    fn child(
        &self,
        node: &'a Node,
        index: usize,
        key: Option<&'a str>,
        (shape, bounds): (Shape, (u16, u16)),
    ) -> Value<'a> {
        let place = Place { parent: self.place.clone(), index, key };
        Value { node, place: Some(Rc::new(place)), is_key: false, shape, bounds, ..*self }
    }

    /// Returns the node, for readers that take several kinds of value.
    pub fn node(&self) -> &'a Node {
        self.node
    }
}

/// The fields of an object with known keys.
#[derive(Clone)]
pub struct Fields<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
    object: Value<'a>,
    spec: &'static ObjectSpec,
    /// The known keys that unknown ones are most likely misspellings of.
    misspelt: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Returns the field's value, or `None` without a problem if the field is missing.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns whether the object has the field, or a misspelling of it, which has been reported.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some() || self.misspelt.contains(&key)
    }

    /// Returns whether the object has only a misspelling of the field.
    pub fn is_misspelt(&self, key: &str) -> bool {
        self.get(key).is_none() && self.misspelt.contains(&key)
    }

    /// Reports that the field is missing and says what it could be. Does nothing if it is there, or misspelt.
    pub fn require(&self, key: &str) {
        let shape = self.spec.key(key).map(|key| key.shape).filter(|_| !self.has(key));
        if let Some(shape) = shape {
            self.object.note(Some(key), &format_args!("missing; add {shape}"));
        }
    }

    /// Reports missing fields, and those that exclude or need others.
    fn check_presence(&self) -> Option<()> {
        for key in self.spec.keys.iter().filter(|key| key.is_required()) {
            self.require(key.name);
        }
        let given = |keys: &'static [&'static str]| keys.iter().filter(|key| self.has(key));
        // Such a key has been reported, with what to use in place of it.
        let is_reported = |(key, value): &(&str, Value<'_>)| {
            !self.spec.has(key) || matches!(value.shape, Shape::Refused(_))
        };
        let (keys, needs_one, excludes) = match self.spec.rule {
            KeyRule::Free => (&[][..], false, false),
            KeyRule::AtMostOne(keys) => (keys, false, true),
            KeyRule::ExactlyOne(keys) => (keys, true, true),
            KeyRule::AtLeastOne(keys) => (keys, true, false),
            KeyRule::AtLeastOneUnlessFalse(keys, switch) => {
                let is_off = self.get(switch).is_some_and(|value| matches!(value.node, Node::Bool(false)));
                (keys, !is_off, false)
            }
        };
        let mut first = given(keys);
        match (first.next(), first.next()) {
            (None, _) if needs_one && !self.entries.iter().any(is_reported) => {
                let (or, switch) = match self.spec.rule {
                    KeyRule::AtLeastOneUnlessFalse(_, switch) => (", or ", format!("{switch}: false")),
                    _ => ("", String::new()),
                };
                self.object.problem(format_args!("incomplete; add one of {}{or}{switch}", keys.join(", ")))
            }
            (Some(first), Some(second)) if excludes => {
                self.object.problem(format_args!("has {first} and {second}; keep one of them"))
            }
            _ => self.check_needs(),
        }
    }

    fn check_needs(&self) -> Option<()> {
        for need in self.spec.needs {
            if let (Some(value), false) = (self.get(need.key), need.any_of.iter().any(|key| self.has(key))) {
                value.problem::<()>(format_args!("has no effect alone; add {}", need.any_of.join(" or ")));
            }
        }
        Some(())
    }

    /// Reads the field by `read`. Returns `default` if the field is missing, and `None` if its value is invalid.
    pub fn read<T>(&self, key: &str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        self.get(key).map_or(Some(default), read)
    }

    /// Reads the field by `read`. Returns `None` inside if the field is missing.
    pub fn optional<T>(&self, key: &str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<Option<T>> {
        self.get(key).map_or(Some(None), |value| read(value).map(Some))
    }

    /// Reads a field that holds a list, each item by `read`. Leaves invalid items out. Returns an empty list if the
    /// field is missing.
    pub fn read_list<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.read(key, Vec::new(), |value| Some(value.list()?.iter().filter_map(read).collect()))
    }

    /// Reads a whole number, or takes the default of the table.
    pub fn whole(&self, key: &str) -> Option<u32> {
        self.read_or_default(key, Value::whole, |default| default.parse().ok())
    }

    /// Reads a number of seconds, or takes the default of the table.
    pub fn seconds(&self, key: &str) -> Option<Duration> {
        self.read_or_default(key, Value::seconds, |default| duration::parse(&format!("{default}s")))
    }

    /// Reads a duration, or takes the default of the table.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.read_or_default(key, Value::duration, duration::parse)
    }

    /// Reads `true` or `false`, or takes the default of the table.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.read_or_default(key, Value::boolean, |default| Some(default == "true"))
    }

    /// Reads a word, or takes the default of the table.
    pub fn word(&self, key: &str) -> Option<&'static str> {
        self.read_or_default(key, Value::word, Some)
    }

    /// Reads a string, or takes the default of the table.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key) {
            Some(value) => value.text(),
            None => self.spec.key(key)?.default_value(),
        }
    }

    fn read_or_default<T>(
        &self,
        key: &str,
        read: fn(&Value<'a>) -> Option<T>,
        parse: impl FnOnce(&'static str) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(value) => read(value),
            None => parse(self.spec.key(key)?.default_value()?),
        }
    }

    /// Reports a problem with a field that contradicts the rest of the object. Does nothing if the field is missing.
    pub fn contradiction(&self, key: &str, message: impl Display) {
        if let Some(value) = self.get(key) {
            value.problem::<()>(message);
        }
    }

    /// Returns the object that has these fields.
    pub fn object(&self) -> &Value<'a> {
        &self.object
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
