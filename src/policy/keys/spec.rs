//! What the table of keys says about an object, a key and a value.
//!
//! The filter needs only the names. Everything else is for the tool and for tests, and takes no space in the module: a
//! constant function drops it at compile time. A further fact about a key is one more method of [`KeySpec`].

/// An object of the document.
pub struct ObjectSpec {
    /// What the object is, for a message, such as "a gate".
    #[cfg(feature = "tool")]
    pub name: &'static str,
    /// The keys that it may have.
    pub keys: &'static [KeySpec],
    /// Which of its keys exclude or replace each other.
    #[cfg(feature = "tool")]
    pub rule: KeyRule,
}

/// One key of an object.
pub struct KeySpec {
    /// The key itself.
    pub name: &'static str,
    /// Whether an object without the key is refused.
    #[cfg(feature = "tool")]
    pub required: bool,
    /// What the value may be.
    #[cfg(feature = "tool")]
    pub shape: Shape,
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
    Seconds(u64, u64),
    /// A duration such as `1.5s`. The range is in milliseconds.
    Duration(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of an upstream of the policy.
    Upstream,
    /// A key without a value, which stands for an empty object.
    Null,
    /// No value. The key is one of Kubernetes or Istio that has no effect here, or one that other objects of its kind
    /// have.
    Refused,
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
    /// The name of a header that a policy reads.
    HeaderName,
    /// The name of a header that a policy writes.
    WrittenHeader,
    /// The name of a cookie.
    CookieName,
    /// The value of a header.
    HeaderValue,
    /// A path without a query.
    Path,
    /// A path as the kubelet reads it: the leading slash may be missing, and there may be a query.
    ProbePath,
    /// A host name or an address.
    Host,
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
}

impl ObjectSpec {
    /// Returns an object with these keys, which may occur in any combination.
    pub const fn new(name: &'static str, keys: &'static [KeySpec]) -> Self {
        Self::with(name, keys, KeyRule::Free)
    }

    /// Returns an object with these keys and this rule.
    #[cfg_attr(not(feature = "tool"), allow(unused_variables))]
    pub const fn with(name: &'static str, keys: &'static [KeySpec], rule: KeyRule) -> Self {
        ObjectSpec {
            #[cfg(feature = "tool")]
            name,
            keys,
            #[cfg(feature = "tool")]
            rule,
        }
    }

    /// Returns whether the object may have this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|spec| spec.name == key)
    }
}

impl KeySpec {
    /// Returns a key that may be left out.
    #[cfg_attr(not(feature = "tool"), allow(unused_variables))]
    pub const fn optional(name: &'static str, shape: Shape) -> Self {
        KeySpec {
            name,
            #[cfg(feature = "tool")]
            required: false,
            #[cfg(feature = "tool")]
            shape,
        }
    }

    /// Returns a key that must be there.
    #[cfg_attr(not(feature = "tool"), allow(unused_mut))]
    pub const fn required(name: &'static str, shape: Shape) -> Self {
        let mut spec = Self::optional(name, shape);
        #[cfg(feature = "tool")]
        {
            spec.required = true;
        }
        spec
    }
}
