//! The places of a text that is a string in another text, such as a policy in the configuration of Envoy.

use std::ops::Range;

/// The characters of a string that are not white space, where it is written and in its content.
///
/// White space is left out, as the styles of YAML differ in it: a block has an indentation, and a folded one has line breaks
/// for spaces. A problem is never with white space.
pub struct Embedded {
    written: Vec<(usize, char)>,
    content: Vec<(usize, char)>,
}

impl Embedded {
    /// Returns the string at this range of `source`. Returns `None` if what is written there has another content.
    pub fn new(source: &str, string: Range<usize>, content: &str) -> Option<Self> {
        let is_dark = |(_, char): &(usize, char)| !char.is_whitespace();
        let shift = |(offset, char)| (string.start + offset, char);
        let written = decoded(source.get(string.clone())?).into_iter().filter(is_dark).map(shift).collect();
        let content = content.char_indices().filter(is_dark).collect();
        let found = Self { written, content };
        let same = found.written.iter().map(|(_, char)| char).eq(found.content.iter().map(|(_, char)| char));
        same.then_some(found)
    }

    /// Returns where a range of the content is written.
    pub fn range(&self, range: Range<usize>) -> Option<Range<usize>> {
        let index_of = |offset: usize| self.content.partition_point(|(known, _)| *known < offset);
        let end_of = |index: usize| self.written.get(index).map(|(offset, char)| offset + char.len_utf8());
        let first = index_of(range.start).min(self.written.len().saturating_sub(1));
        let (start, _) = *self.written.get(first)?;
        if range.is_empty() {
            return Some(start..start);
        }
        Some(start..end_of(index_of(range.end).max(first + 1) - 1)?)
    }
}

/// Returns the characters that a string stands for, each with the offset at which it is written.
fn decoded(slice: &str) -> Vec<(usize, char)> {
    let inside = |quote: char| slice.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(inside) = inside('"') {
        return unescaped(inside).into_iter().map(|(offset, char)| (offset + 1, char)).collect();
    }
    let Some(inside) = inside('\'') else {
        return slice.char_indices().collect();
    };
    let mut chars = inside.char_indices().peekable();
    let mut found = Vec::with_capacity(inside.len());
    while let Some((offset, char)) = chars.next() {
        // Two quotes stand for one.
        if char == '\'' {
            chars.next_if(|(_, next)| *next == '\'');
        }
        found.push((offset + 1, char));
    }
    found
}

/// Returns the characters between double quotes. Escapes are those of JSON and YAML.
fn unescaped(text: &str) -> Vec<(usize, char)> {
    let mut found = Vec::with_capacity(text.len());
    let mut chars = text.char_indices();
    let mut high = None;
    while let Some((offset, char)) = chars.next() {
        if char != '\\' {
            found.push((offset, char));
            continue;
        }
        let Some((_, escape)) = chars.next() else {
            break;
        };
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        let mut code = 0;
        for digit in chars.by_ref().take(digits).filter_map(|(_, char)| char.to_digit(16)) {
            code = code * 16 + digit;
        }
        match (escape, code) {
            // The two halves of a character beyond 16 bits.
            ('u', 0xD800..0xDC00) => high = Some((offset, code)),
            ('u', 0xDC00..0xE000) => {
                if let Some((offset, high)) = high.take() {
                    let code = 0x1_0000 + ((high - 0xD800) << 10) + (code - 0xDC00);
                    found.extend(char::from_u32(code).map(|char| (offset, char)));
                }
            }
            ('x' | 'u' | 'U', code) => found.extend(char::from_u32(code).map(|char| (offset, char))),
            ('n' | 't' | 'r' | '\n' | '\r', _) => {}
            ('b', _) => found.push((offset, '\u{8}')),
            ('f', _) => found.push((offset, '\u{c}')),
            ('0', _) => found.push((offset, '\0')),
            (other, _) => found.push((offset, other)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Marks;
    use graygate::policy::document::Node;

    #[test]
    fn a_word_of_a_string_is_found_in_each_style_of_yaml_and_in_json() {
        let content = "{\n  \"é's\": \"𝄞\\\"\",\n  \"name\": \"here\"\n}\n";
        let block: String = content.lines().map(|line| format!("    {line}\n")).collect();
        let json = serde_json::to_string(content).unwrap();
        let ascii: String = json
            .chars()
            .flat_map(|char| {
                let mut units = [0; 2];
                let escaped: String =
                    char.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect();
                if char.is_ascii() { char.to_string() } else { escaped }.chars().collect::<Vec<_>>()
            })
            .collect();
        let quoted = format!("'{}'", content.replace('\'', "''").replace('\n', " "));
        for source in [
            format!("a: |\n{block}b: 1\n"),
            format!("a: |2-\n{block}b: 1\n"),
            format!("a: >\n{block}b: 1\n"),
            format!("a: {quoted}\nb: 1\n"),
            format!("a: {json}\nb: 1\n"),
            format!("{{\"a\": {ascii}, \"b\": 1}}\n"),
        ] {
            let node: Node = serde_saphyr::from_str(&source).unwrap();
            let Some(Node::Text(text)) = node.field("a") else { panic!("{source}") };
            let string = Marks::read(&source)[0].at(&[0]).value.clone();
            for word in ["name", "here", "}"] {
                let start = text.rfind(word).unwrap();
                let embedded = Embedded::new(&source, string.clone(), text);
                let range = embedded.and_then(|embedded| embedded.range(start..start + word.len()));
                let range = range.unwrap_or_else(|| panic!("{source}"));
                let expected = source[..string.end].rfind(word).unwrap();
                assert_eq!((range.start, &source[range]), (expected, word), "{source}");
            }
        }
    }

    #[test]
    fn a_string_with_another_content_has_no_places() {
        assert!(Embedded::new("a: b", 3..4, "c").is_none());
        assert_eq!(Embedded::new("a: ''", 3..5, "").unwrap().range(0..0), None);
    }
}
