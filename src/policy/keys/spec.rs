//! What the table of keys says about an object, a key and a value.
//!
//! A [`Shape`] is what a value may be. Readers check a value by its shape, and its [`Display`](fmt::Display) is what a
//! message says is allowed. Texts for documents are only for the tool. They take no space in the module, as a constant
//! function drops them at compile time.

use core::fmt;
use core::time::Duration;

/// An object of the document.
pub struct ObjectSpec {
    /// What the object is, such as "a gate".
    #[cfg(feature = "tool")]
    pub name: &'static str,
    /// The keys that it may have.
    pub keys: &'static [KeySpec],
    /// Which of its keys exclude or replace each other.
    pub rule: KeyRule,
    /// Which of its keys have an effect only beside others.
    pub needs: &'static [Need],
    /// An example for messages, or an empty string.
    pub example: &'static str,
    /// Whether a key with the value null is present. Used where an absent key would make a condition hold more often.
    pub keeps_nulls: bool,
    /// Whether keys that begin with `x-` are allowed and have no meaning.
    pub has_extensions: bool,
}

/// One key of an object.
pub struct KeySpec {
    /// The key itself.
    pub name: &'static str,
    /// What the value may be.
    pub shape: Shape,
    /// What an object without the key has.
    pub presence: Presence,
    /// The least and the most entries of a list or a map.
    pub entries: (u16, u16),
    /// What the key does, in one or two sentences of Markdown.
    #[cfg(feature = "tool")]
    pub about: &'static str,
    /// The default in words, if it depends on something else. Otherwise empty.
    #[cfg(feature = "tool")]
    pub default_in_words: &'static str,
    /// The first version of graygate that has the key.
    #[cfg(feature = "tool")]
    pub since: &'static str,
}

/// What an object without a key has.
#[derive(Clone, Copy)]
pub enum Presence {
    /// Nothing. What that means depends on the key.
    Optional,
    /// The object is refused.
    Required,
    /// This value, as YAML has it without quotes.
    Default(&'static str),
}

/// The keys beside one of which another key has an effect.
pub struct Need {
    /// The key that needs another one.
    pub key: &'static str,
    /// At least one of these is there.
    pub any_of: &'static [&'static str],
}

/// What a value may be.
#[derive(Clone, Copy)]
pub enum Shape {
    /// An object with known keys.
    Object(&'static ObjectSpec),
    /// An object whose keys the user chooses. Its values have this shape.
    Map(&'static Shape),
    /// A list. Its items have this shape.
    List(&'static Shape),
    /// A value of any of these shapes.
    Either(&'static [Shape]),
    /// A string in this format.
    Text(Format),
    /// `true` or `false`.
    Boolean,
    /// `true`. The key is left out for false.
    True,
    /// A whole number, from the first to the second.
    Whole(u32, u32),
    /// A number of seconds, fractions included. The range is in milliseconds.
    Seconds(&'static [u64; 2]),
    /// A duration such as `1.5s`. The range is in milliseconds.
    Duration(&'static [u64; 2]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of an upstream of the policy.
    Upstream,
    /// A key without a value, which stands for an empty object.
    Null,
    /// No value. The key is one of Kubernetes or Istio that has no effect here, or one that other objects of its kind
    /// have. Holds the reason and what to do.
    Refused(&'static str),
}

/// What a string may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any string.
    Any,
    /// Any string that is not empty.
    NotEmpty,
    /// A DNS label (RFC 1123).
    DnsLabel,
    /// A name as in a Kubernetes label value.
    Label,
    /// The name of an Envoy cluster.
    Cluster,
    /// The name of a header that a policy reads.
    HeaderName,
    /// The name of a header that holds a sticky key, or `:path`.
    KeyHeader,
    /// The name of a header that a policy writes.
    WrittenHeader,
    /// The name of a header of a check, which may be `host`.
    CheckHeader,
    /// The name of a cookie.
    CookieName,
    /// The key of a member of `baggage`.
    MemberKey,
    /// The value of a header.
    HeaderValue,
    /// A path without a query.
    Path,
    /// A path as the kubelet reads it: the leading slash may be missing, and there may be a query.
    ProbePath,
    /// A host name or an address.
    Host,
    /// The `Domain` of a cookie.
    Domain,
    /// A host as in a match: a name, `*.` with a name, or an address, with or without a port.
    HostPattern,
    /// An address or a network.
    Network,
    /// A regular expression.
    Regex,
    /// A point in time in RFC 3339 and UTC.
    Date,
    /// A status from 400 to 599, as a string.
    ErrorStatus,
}

/// Which keys of an object exclude or replace each other.
#[derive(Clone, Copy)]
pub enum KeyRule {
    /// None.
    Free,
    /// At most one of these keys.
    AtMostOne(&'static [&'static str]),
    /// One of these keys.
    ExactlyOne(&'static [&'static str]),
    /// At least one of these keys.
    AtLeastOne(&'static [&'static str]),
    /// At least one of these keys, unless the last key is there with the value false.
    AtLeastOneUnlessFalse(&'static [&'static str], &'static str),
}

/// The longest header value, in bytes.
pub const MAX_HEADER_VALUE_BYTES: usize = 4_096;

/// The headers that frame a message or name its host. A policy must not write them.
pub const PROXY_HEADERS: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"];

impl ObjectSpec {
    /// Returns an object with these keys, which may occur in any combination.
    #[cfg_attr(not(feature = "tool"), allow(unused_variables))]
    pub const fn new(name: &'static str, keys: &'static [KeySpec]) -> Self {
        ObjectSpec {
            #[cfg(feature = "tool")]
            name,
            keys,
            rule: KeyRule::Free,
            needs: &[],
            example: "",
            keeps_nulls: false,
            has_extensions: false,
        }
    }

    /// Sets which keys exclude or replace each other.
    pub const fn rule(mut self, rule: KeyRule) -> Self {
        self.rule = rule;
        self
    }

    /// Sets which keys have an effect only beside others.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// Sets the example for messages.
    pub const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    /// Makes a key with the value null present.
    pub const fn keeping_nulls(mut self) -> Self {
        self.keeps_nulls = true;
        self
    }

    /// Allows keys that begin with `x-`.
    pub const fn with_extensions(mut self) -> Self {
        self.has_extensions = true;
        self
    }

    /// Returns what the table says about a key.
    pub fn key(&self, key: &str) -> Option<&'static KeySpec> {
        self.keys.iter().find(|spec| spec.name == key)
    }

    /// Returns whether the object may have this key.
    pub fn has(&self, key: &str) -> bool {
        self.key(key).is_some() || (self.has_extensions && key.starts_with("x-"))
    }
}

impl KeySpec {
    /// Returns a key that may be left out.
    pub const fn optional(name: &'static str, shape: Shape) -> Self {
        KeySpec {
            name,
            shape,
            presence: Presence::Optional,
            entries: (0, u16::MAX),
            #[cfg(feature = "tool")]
            about: "",
            #[cfg(feature = "tool")]
            default_in_words: "",
            #[cfg(feature = "tool")]
            since: "0.1.0",
        }
    }

    /// Returns a key that must be there.
    pub const fn required(name: &'static str, shape: Shape) -> Self {
        let mut spec = Self::optional(name, shape);
        spec.presence = Presence::Required;
        spec
    }

    /// Sets the value of an absent key.
    pub const fn default(mut self, value: &'static str) -> Self {
        self.presence = Presence::Default(value);
        self
    }

    /// Says what an absent key means, if that depends on something else.
    #[cfg_attr(not(feature = "tool"), allow(unused_mut, unused_variables))]
    pub const fn default_in_words(mut self, words: &'static str) -> Self {
        #[cfg(feature = "tool")]
        {
            self.default_in_words = words;
        }
        self
    }

    /// Sets the least and the most entries of a list or a map.
    pub const fn entries(mut self, least: u16, most: u16) -> Self {
        self.entries = (least, most);
        self
    }

    /// Says what the key does.
    #[cfg_attr(not(feature = "tool"), allow(unused_mut, unused_variables))]
    pub const fn about(mut self, text: &'static str) -> Self {
        #[cfg(feature = "tool")]
        {
            self.about = text;
        }
        self
    }

    /// Names the first version that has the key, if it is not the first of all.
    #[cfg_attr(not(feature = "tool"), allow(unused_mut, unused_variables))]
    pub const fn since(mut self, version: &'static str) -> Self {
        #[cfg(feature = "tool")]
        {
            self.since = version;
        }
        self
    }

    /// Returns whether an object without the key is refused.
    pub fn is_required(&self) -> bool {
        matches!(self.presence, Presence::Required)
    }

    /// Returns the default as YAML has it, if it is a fixed value.
    pub fn default_value(&self) -> Option<&'static str> {
        match self.presence {
            Presence::Default(value) => Some(value),
            Presence::Optional | Presence::Required => None,
        }
    }
}

impl Shape {
    /// Returns the first of the shapes for which `select` returns something. That is this shape itself, unless it is a
    /// choice between several.
    pub fn find<T>(&self, select: impl Fn(&Shape) -> Option<T>) -> Option<T> {
        match self {
            Shape::Either(shapes) => shapes.iter().find_map(select),
            shape => select(shape),
        }
    }

    /// Returns the keys of the object that the value may be.
    pub fn object(&self) -> Option<&'static ObjectSpec> {
        self.find(|shape| match shape {
            Shape::Object(spec) => Some(*spec),
            _ => None,
        })
    }

    /// Returns the words of which the value may be one.
    pub fn words(&self) -> Option<&'static [&'static str]> {
        self.find(|shape| match shape {
            Shape::Choice(words) => Some(*words),
            _ => None,
        })
    }

    /// Returns the shape of the entries, if the value may be a list or a map.
    pub fn inner(&self) -> Option<&'static Shape> {
        self.find(|shape| match shape {
            Shape::List(inner) | Shape::Map(inner) => Some(*inner),
            _ => None,
        })
    }
}

impl fmt::Display for Shape {
    /// Writes what is allowed, as messages say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Object(spec) if spec.example.is_empty() => f.write_str("an object"),
            Shape::Object(spec) => write!(f, "an object such as {}", spec.example),
            Shape::Map(_) => f.write_str("an object"),
            Shape::List(Shape::Object(spec)) if !spec.example.is_empty() => {
                write!(f, "a list such as [{}]", spec.example)
            }
            Shape::List(_) => f.write_str("a list"),
            Shape::Either(shapes) => {
                let mut separator = "";
                for shape in shapes.iter().filter(|shape| !matches!(shape, Shape::Null)) {
                    write!(f, "{separator}{shape}")?;
                    separator = ", or ";
                }
                Ok(())
            }
            Shape::Text(format) => format.fmt(f),
            Shape::Boolean => f.write_str("true or false"),
            Shape::True => f.write_str("true, or leave the key out"),
            Shape::Whole(low, high) => write!(f, "a whole number from {low} to {high}"),
            Shape::Seconds([low, high]) => {
                let [low, high] = [low, high].map(|millis| Duration::from_millis(*millis).as_secs_f64());
                write!(f, "a number of seconds from {low} to {high}")
            }
            Shape::Duration([low, high]) => {
                f.write_str("a duration such as \"300ms\", \"1.5s\" or \"1h30m\", from ")?;
                write_millis(*low, f)?;
                f.write_str(" to ")?;
                write_millis(*high, f)
            }
            Shape::Choice(words) => {
                for (index, word) in words.iter().enumerate() {
                    write!(f, "{}{word}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Shape::Upstream => f.write_str("the name of an upstream"),
            Shape::Null => f.write_str("no value"),
            Shape::Refused(reason) => f.write_str(reason),
        }
    }
}

/// Writes a duration as users do, in its largest whole unit.
fn write_millis(millis: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match millis {
        _ if millis > 0 && millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
        _ if millis > 0 && millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
        _ => write!(f, "{millis}ms"),
    }
}

impl fmt::Display for Format {
    /// Writes what is allowed, as messages say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The characters of an HTTP token (RFC 9110, section 5.6.2).
        const TOKEN: &str = "letters, digits and any of !#$%&'*+-.^_`|~";
        match self {
            Format::Any => f.write_str("a string"),
            Format::NotEmpty => f.write_str("a string, not empty"),
            Format::DnsLabel => f.write_str(
                "a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end",
            ),
            Format::Label => f.write_str(
                "1 to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends",
            ),
            Format::Cluster => f.write_str("the name of an Envoy cluster"),
            Format::HeaderName => write!(f, "the name of a header: {TOKEN}"),
            Format::KeyHeader => write!(f, "the name of a header, or \":path\""),
            Format::WrittenHeader | Format::CheckHeader => {
                let from = usize::from(*self == Format::CheckHeader);
                let denied = PROXY_HEADERS.get(from..).unwrap_or_default().join(", ");
                write!(f, "the name of a header: {TOKEN}, except {denied}")
            }
            Format::CookieName => write!(f, "the name of a cookie: {TOKEN}"),
            Format::MemberKey => write!(f, "the key of a member of baggage: {TOKEN}"),
            Format::HeaderValue => {
                write!(f, "a string: at most {MAX_HEADER_VALUE_BYTES} bytes, no control characters")
            }
            Format::Path => {
                f.write_str("a path that starts with \"/\", in visible ASCII, with no \"?\" or \"#\"")
            }
            Format::ProbePath => f.write_str("a path in visible ASCII"),
            Format::Host => f.write_str("a host name or address"),
            Format::Domain => f.write_str("a domain such as example.com"),
            Format::HostPattern => f.write_str(crate::value::host::ALLOWED),
            Format::Network => {
                f.write_str("an address or a network, such as 10.0.0.1, 10.0.0.0/8 or ::1/128")
            }
            Format::Regex => {
                f.write_str("a regular expression in the syntax of RE2, without Unicode classes")
            }
            Format::Date => f.write_str("a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z"),
            Format::ErrorStatus => f.write_str("a status from 400 to 599 in quotes, such as \"429\""),
        }
    }
}
