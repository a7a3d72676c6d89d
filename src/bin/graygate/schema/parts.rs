//! Parts of a schema.

use std::collections::BTreeMap;

use graygate::policy::document::Node;
use graygate::policy::keys::spec::{ObjectSpec, Shape};

use crate::tree::{object, or_null, text};

/// Returns a list of strings.
pub fn strings<'t>(words: impl IntoIterator<Item = &'t str>) -> Node {
    Node::List(words.into_iter().map(text).collect())
}

/// The definitions of a schema, by their names.
pub type Definitions = BTreeMap<String, Node>;

/// Returns the name under which a schema defines an object: its name in camel case.
pub fn definition_name(spec: &ObjectSpec) -> String {
    let name = spec.name.trim_start_matches("a ").trim_start_matches("an ");
    let mut words = name.split(' ');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let capital = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &capital.into_iter().chain(letters).collect::<String>()
    })
}

/// Returns the default of a key as its schema has it.
pub fn default_value(value: &str, shape: &Shape) -> Option<Node> {
    Some(match shape {
        Shape::Whole(..) => Node::Integer(value.parse().ok()?),
        Shape::Seconds(_) => {
            value.parse().map(Node::Integer).or_else(|_| value.parse().map(Node::Number)).ok()?
        }
        Shape::Boolean => Node::Bool(value == "true"),
        _ => text(value),
    })
}

/// Returns a schema with a description, if there is one.
pub fn described(mut schema: Node, description: &str) -> Node {
    if let (Node::Object(fields), false) = (&mut schema, description.is_empty()) {
        fields.insert(0, ("description".to_owned(), text(description)));
    }
    schema
}

/// Returns whether a value may be null as well, which counts as absent.
pub fn or_absent(mut schema: Node, may_be_null: bool) -> Node {
    if !may_be_null {
        return schema;
    }
    if let Node::Object(fields) = &mut schema {
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("type", value @ Node::Text(_)) => {
                    *value = Node::List(vec![value.clone(), text("null")]);
                    return schema;
                }
                ("enum", Node::List(words)) => {
                    words.push(Node::Null);
                    return schema;
                }
                _ => {}
            }
        }
    }
    object([("anyOf", Node::List(vec![schema, object([("type", text("null"))])]))])
}

/// Returns an optional list of strings.
pub fn non_empty(words: Vec<&str>) -> Node {
    or_null((!words.is_empty()).then(|| strings(words)))
}
