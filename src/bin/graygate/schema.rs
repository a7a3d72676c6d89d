//! `graygate schema` prints a JSON Schema of the policy, made from the table of keys.
//!
//! The schema accepts every document that the filter accepts. It refuses what a schema can: unknown keys, wrong types,
//! values out of range, missing keys, and keys that exclude each other. What depends on other parts of a document, such as
//! the name of an upstream, only `graygate check` finds.

mod parts;
mod resource;
mod shape;

use clap::{Args, ValueEnum};
use graygate::policy::document::Node;
use graygate::policy::keys;

use crate::failure::{Failure, print_line};
use crate::tree::{object, text};
use parts::strings;
use shape::Writer;

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate schema > policy.schema.json
  graygate schema --kind wasmplugin --inline > wasmplugin.schema.json";

/// The arguments of `schema`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
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
    /// The status page, which `probes.status` answers
    Status,
    /// The output of `graygate status --json`
    StatusReport,
}

impl ToolOutput {
    /// Returns the schema of the output.
    fn schema(self) -> &'static str {
        match self {
            ToolOutput::Check => include_str!("outputs/check.schema.json"),
            ToolOutput::Diff => include_str!("outputs/diff.schema.json"),
            ToolOutput::Explain => include_str!("outputs/explain.schema.json"),
            ToolOutput::Status => include_str!("outputs/status.schema.json"),
            ToolOutput::StatusReport => include_str!("outputs/status-report.schema.json"),
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
