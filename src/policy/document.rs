//! A policy document as a tree, before it has a meaning. The tree keeps all that a user wrote, repeated keys included.
//!
//! `serde_json::Value` would keep only the last of two equal keys, and a derived type would stop at the first problem.
//! The tree is the same for JSON, which the filter reads, and for YAML, which only the tool reads.

use core::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// One value of the document.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`, or a key without a value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number, and a whole number beyond 64 bits.
    Number(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// An object. Fields are in document order, and a key may occur more than once.
    Object(Vec<(String, Node)>),
}

/// The most of a string that a message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 60;

impl fmt::Display for Node {
    /// Writes the value as messages quote it: shortened, on one line, with control characters escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Null => f.write_str("null"),
            Node::Bool(value) => write!(f, "{value}"),
            Node::Integer(value) => write!(f, "{value}"),
            Node::Number(value) => write!(f, "{value:?}"),
            Node::Text(text) if text.chars().nth(MAX_QUOTED_CHARS).is_some() => {
                let start: String = text.chars().take(MAX_QUOTED_CHARS).collect();
                write!(f, "{start:?}… ({} bytes)", text.len())
            }
            Node::Text(text) => write!(f, "{text:?}"),
            Node::List(items) => write!(f, "a list of {}", items.len()),
            Node::Object(fields) if fields.len() == 1 => f.write_str("an object of 1 field"),
            Node::Object(fields) => write!(f, "an object of {} fields", fields.len()),
        }
    }
}

impl Node {
    /// Returns the value of a field, if this is an object that has it. Of repeated keys, the first counts.
    pub fn field(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Object(fields) => fields.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the string, if this is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as JSON. A serializer of `serde_json` would add 10 kB of tables to the module.
    pub fn to_json(&self) -> String {
        let mut json = String::new();
        self.write_json(false, &mut json);
        json
    }

    /// Returns the value as JSON in its canonical form: the keys of each object are in order, and whole numbers have no
    /// fraction. Documents that a conversion from YAML or a `google.protobuf.Struct` made of one have the same form. Leaves
    /// out the fields of the value itself that are not `kept`.
    pub fn to_canonical_json(&self, kept: fn(&str) -> bool) -> String {
        let mut json = String::new();
        match self {
            Node::Object(fields) => {
                let fields = fields.iter().filter(|(key, _)| kept(key)).collect();
                write_object(fields, true, &mut json);
            }
            other => other.write_json(true, &mut json),
        }
        json
    }

    fn write_json(&self, is_canonical: bool, json: &mut String) {
        match self {
            Node::Text(text) => write_json_text(text, json),
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    json.push(if index == 0 { '[' } else { ',' });
                    item.write_json(is_canonical, json);
                }
                json.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Node::Object(fields) => write_object(fields.iter().collect(), is_canonical, json),
            // Larger numbers are not exact in a `google.protobuf.Struct`.
            Node::Number(value) if is_canonical && value.fract() == 0.0 && value.abs() < 9e15 => {
                *json += &(*value as i64).to_string();
            }
            // These are quoted in messages as JSON has them.
            plain => *json += &plain.to_string(),
        }
    }
}

fn write_object(fields: Vec<&(String, Node)>, is_canonical: bool, json: &mut String) {
    let mut ordered = Vec::with_capacity(fields.len());
    for field in fields {
        // A sort of the standard library would add several kilobytes to the module.
        let place = ordered.partition_point(|known: &&(String, Node)| !is_canonical || known.0 <= field.0);
        ordered.insert(place, field);
    }
    for (index, (key, value)) in ordered.iter().enumerate() {
        json.push(if index == 0 { '{' } else { ',' });
        write_json_text(key, json);
        json.push(':');
        value.write_json(is_canonical, json);
    }
    json.push_str(if ordered.is_empty() { "{}" } else { "}" });
}

/// Appends a string as JSON.
pub fn write_json_text(text: &str, json: &mut String) {
    json.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            char if char < ' ' => *json += &format!("\\u{:04x}", u32::from(char)),
            char => json.push(char),
        }
    }
    json.push('"');
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl Serialize for Node {
    /// Writes the value as it was read, with the same keys in the same order.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Integer(value) => serializer.serialize_i128(*value),
            Node::Number(value) => serializer.serialize_f64(*value),
            Node::Text(text) => serializer.serialize_str(text),
            Node::List(items) => items.serialize(serializer),
            Node::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_value_as_json_is_read_as_the_same_value() {
        for text in [
            "null",
            "[]",
            "{}",
            r#"[true,false,null,0,-7,18446744073709551615,0.5,1e300,-1e-7,[[]],{}]"#,
            r#"{"a":1,"a":{"b c":"é\"\\\n\u0000\u001f/"},"":""}"#,
        ] {
            let node: Node = serde_json::from_str(text).unwrap();
            let json = node.to_json();
            assert_eq!(serde_json::from_str::<Node>(&json).unwrap(), node, "{json}");
        }
        let text = r#"{"a":["b",1,1.5,true,null,{"c":"\\\""}]}"#;
        assert_eq!(serde_json::from_str::<Node>(text).unwrap().to_json(), text);
    }

    #[test]
    fn conversions_do_not_change_the_canonical_form() {
        let canonical =
            |text: &str| serde_json::from_str::<Node>(text).unwrap().to_canonical_json(|key| key != "x-note");
        let expected = r#"{"a":{"b":[1,0.5,-3,0],"x-note":null},"c":"1.0"}"#;
        for text in [
            expected,
            r#"{ "c": "1.0", "x-note": {"any": 1}, "a": {"x-note": null, "b": [1.0, 5e-1, -3, 0.0]} }"#,
            r#"{"a":{"b":[1e0,0.50,-3.0,-0.0],"x-note":null},"c":"\u0031.0"}"#,
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
        assert_ne!(canonical("[1,2]"), canonical("[2,1]"));
        assert_eq!(canonical("[1e300,9007199254740993]"), "[1e300,9007199254740993]");
    }
}
