//! Parses YAML and JSON, and says in plain words what cannot be parsed.

use graygate::policy::document::Node;
use serde_saphyr::{DuplicateKeyPolicy, Error, NonFiniteFloatPolicy, Options, alias_limits, budget, options};

use crate::source::{Source, TextProblem};

/// The deepest nesting of YAML that is read. Each level takes up to 20 kB of the stack.
const MAX_DEPTH: usize = 64;
/// The problem of a tab before a key.
const TAB: &str = "a tab in the indentation. Indent with spaces.";

/// The options for YAML.
pub fn yaml_options() -> Options {
    options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            max_nodes: 5_000_000,
            max_events: 20_000_000,
            // The longest key that is read. Keys of JSON have no limit.
            simple_key_max_lookahead: 1_048_576,
        },
        alias_limits: alias_limits! { max_total_replayed_events: 100_000 },
        // Lets every repeated key through, as the policy's own check reports each with its path.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        // The policy's own check says where such a number is.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// Returns whether the text is JSON: by the extension of its file, or by its beginning.
pub fn is_json(source: &Source) -> bool {
    match source.name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => source
            .text
            .trim_start()
            .strip_prefix('{')
            .is_some_and(|rest| rest.trim_start().starts_with(['"', '}'])),
    }
}

/// Parses the documents of a text. JSON has one. Leaves out documents that are empty.
///
/// # Errors
///
/// Returns what is wrong with the text.
pub fn parse(source: &Source) -> Result<Vec<(usize, Node)>, TextProblem> {
    let text = source.text.as_str();
    if is_json(source) && !text.trim().is_empty() {
        return parse_json(text).map(|node| vec![(0, node)]);
    }
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(text, yaml_options())
        .map_err(|error| yaml_problem(source, &error))?;
    let present = documents.into_iter().enumerate().filter(|(_, node)| *node != Node::Null);
    Ok(present.collect())
}

/// Parses one value of JSON.
///
/// # Errors
///
/// Returns what is wrong with the text.
pub fn parse_json(text: &str) -> Result<Node, TextProblem> {
    serde_json::from_str(text).map_err(|error| json_problem(text, &error))
}

/// Returns whether the text is a template of Helm, or of the like, which is YAML only when its values are filled in.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") && text.contains("}}")
}

fn yaml_problem(source: &Source, error: &Error) -> TextProblem {
    let location = error.location();
    let at = location.and_then(|location| {
        let (line, column) =
            (usize::try_from(location.line()).ok()?, usize::try_from(location.column()).ok()?);
        let start = source.line_start(line);
        let rest = source.text.get(start..)?;
        let offset =
            rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(offset, _)| offset);
        Some(start + offset)
    });
    let message = match is_template(&source.text) {
        true => "a template, which is YAML only when its values are filled in. Check what it renders: helm template CHART | graygate check -".to_owned(),
        false => yaml_words(error),
    };
    let at = at.unwrap_or_default();
    let at = if message == TAB { tab_after(source, at).unwrap_or(at) } else { at };
    TextProblem { at, message }
}

/// Returns the offset of the first tab in the indentation of a line, from the line at `at` on. The parser may stop at the
/// value before it.
fn tab_after(source: &Source, at: usize) -> Option<usize> {
    let mut start = source.line_start(source.place(at).line);
    for line in source.text.get(start..)?.split_inclusive('\n') {
        let indentation = line.len() - line.trim_start().len();
        if let Some(tab) = line.get(..indentation)?.find('\t') {
            return Some(start + tab);
        }
        start += line.len();
    }
    None
}

/// Says what is wrong with YAML. The parser's own words stand only where they are about YAML.
fn yaml_words(error: &Error) -> String {
    const UNTOLD: &str = "a value that cannot be read";
    match error.without_snippet() {
        Error::AliasError { error, .. } => yaml_words(error),
        Error::Budget { breach, .. } => match breach {
            serde_saphyr::budget::BudgetBreach::Depth { .. } => too_deep(),
            _ => "more values than are read. Give a file that has only the policy.".to_owned(),
        },
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "aliases of aliases stand for more than 100,000 values. Write the values out.".to_owned()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias inside its own anchor. Write the value out.".to_owned()
        }
        Error::UnknownAnchor { .. } => {
            "an alias without an anchor before it. Add the anchor, or quote the value.".to_owned()
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "<< needs an object, or a list of objects, by an alias.".to_owned()
        }
        Error::InvalidBinaryBase64 { .. } | Error::BinaryNotUtf8 { .. } => {
            "!!binary is not text. Write the text as a string.".to_owned()
        }
        Error::Unexpected { .. } | Error::SerdeInvalidType { .. } => {
            "a key that is not a string. Quote the key.".to_owned()
        }
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => yaml_syntax_words(msg),
        _ => UNTOLD.to_owned(),
    }
}

/// Says what is wrong with the syntax of YAML, and how to mend it.
fn yaml_syntax_words(message: &str) -> String {
    let known = [
        ("tab", TAB),
        ("recursion limit", ""),
        (
            "mapping values are not allowed",
            "a second \": \" where a value has one line. Quote the value, or put the key on a line of its own.",
        ),
        ("unknown anchor", "an alias without an anchor before it. Add the anchor, or quote the value."),
        (
            "escape",
            "a backslash that YAML does not know in double quotes. Write \\\\ for a backslash, or use single quotes.",
        ),
        ("quote", "a quote without an end. Add the closing quote."),
        (
            "simple key expected",
            "a line without \": \". Write KEY: VALUE, and indent what continues a value.",
        ),
        (
            "did not find expected key",
            "a line that is neither a key nor a continuation. Check the indentation of the line and of those before it.",
        ),
        ("reserved", "a value that begins with a character YAML reserves. Quote the value."),
        ("unexpected character", "a character that YAML does not allow here. Quote the value."),
    ];
    let found = known.iter().find(|(part, _)| message.contains(part));
    match found {
        Some((_, "")) => too_deep(),
        Some((_, words)) => (*words).to_owned(),
        None => format!("not YAML: {message}. Check the brackets, quotes and indentation before this place."),
    }
}

fn too_deep() -> String {
    "nested deeper than is read. A policy needs fewer than 12 levels.".to_owned()
}

fn json_problem(text: &str, error: &serde_json::Error) -> TextProblem {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let start: usize = lines.map(str::len).sum();
    // The parser counts the characters that it has read, so after a line break it stands before the first of the next line.
    let mut at = (start + error.column()).saturating_sub(1).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let rest = text.get(at..).unwrap_or_default();
    let message = error.to_string();
    let message = message.split_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let is_comment = ["//", "/*", "#"].iter().any(|start| rest.starts_with(start));
    let before = text.get(..at).unwrap_or_default().trim_end();
    let comma = before.strip_suffix(',').filter(|_| rest.starts_with(['}', ']']));
    if let Some(before) = comma {
        let message =
            "a comma before a closing bracket, which JSON does not allow. Remove the comma.".to_owned();
        return TextProblem { at: before.len(), message };
    }
    let words = if is_comment {
        "a comment, which JSON does not allow. Remove it, or save the file as .yaml, where comments begin with #.".to_owned()
    } else if error.is_eof() {
        "the text ends before its last bracket or quote is closed. Add what is missing.".to_owned()
    } else if rest.starts_with('\'') {
        "a single quote. JSON needs double quotes.".to_owned()
    } else if message.contains("recursion limit") {
        too_deep()
    } else if message.contains("key must be a string") {
        "a key without quotes. JSON needs double quotes around each key.".to_owned()
    } else if message.contains("trailing characters") {
        "text after the end of the document. JSON has one value in a file.".to_owned()
    } else if message.contains("control character") {
        "a line break or tab in a string. Write \\n or \\t.".to_owned()
    } else {
        format!("not JSON: {message}. Check the brackets, commas and quotes before this place.")
    };
    TextProblem { at, message: words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str, text: &str) -> (usize, usize, String) {
        let (source, problem) = Source::new(name.to_owned(), text.as_bytes().to_vec());
        assert_eq!(problem, None);
        let problem = parse(&source).unwrap_err();
        let place = source.place(problem.at);
        (place.line, place.column, problem.message)
    }

    #[test]
    fn each_kind_of_broken_text_is_placed_and_has_words_of_its_own() {
        let deep = ["[".repeat(10_000), "]".repeat(10_000)].concat();
        let deep_keys: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        for (name, text, line, column, words) in [
            ("a.yaml", "a:\n\tb: 1\n", 2, 1, "a tab in the indentation"),
            ("a.yaml", "a: 1\n\tb: []\n", 2, 1, "a tab in the indentation"),
            ("a.yaml", "a: \"b\\d\"\n", 1, 4, "a backslash that YAML does not know"),
            ("a.yaml", "é: b: c", 1, 5, "a second \": \""),
            ("a.yaml", "a: *x\n", 1, 4, "an alias without an anchor"),
            ("a.yaml", "&a [*a]", 1, 5, "an alias inside its own anchor"),
            ("a.yaml", "a: \"b\n", 2, 1, "a quote without an end"),
            ("a.yaml", "a: {\n", 1, 4, "not YAML: unclosed bracket '{'"),
            ("a.yaml", "a: 1\nb\nc: 2\n", 2, 1, "a line without \": \""),
            ("a.yaml", "? [a]\n: b\n", 1, 3, "a key that is not a string"),
            ("a.yaml", "a: !!binary x\n", 1, 13, "!!binary is not text"),
            ("a.yaml", "a: {{ .Values.a }}\n", 1, 5, "a template"),
            ("a.yaml", &bomb, 6, 10, "aliases of aliases"),
            ("a.yaml", &deep, 1, 256, "nested deeper than is read"),
            ("a.yaml", &deep_keys, 65, 65, "nested deeper than is read"),
            ("a.json", &deep, 1, 128, "nested deeper than is read"),
            ("a.json", "{\n  \"a\": 1, // why\n  \"b\": 2\n}", 2, 11, "a comment"),
            ("a.json", "/* why */\n{}", 1, 1, "a comment"),
            ("a.json", "{\n# why\n}", 2, 1, "a comment"),
            ("a.json", "{\"é\": 1,\n}", 1, 8, "a comma before a closing bracket"),
            ("a.json", "[1, 2,\n ]", 1, 6, "a comma before a closing bracket"),
            ("a.json", "{\"a\": 1", 1, 7, "the text ends before"),
            ("a.json", "{'a': 1}", 1, 2, "a single quote"),
            ("a.json", "{a: 1}", 1, 2, "a key without quotes"),
            ("a.json", "{}\n{}", 2, 1, "text after the end"),
            ("a.json", "{\"a\": \"b\n\"}", 1, 9, "a line break or tab"),
            ("a.json", "{\"a\" 1}", 1, 6, "not JSON: expected `:`"),
            ("-", "{\"a\": 1,}", 1, 8, "a comma before a closing bracket"),
        ] {
            let found = problem(name, text);
            assert!(found.2.starts_with(words), "{text:.40}: {found:?}");
            assert_eq!((found.0, found.1), (line, column), "{text:.40}: {found:?}");
        }
    }

    #[test]
    fn json_by_its_beginning_is_read_as_json_and_the_rest_as_yaml() {
        for (name, text, is) in [
            ("a.json", "a: 1", true),
            ("a.yml", "{\"a\": 1}", false),
            ("-", " {\"a\": 1}", true),
            ("-", "{a: 1}", false),
            ("-", "a: 1", false),
        ] {
            assert_eq!(is_json(&Source::new(name.to_owned(), text.as_bytes().to_vec()).0), is, "{text}");
        }
    }

    #[test]
    fn documents_keep_their_place_in_the_stream() {
        let source = Source::new("a".to_owned(), b"# c\n---\n---\na: 1\n---\nb: .inf\n".to_vec()).0;
        let read: Vec<usize> = parse(&source).unwrap().iter().map(|(index, _)| *index).collect();
        let all = crate::marks::Marks::read(&source.text);
        let starts: Vec<usize> =
            read.iter().map(|index| source.place(all[*index].value.start).line).collect();
        assert_eq!(starts, [4, 6]);
    }
}
