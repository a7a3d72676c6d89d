//! Conditions on one string, such as the value of a header.

use core::hash::{Hash, Hasher};

use regex_lite::{Error, Regex, RegexBuilder};

/// A condition on one string. It fails if there is no such string. Strings are bytes, and need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Any value matches, also an empty one.
    Present,
    /// The whole value is this.
    Exact(String),
    /// The value begins with this.
    Prefix(String),
    /// The pattern matches the whole value.
    Regex(Pattern),
}

/// A regular expression that must match the whole value, as in Istio. Two patterns are equal if their texts are.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The text with its anchors.
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

/// The most memory that a compiled regular expression may take, in bytes. It also bounds the time to match.
const MAX_COMPILED_BYTES: usize = 64 * 1_024;

/// The longest value that is matched, in bytes. The time to match grows with the value, and clients choose the value.
const MAX_VALUE_BYTES: usize = 4_096;

impl Pattern {
    /// Compiles the text of a regular expression. ASCII case does not count with `ignore_case`.
    ///
    /// # Errors
    ///
    /// Returns the compiler's error if the text is invalid, or if it would take too much memory.
    pub fn compile(text: &str, ignore_case: bool) -> Result<Self, Error> {
        let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
        // Without this, a text such as `a)|(b` would be valid inside the group and escape the anchors.
        build(text)?;
        let flags = if ignore_case { "i" } else { "" };
        let text = format!("^(?{flags}:{text})$");
        Ok(Pattern { compiled: build(&text)?, text })
    }

    /// Returns whether the pattern matches. A value that is not UTF-8 or is too long does not match.
    fn matches(&self, value: &[u8]) -> bool {
        let text = core::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_VALUE_BYTES);
        text.is_some_and(|text| self.compiled.is_match(text))
    }
}

impl StringMatch {
    /// Returns whether the condition holds for this value. Only `Exact` and `Prefix` can ignore case.
    pub fn holds(&self, value: Option<&[u8]>, ignore_case: bool) -> bool {
        let Some(value) = value else {
            return false;
        };
        let equal = |value: &[u8], text: &str| {
            if ignore_case { value.eq_ignore_ascii_case(text.as_bytes()) } else { value == text.as_bytes() }
        };
        match self {
            StringMatch::Present => true,
            StringMatch::Exact(text) => equal(value, text),
            StringMatch::Regex(pattern) => pattern.matches(value),
            StringMatch::Prefix(text) => value.get(..text.len()).is_some_and(|start| equal(start, text)),
        }
    }
}
