//! `graygate schema` prints a JSON Schema of the policy, made from the table of keys.
//!
//! The schema accepts every document that the filter accepts. It refuses what a schema can: unknown keys, wrong types,
//! values out of range, missing keys, and keys that exclude each other. What depends on other parts of a document, such as
//! the name of an upstream, only `graygate check` finds.

mod resource;
mod shape;

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use graygate::policy::document::Node;
use graygate::policy::keys;
use graygate::policy::keys::spec::{ObjectSpec, Shape};

use crate::failure::{Failure, print_line};
use crate::tree::{object, or_null, text};
use shape::Writer;

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The arguments of `schema`.
#[derive(Args)]
pub struct SchemaArguments {
    /// What the schema is for
    #[arg(long, value_enum, default_value_t = SchemaKind::Policy)]
    kind: SchemaKind,
    /// Write each part in its place, without `$ref`, for forms and tools that do not follow references
    #[arg(long)]
    inline: bool,
    /// Print the schema of what this subcommand prints as JSON instead
    #[arg(long, value_enum, value_name = "SUBCOMMAND", conflicts_with_all = ["kind", "inline"])]
    of: Option<ToolOutput>,
}

/// A subcommand that prints JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ToolOutput {
    Check,
    Diff,
    Explain,
    Simulate,
}

impl ToolOutput {
    /// Returns the schema of the output.
    fn schema(self) -> &'static str {
        match self {
            ToolOutput::Check => include_str!("outputs/check.schema.json"),
            ToolOutput::Diff => include_str!("outputs/diff.schema.json"),
            ToolOutput::Explain => include_str!("outputs/explain.schema.json"),
            ToolOutput::Simulate => include_str!("outputs/simulate.schema.json"),
        }
    }
}

/// What a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchemaKind {
    /// A policy, or a document of several
    Policy,
    /// Istio's WasmPlugin with a policy in it
    Wasmplugin,
    /// Istio's TrafficExtension with a policy in it
    Trafficextension,
}

/// Prints the schema.
pub fn run(arguments: &SchemaArguments) -> Result<(), Failure> {
    if let Some(output) = arguments.of {
        return print_line(output.schema().trim_end());
    }
    let schema = schema(arguments.kind, arguments.inline);
    let json = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::Usage(format!("the schema cannot be written as JSON: {error}")))?;
    print_line(&json)
}

fn schema(kind: SchemaKind, inline: bool) -> Node {
    let mut writer = Writer::new(inline);
    let several = writer.reference(&keys::DOCUMENT);
    let one = writer.reference(&keys::POLICY);
    // One of the two, so that an error is about the form that the user chose.
    let policy = object([
        ("if", object([("required", strings(["policies"]))])),
        ("then", several),
        ("else", one),
        ("type", text("object")),
    ]);
    let (title, mut schema) = match kind {
        SchemaKind::Policy => ("A policy of graygate, or a document of several", policy),
        SchemaKind::Wasmplugin => ("A WasmPlugin with a policy of graygate", resource::wasm_plugin(policy)),
        SchemaKind::Trafficextension => {
            ("A TrafficExtension with a policy of graygate", resource::traffic_extension(policy))
        }
    };
    let definitions = writer.definitions();
    let mut fields = vec![("$schema".to_owned(), text(DIALECT)), ("title".to_owned(), text(title))];
    if let Node::Object(own) = &mut schema {
        fields.append(own);
    }
    if !definitions.is_empty() {
        fields.push(("$defs".to_owned(), Node::Object(definitions.into_iter().collect())));
    }
    Node::Object(fields)
}

/// Returns a list of strings.
fn strings<'t>(words: impl IntoIterator<Item = &'t str>) -> Node {
    Node::List(words.into_iter().map(text).collect())
}

/// The definitions of a schema, by their names.
type Definitions = BTreeMap<String, Node>;

/// Returns the name under which a schema defines an object: its name in camel case.
fn definition_name(spec: &ObjectSpec) -> String {
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
fn default_value(value: &str, shape: &Shape) -> Option<Node> {
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
fn described(mut schema: Node, description: &str) -> Node {
    if let (Node::Object(fields), false) = (&mut schema, description.is_empty()) {
        fields.insert(0, ("description".to_owned(), text(description)));
    }
    schema
}

/// Returns whether a value may be null as well, which counts as absent.
fn or_absent(mut schema: Node, may_be_null: bool) -> Node {
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
fn non_empty(words: Vec<&str>) -> Node {
    or_null((!words.is_empty()).then(|| strings(words)))
}
