//! Documents as trees: built, looked into, and read and written as YAML.

use graygate::policy::document::Node;
use serde_saphyr::{DuplicateKeyPolicy, options, ser_options};

use crate::failure::Failure;

/// A text.
pub fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

/// A whole number.
pub fn number(number: impl Into<i128>) -> Node {
    Node::Integer(number.into())
}

/// A list.
pub fn list(items: impl IntoIterator<Item = Node>) -> Node {
    Node::List(items.into_iter().collect())
}

/// An object, in this order. A field that is null is left out: that is how one that is not always there is written.
pub fn object<const N: usize>(fields: [(&str, Node); N]) -> Node {
    let there = fields.into_iter().filter(|(_, node)| *node != Node::Null);
    Node::Object(there.map(|(key, node)| (key.to_owned(), node)).collect())
}

/// What is there, or null.
pub fn some(node: Option<Node>) -> Node {
    node.unwrap_or(Node::Null)
}

/// The fields of an object; none of anything else.
pub fn fields(node: &Node) -> &[(String, Node)] {
    match node {
        Node::Object(fields) => fields,
        _ => &[],
    }
}

/// The items of a list; none of anything else.
pub fn items(node: Option<&Node>) -> &[Node] {
    match node {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

/// What stands at the end of these keys.
pub fn get<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter()
        .try_fold(node, |node, key| fields(node).iter().find(|(name, _)| name == key).map(|(_, value)| value))
}

/// The text that stands at the end of these keys.
pub fn get_text<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n str> {
    match get(node, keys) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

/// The whole number that a value is, also one that another tool has written as a float or as text.
pub fn whole(node: &Node) -> Option<u32> {
    match node {
        Node::Integer(number) => u32::try_from(*number).ok(),
        Node::Number(number) if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number) => {
            Some(*number as u32)
        }
        Node::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// Gives `key` of an object this value: where it stands already, or else after its first field.
pub fn set(node: &mut Node, key: &str, value: Node) {
    let Node::Object(fields) = node else {
        return;
    };
    match fields.iter_mut().find(|(name, _)| name == key) {
        Some((_, known)) => *known = value,
        None => fields.insert(1.min(fields.len()), (key.to_owned(), value)),
    }
}

/// The documents of a YAML stream, which JSON is, too.
pub fn read_all(text: &str) -> Result<Vec<Node>, String> {
    // A repeated key reaches whoever gives it a meaning, and can name its path.
    let options = options! { duplicate_keys: DuplicateKeyPolicy::LastWins, strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

/// The YAML of one document. Quoted is what any reader, also one of YAML 1.1, would take for something else than a text.
pub fn write(node: &Node) -> Result<String, Failure> {
    let options = ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(node, options)
        .map_err(|error| Failure::Usage(format!("the manifest can't be written as YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let policy = include_str!("../../../tests/data/full-policy.json");
        let mut node: Node = serde_json::from_str(policy).unwrap();
        let odd = [
            "yes",
            "24h",
            "1e3",
            "0x1F",
            "012",
            "2026-12-01",
            "1:30",
            "~",
            "",
            " a ",
            "- b",
            "a: b",
            "#c",
            "é\u{7}",
        ];
        let lines = ["{\n  \"a\": 1\n}", "a\n", "\n a\n\n", "x ".repeat(200).as_str()].map(text);
        let numbers =
            [Node::Number(0.5), Node::Number(1e20), Node::Integer(i128::from(u64::MAX)), Node::Bool(true)];
        set(&mut node, "odd", list(odd.map(text).into_iter().chain(lines).chain(numbers)));
        let yaml = write(&node).unwrap();
        assert_eq!(read_all(&yaml).unwrap(), [node]);
    }

    #[test]
    fn a_field_is_replaced_in_its_place_and_a_new_one_comes_second() {
        let mut node = object([("name", text("a")), ("mode", text("off")), ("none", Node::Null)]);
        set(&mut node, "mode", text("shadow"));
        set(&mut node, "rollout", number(5));
        assert_eq!(write(&node).unwrap(), "name: a\nrollout: 5\nmode: shadow\n");
    }
}
