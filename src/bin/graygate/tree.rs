//! Functions on documents: to build them, to look values up, and to read and write YAML.

use graygate::policy::document::Node;
use graygate::policy::reader::segment;
use serde_saphyr::ser_options;

use crate::failure::Failure;

/// Returns a string.
pub fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

/// Returns a whole number.
pub fn number(number: impl Into<i128>) -> Node {
    Node::Integer(number.into())
}

/// Returns a list.
pub fn list(items: impl IntoIterator<Item = Node>) -> Node {
    Node::List(items.into_iter().collect())
}

/// Returns an object with its fields in this order. Leaves out fields that are null, so that a caller can list optional
/// fields by [`or_null`].
pub fn object<const N: usize>(fields: [(&str, Node); N]) -> Node {
    let present = fields.into_iter().filter(|(_, node)| *node != Node::Null);
    Node::Object(present.map(|(key, node)| (key.to_owned(), node)).collect())
}

/// Returns the value, or null if there is none.
pub fn or_null(node: Option<Node>) -> Node {
    node.unwrap_or(Node::Null)
}

/// Returns the fields of an object, and no fields of any other value.
pub fn fields(node: &Node) -> &[(String, Node)] {
    match node {
        Node::Object(fields) => fields,
        _ => &[],
    }
}

/// Returns the items of a list, and no items of any other value.
pub fn items(node: Option<&Node>) -> &[Node] {
    match node {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

/// Follows these keys through nested objects and returns the value at their end.
pub fn get<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter()
        .try_fold(node, |node, key| fields(node).iter().find(|(name, _)| name == key).map(|(_, value)| value))
}

/// Follows these keys through nested objects and returns the value at their end, to be changed.
pub fn get_mut<'n>(node: &'n mut Node, keys: &[&str]) -> Option<&'n mut Node> {
    keys.iter().try_fold(node, |node, key| match node {
        Node::Object(fields) => fields.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value),
        _ => None,
    })
}

/// Follows these keys through nested objects and returns the string at their end.
pub fn get_text<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n str> {
    match get(node, keys) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

/// Follows these keys of protobuf messages and returns the value at their end. As in the JSON of protobuf, each key may
/// also be in lowerCamelCase.
pub fn get_field<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter().try_fold(node, |node, key| {
        fields(node).iter().find(|(name, _)| is_field(name, key)).map(|(_, value)| value)
    })
}

/// Follows these keys of protobuf messages and returns the string at their end. See [`get_field`].
pub fn get_field_text<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n str> {
    match get_field(node, keys) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

/// Returns whether `name` is the key of a field, as it is or in lowerCamelCase.
pub fn is_field(name: &str, key: &str) -> bool {
    if name == key {
        return true;
    }
    let mut rest = name.chars();
    let mut is_start = false;
    let is_same = key.chars().all(|character| {
        if character == '_' {
            is_start = true;
            return true;
        }
        let expected = if is_start { character.to_ascii_uppercase() } else { character };
        is_start = false;
        rest.next() == Some(expected)
    });
    is_same && rest.next().is_none()
}

/// Returns the path of each key that an object in this value has twice. Does not look into the value of a key that
/// `is_skipped`.
pub fn repeated_keys(node: &Node, is_skipped: &dyn Fn(&str) -> bool) -> Vec<String> {
    fn add(node: &Node, path: &str, is_skipped: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
        let entries = fields(node);
        for (index, (key, value)) in entries.iter().enumerate() {
            let path = format!("{path}{}", segment(path, key));
            if entries.iter().take(index).any(|(other, _)| other == key) {
                found.push(path.clone());
            }
            if !is_skipped(key) {
                add(value, &path, is_skipped, found);
            }
        }
        for (index, item) in items(Some(node)).iter().enumerate() {
            add(item, &format!("{path}[{index}]"), is_skipped, found);
        }
    }
    let mut found = Vec::new();
    add(node, "", is_skipped, &mut found);
    found
}

/// Returns the value as a whole number. Takes a float or a string for one, as other tools write them.
pub fn to_whole_number(node: &Node) -> Option<u32> {
    match node {
        Node::Integer(number) => u32::try_from(*number).ok(),
        Node::Number(number) if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number) => {
            Some(*number as u32)
        }
        Node::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// Sets a field of an object. Replaces the field in its place, or inserts it after the first field. Does nothing if the
/// node is not an object.
pub fn set(node: &mut Node, key: &str, value: Node) {
    let Node::Object(fields) = node else {
        return;
    };
    match fields.iter_mut().find(|(name, _)| name == key) {
        Some((_, known)) => *known = value,
        None => fields.insert(1.min(fields.len()), (key.to_owned(), value)),
    }
}

/// Removes a field of an object.
pub fn remove(node: &mut Node, key: &str) {
    if let Node::Object(fields) = node {
        fields.retain(|(name, _)| name != key);
    }
}

/// Reads the documents of a YAML stream.
#[cfg(test)]
pub fn read_all(text: &str) -> Result<Vec<Node>, serde_saphyr::Error> {
    serde_saphyr::from_multiple_with_options(text, crate::syntax::yaml_options())
}

/// Writes one document as YAML. Quotes strings that any reader, also one of YAML 1.1, would take for another type.
pub fn write(node: &Node) -> Result<String, Failure> {
    let options = ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(node, options)
        .map_err(|error| Failure::Usage(format!("the manifest can't be written as YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_yaml_reads_back_as_the_same_document() {
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
    fn a_field_of_a_message_is_found_in_snake_case_and_in_lower_camel_case() {
        for (name, found) in [
            ("http_uri", true),
            ("httpUri", true),
            ("httpuri", false),
            ("HttpUri", false),
            ("httpUris", false),
            ("http", false),
        ] {
            let node = object([(name, text("a"))]);
            assert_eq!(get_field_text(&node, &["http_uri"]).is_some(), found, "{name}");
        }
        assert!(is_field("@type", "@type"));
    }

    #[test]
    fn repeated_keys_are_found_at_any_depth_outside_of_skipped_values() {
        let node =
            read_all("a: {b: 1, b: 2}\nc: [{d: 1}, {d: 1, d: 2}]\nskip: {e: 1, e: 2}\na: 3\n").unwrap();
        let found = repeated_keys(&node[0], &|key| key == "skip");
        assert_eq!(found, ["a.b", "c[1].d", "a"]);
    }

    #[test]
    fn a_known_field_is_replaced_in_place_and_a_new_field_is_inserted_second() {
        let mut node = object([("name", text("a")), ("mode", text("off")), ("none", Node::Null)]);
        set(&mut node, "mode", text("shadow"));
        set(&mut node, "rollout", number(5));
        assert_eq!(write(&node).unwrap(), "name: a\nrollout: 5\nmode: shadow\n");
    }
}
