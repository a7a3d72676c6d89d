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
    /// The longest value that is matched, in bytes.
    longest: usize,
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

/// The memory that a compiled regular expression may take, in bytes, each with the longest value that such an expression
/// is matched with. Clients choose the value, and the time to match grows with the product, to a millisecond or two.
const SIZES: [(usize, usize); 7] = [
    (1_024, 4_096),
    (2_048, 2_048),
    (4_096, 1_024),
    (8_192, 512),
    (16_384, 256),
    (32_768, 128),
    (65_536, 64),
];

/// The most memory that a compiled regular expression may take, in bytes.
const MAX_COMPILED_BYTES: usize = 65_536;

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
        let fits = |size: usize| RegexBuilder::new(&text).size_limit(size).build().is_ok();
        let longest = SIZES.iter().find(|(size, _)| fits(*size)).map_or(0, |(_, longest)| *longest);
        Ok(Pattern { compiled: build(&text)?, text, longest })
    }

    /// Returns whether the pattern matches, or `None` if the value is too long to find out. A value that is not UTF-8 does
    /// not match.
    fn matches(&self, value: &[u8]) -> Option<bool> {
        if value.len() > self.longest {
            return None;
        }
        Some(core::str::from_utf8(value).is_ok_and(|text| self.compiled.is_match(text)))
    }
}

impl StringMatch {
    /// Returns whether the condition holds for this value. One that is too long for a pattern does not. Only `Exact` and
    /// `Prefix` can ignore case.
    pub fn holds(&self, value: Option<&[u8]>, ignore_case: bool) -> bool {
        self.evaluate(value, ignore_case) == Some(true)
    }

    /// Returns whether the condition holds for this value, or `None` if the value is too long for a pattern.
    pub fn evaluate(&self, value: Option<&[u8]>, ignore_case: bool) -> Option<bool> {
        let Some(value) = value else {
            return Some(false);
        };
        let equal = |value: &[u8], text: &str| {
            if ignore_case { value.eq_ignore_ascii_case(text.as_bytes()) } else { value == text.as_bytes() }
        };
        match self {
            StringMatch::Present => Some(true),
            StringMatch::Exact(text) => Some(equal(value, text)),
            StringMatch::Regex(pattern) => pattern.matches(value),
            StringMatch::Prefix(text) => {
                Some(value.get(..text.len()).is_some_and(|start| equal(start, text)))
            }
        }
    }
}
