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
    /// See [`steps`].
    steps: u32,
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

/// The most steps that a regular expression may take for one character of a value, with the longest value that such an
/// expression is matched with, in bytes. Clients choose the value, and the time to match grows with the product, to a
/// millisecond or two.
const SIZES: [(u32, usize); 7] =
    [(32, 4_096), (64, 2_048), (128, 1_024), (256, 512), (512, 256), (1_024, 128), (2_048, 64)];

/// The most steps that a regular expression may take for one character. See [`steps`].
pub const MAX_STEPS: u32 = 2_048;

/// The most memory that the compiler may use, in bytes. An expression of [`MAX_STEPS`] needs less.
const MAX_COMPILED_BYTES: usize = 1_048_576;

/// Why a text is no pattern.
#[derive(Debug)]
pub enum PatternError {
    /// The compiler refused it.
    Invalid(Error),
    /// It takes this many steps for one character, which is more than [`MAX_STEPS`].
    TooLarge(u32),
    /// It has the flag `x`, which RE2 does not know. Blanks in counts and comments would then mislead [`steps`].
    Verbose,
}

impl From<Error> for PatternError {
    fn from(error: Error) -> Self {
        PatternError::Invalid(error)
    }
}

impl Pattern {
    /// Compiles the text of a regular expression. ASCII case does not count with `ignore_case`.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is invalid, takes more than [`MAX_STEPS`], or has the flag `x`.
    pub fn compile(text: &str, ignore_case: bool) -> Result<Self, PatternError> {
        if is_verbose(text) {
            return Err(PatternError::Verbose);
        }
        let steps = steps(text);
        let longest = SIZES.iter().find(|(size, _)| steps <= *size).map(|(_, longest)| *longest);
        let longest = longest.ok_or(PatternError::TooLarge(steps))?;
        let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
        // Without this, a text such as `a)|(b` would be valid inside the group and escape the anchors.
        build(text)?;
        let flags = if ignore_case { "i" } else { "" };
        let compiled = build(&format!("^(?{flags}:{})$", without_captures(text)))?;
        Ok(Pattern { compiled, text: format!("^(?{flags}:{text})$"), steps, longest })
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

/// Divides the text of a regular expression into its tokens: an escaped character, a class, the opening of a group with its
/// flags or its name, or a single character. Together they are the text.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let length = match first {
            '\\' => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            '[' => 1 + class_length(rest.get(1..).unwrap_or_default().as_bytes()),
            '(' if rest.starts_with("(?") => {
                let ends = if rest.starts_with("(?P<") || rest.starts_with("(?<") { '>' } else { ':' };
                // `(?i)` sets flags, and opens no group.
                rest.find([ends, ')']).map_or(rest.len(), |end| end + 1)
            }
            _ => first.len_utf8(),
        };
        // A class may end within a character only if it is malformed.
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = after;
        Some(token)
    })
}

/// Returns whether a group of flags has `x`.
fn is_verbose(text: &str) -> bool {
    let is_name = |token: &str| token.ends_with('>');
    tokens(text).any(|token| token.starts_with("(?") && !is_name(token) && token.contains('x'))
}

/// Returns the text with groups that capture nothing. For each step, the matcher keeps a place for each group that captures,
/// and nobody asks for them.
fn without_captures(text: &str) -> String {
    let plain = |token| match token {
        "(" => "(?:",
        named if named.starts_with("(?") && named.ends_with('>') => "(?:",
        other => other,
    };
    tokens(text).map(plain).collect()
}

/// Returns how many steps a regular expression may take for one character: one for each character and class in it, as
/// often as they are repeated, and one for each choice. It is an estimate from the text alone, because the memory that the
/// compiler uses differs between platforms. The tool must say what the filter does.
fn steps(text: &str) -> u32 {
    // The sums of the groups around this place, each with the steps of its last part.
    let mut groups: Vec<(u32, u32)> = vec![(0, 0)];
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let part = match byte {
            b'(' => {
                groups.push((0, 0));
                continue;
            }
            // An empty group is a step, too, as it may be repeated.
            b')' if groups.len() > 1 => groups.pop().map_or(1, |(sum, _)| sum.max(1)),
            b'*' | b'+' | b'?' => {
                if let Some((sum, last)) = groups.last_mut() {
                    (*sum, *last) = (sum.saturating_add(1), last.saturating_add(1));
                }
                continue;
            }
            b'{' => {
                let end = rest.iter().position(|byte| *byte == b'}').map_or(rest.len(), |end| end + 1);
                let (range, after) = rest.split_at_checked(end).unwrap_or_default();
                rest = after;
                if let Some((sum, last)) = groups.last_mut() {
                    let repeated = last.saturating_mul(most_repeated(range));
                    (*sum, *last) = (sum.saturating_sub(*last).saturating_add(repeated), repeated);
                }
                continue;
            }
            b'[' => {
                let length = class_length(rest);
                rest = rest.get(length..).unwrap_or_default();
                // A class is searched for the character.
                1 + u32::try_from(length / 16).unwrap_or(u32::MAX)
            }
            b'\\' => {
                rest = rest.get(1..).unwrap_or_default();
                1
            }
            _ => 1,
        };
        if let Some((sum, last)) = groups.last_mut() {
            (*sum, *last) = (sum.saturating_add(part), part);
        }
    }
    groups.iter().fold(0, |all, (sum, _)| all.saturating_add(*sum))
}

/// Returns how often a part may be repeated that `m,n` or a similar text follows. Each repetition that may be left out is a
/// choice as well.
fn most_repeated(range: &[u8]) -> u32 {
    let numbers = range.split(|byte| !byte.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    };
    let numbers: Vec<u32> = numbers.map(number).collect();
    let least = numbers.first().copied().unwrap_or(1);
    let most = numbers.last().copied().unwrap_or(1).max(least);
    most.saturating_add(most - least).max(1)
}

/// Returns the length of a class whose opening bracket has been read, with its closing one.
fn class_length(rest: &[u8]) -> usize {
    let mut index = usize::from(rest.first() == Some(&b'^'));
    // A bracket at the start is a character.
    index += usize::from(rest.get(index) == Some(&b']'));
    while let Some(byte) = rest.get(index) {
        index += match byte {
            b']' => return index + 1,
            b'\\' => 2,
            // A named class, such as `[:alpha:]`.
            b'[' => rest
                .get(index..)
                .and_then(|named| named.iter().position(|byte| *byte == b']'))
                .map_or(1, |end| end + 1),
            _ => 1,
        };
    }
    index
}

impl StringMatch {
    /// Returns whether it is a regular expression.
    pub fn is_regex(&self) -> bool {
        matches!(self, StringMatch::Regex(_))
    }

    /// Returns how much work the condition may take with a value of this length. It is 0 without a regular expression.
    pub fn work(&self, length: usize) -> u32 {
        match self {
            StringMatch::Regex(pattern) if length <= pattern.longest => {
                pattern.steps.saturating_mul(u32::try_from(length).unwrap_or(u32::MAX))
            }
            _ => 0,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_steps_of_a_regex_follow_from_its_text() {
        for (text, expected) in [
            ("", 0),
            ("abc", 3),
            ("a|b", 3),
            ("/users/[^/]+/orders", 16),
            ("[0-9a-f-]{36}", 36),
            ("(ab){10}c", 21),
            ("((a{10}){10}){30}", 3_000),
            ("(a?){120}b", 241),
            ("a{1,63}", 125),
            ("a{2,}", 2),
            (r"\{5\}[\]}]{3}", 6),
            ("[]a]{2}", 2),
            ("[[:alpha:]]{4}", 4),
            ("a{4294967295}{4294967295}", u32::MAX),
            ("()", 1),
            ("((){14000}a)*", 14_002),
            ("(()){3}", 3),
        ] {
            assert_eq!(steps(text), expected, "{text}");
        }
    }

    #[test]
    fn the_steps_of_a_malformed_text_are_counted_too() {
        for text in ["[", "[^", "[]", "(", ")", "{", "{,", "a{", "\\", "[\\", "[[:a", "*", "(((("] {
            assert!(steps(text) < 10, "{text}");
        }
    }

    #[test]
    fn groups_capture_nothing() {
        for (text, expected) in [
            ("", ""),
            ("(a)(?:b)", "(?:a)(?:b)"),
            ("(?P<name>a)|(?<other>b)", "(?:a)|(?:b)"),
            ("(?i)a(?s:.)(?-s:.)", "(?i)a(?s:.)(?-s:.)"),
            (r"\((a)\)", r"\((?:a)\)"),
            ("[(](a)[^])](b)[[:alpha:](](c)", "[(](?:a)[^])](?:b)[[:alpha:](](?:c)"),
            ("((é)ü)", "(?:(?:é)ü)"),
            (r"\é(a)", r"\é(?:a)"),
        ] {
            assert_eq!(without_captures(text), expected, "{text}");
        }
        let pattern = Pattern::compile("(a)(?P<x>b)+", false).unwrap();
        assert_eq!(pattern.compiled.captures_len(), 1);
        assert_eq!([pattern.matches(b"abb"), pattern.matches(b"a")], [Some(true), Some(false)]);
    }

    #[test]
    fn tokens_together_are_the_text_however_malformed() {
        for text in ["[é", "(?", "(?P<é", "\\", "[\\é", "(?i", "[[:é", "é(", "[^]é]", "(?<"] {
            assert_eq!(tokens(text).collect::<String>(), text);
        }
    }

    #[test]
    fn the_flag_x_is_refused_wherever_flags_are() {
        for text in ["(?x)a", "(?ix)a", "(?i-x)a", "a(?sx:b)", "(?x)(a?){9 0 0 0}"] {
            assert!(matches!(Pattern::compile(text, false), Err(PatternError::Verbose)), "{text}");
        }
        for text in ["x", "(x)", "(?P<x>a)", "(?<x>a)", "(?:x)", "(?i)x", r"\(?x", "[(]?x"] {
            assert!(Pattern::compile(text, false).is_ok(), "{text}");
        }
    }

    #[test]
    fn no_legal_regex_is_refused_by_the_compilers_own_limit() {
        let class: String = (0..100).map(|index| char::from_u32(0x4e00 + 2 * index).unwrap()).collect();
        for text in ["a{2000}".to_owned(), "(a?){1000}".to_owned(), format!("[{class}]{{100}}")] {
            for ignore_case in [false, true] {
                assert!(Pattern::compile(&text, ignore_case).is_ok(), "{text}");
            }
        }
        assert!(matches!(Pattern::compile("a{2049}", false), Err(PatternError::TooLarge(2_049))));
    }
}
