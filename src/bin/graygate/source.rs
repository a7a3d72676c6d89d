//! The text of a file, and the lines and columns of places in it.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::failure::Failure;
use crate::input;

/// The most bytes of a file that are read. A dump of the configuration of a large mesh's proxy is smaller.
const MAX_BYTES: u64 = 32 * 1_024 * 1_024;

/// A text with its name and its lines.
#[derive(Debug)]
pub struct Source {
    /// The name of the file in messages.
    pub name: String,
    /// The text, without a byte order mark.
    pub text: String,
    /// The offset at which each line starts.
    line_starts: Vec<usize>,
}

/// A place in a text. Both numbers count from 1. Columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineColumn {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Why a text cannot be read, and the offset at which the cause stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextProblem {
    /// The offset, in bytes.
    pub at: usize,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// Returns the name of a path in messages.
pub fn display_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

impl Source {
    /// Reads a file, or standard input if the path is `-`. If the file is not text in UTF-8, returns the text before the
    /// first byte that is not, and what is wrong.
    ///
    /// # Errors
    ///
    /// Returns a [`Failure`] if the file cannot be read.
    pub fn read(path: &Path) -> Result<(Self, Option<TextProblem>), Failure> {
        let mut bytes = Vec::new();
        let name = display_name(path);
        let read = input::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::io(&name, &error))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
            let message = "longer than 32 MiB, the most that is read. Give a file that has only the policy.";
            let problem = TextProblem { at: 0, message: message.to_owned() };
            return Ok((Self::new(name, Vec::new()).0, Some(problem)));
        }
        Ok(Self::new(name, bytes))
    }

    /// Returns the text of a file. If the bytes are not text in UTF-8, returns the part before the first that is not, and
    /// what is wrong.
    pub fn new(name: String, bytes: Vec<u8>) -> (Self, Option<TextProblem>) {
        let (text, problem) = decode(bytes);
        let mut line_starts = vec![0];
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        line_starts.extend(breaks.map(|(offset, _)| offset + 1));
        (Self { name, text, line_starts }, problem)
    }

    /// Returns the place of an offset.
    pub fn place(&self, offset: usize) -> LineColumn {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        LineColumn { line, column: before.chars().count() + 1 }
    }

    /// Returns the offset of a line, which counts from 1.
    pub fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len())
    }

    /// Returns the range with at least one character. An empty range, as that of a list in block style, gets the rest of the
    /// line's word.
    pub fn widened(&self, range: Range<usize>) -> Range<usize> {
        if !range.is_empty() {
            return range;
        }
        let rest = self.text.get(range.start..).unwrap_or_default();
        let word = rest.find(|char: char| char.is_whitespace() || char == ':').unwrap_or(rest.len());
        range.start..range.start + word
    }
}

/// Returns the text. If the bytes are not UTF-8, returns the part before the first that is not, and what is wrong.
fn decode(bytes: Vec<u8>) -> (String, Option<TextProblem>) {
    let is_utf_16 = |bytes: &[u8]| {
        bytes.starts_with(b"\xff\xfe")
            || bytes.starts_with(b"\xfe\xff")
            || matches!(bytes, [0, first, 0, second, ..] | [first, 0, second, 0, ..] if *first != 0 && *second != 0)
    };
    if is_utf_16(&bytes) {
        let message = "text in UTF-16; allowed: UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 FILE".to_owned();
        return (String::new(), Some(TextProblem { at: 0, message }));
    }
    let (text, problem) = match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            let byte = bytes.get(at).copied().unwrap_or_default();
            bytes.truncate(at);
            let message = format!(
                "the byte 0x{byte:02X} is not text in UTF-8. Save the file as UTF-8. If it is in Latin-1: iconv -f ISO-8859-1 -t UTF-8 FILE"
            );
            (String::from_utf8(bytes).unwrap_or_default(), Some(TextProblem { at, message }))
        }
    };
    let nul = text.find('\0');
    let (text, problem) = match nul {
        Some(at) => {
            let message = "a NUL byte: the file is not text. Give a text file in UTF-8.".to_owned();
            (text.get(..at).unwrap_or_default().to_owned(), Some(TextProblem { at, message }))
        }
        None => (text, problem),
    };
    match text.strip_prefix('\u{feff}') {
        Some(rest) => {
            let mark = text.len() - rest.len();
            let problem =
                problem.map(|problem| TextProblem { at: problem.at - mark.min(problem.at), ..problem });
            (rest.to_owned(), problem)
        }
        None => (text, problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("a".to_owned(), text.as_bytes().to_vec()).0
    }

    #[test]
    fn columns_count_characters_after_any_end_of_line() {
        let source = source("é: ü\r\n\tb: 𝄞x\nc");
        for (found, line, column) in [("é", 1, 1), ("ü", 1, 4), ("b", 2, 2), ("x", 2, 6), ("c", 3, 1)] {
            let offset = source.text.find(found).unwrap();
            assert_eq!(source.place(offset), LineColumn { line, column }, "{found}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_column() {
        let source = source("\u{feff}a");
        assert_eq!((source.text.as_str(), source.place(0)), ("a", LineColumn { line: 1, column: 1 }));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_placed() {
        for (bytes, line, column, word) in [
            (b"a: 1\nb: \xe9".as_slice(), 2, 4, "0xE9"),
            (b"\xef\xbb\xbfa\xff", 1, 2, "0xFF"),
            (b"a\n\0", 2, 1, "NUL"),
            (b"\xff\xfea\0", 1, 1, "UTF-16"),
            (b"{\0\"\0", 1, 1, "UTF-16"),
            (b"\0{\0\"", 1, 1, "UTF-16"),
        ] {
            let (source, problem) = Source::new("a".to_owned(), bytes.to_vec());
            let problem = problem.unwrap();
            assert!(problem.message.contains(word), "{}", problem.message);
            assert_eq!(source.place(problem.at), LineColumn { line, column });
        }
    }
}
