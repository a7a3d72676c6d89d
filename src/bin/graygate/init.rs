//! `graygate init` writes a first policy, from arguments or from answers.

mod answers;
mod draft;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use graygate::policy::document::Node;
use graygate::policy::set::PolicySet;

use crate::failure::{Failure, print_error, print_line};
use draft::{Draft, DraftKey, NamedCluster};

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate init
  graygate init policy.yaml --name reviews --release v1=reviews-v1,v2=reviews-v2 --weight v2=10 --hash-on header:x-user-id
  graygate init app.yaml --name shop --upstream app --check /healthz --probe /readyz --gate";

/// The arguments of `init`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArguments {
    /// The file to write; "-" is standard output
    #[arg(default_value = "policy.yaml")]
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Begin the file with a line that tells editors where the JSON Schema is
    #[arg(long, value_name = "PATH")]
    schema: Option<String>,

    /// The policy's name, a DNS label. Without it, a terminal gets questions instead
    #[arg(long, help_heading = "The policy")]
    name: Option<String>,
    /// Whether decisions take effect: first shadow, and enforce once the metrics look right
    #[arg(long, default_value = "shadow", value_parser = ["enforce", "shadow", "off"], help_heading = "The policy")]
    mode: String,
    /// An upstream and its Envoy cluster; may be repeated. Without =CLUSTER, the cluster has the same name
    #[arg(long, value_name = "NAME[=CLUSTER]", value_parser = draft::parse_upstream, help_heading = "The policy")]
    upstream: Vec<NamedCluster>,
    /// Divide requests among these versions, each with its Envoy cluster. The first one is the default
    #[arg(
        long,
        value_name = "VERSION=CLUSTER,…",
        value_delimiter = ',',
        value_parser = draft::parse_version,
        help_heading = "The policy"
    )]
    release: Vec<NamedCluster>,
    /// The weight of a version; may be repeated. The default version has the rest of 100, and others have 0
    #[arg(
        long,
        value_name = "VERSION=WEIGHT",
        value_parser = draft::parse_weight,
        requires = "release",
        help_heading = "The policy"
    )]
    weight: Vec<(String, u32)>,
    /// What tells users apart: header:NAME, cookie:NAME, query:NAME or source-ip; may be repeated, the first one present
    /// counts [default: requests take turns]
    #[arg(
        long,
        value_name = "KEY",
        value_parser = draft::parse_key,
        requires = "release",
        help_heading = "The policy"
    )]
    hash_on: Vec<DraftKey>,
    /// The path at which the proxy asks each upstream for its health
    #[arg(long, value_name = "PATH", help_heading = "The policy")]
    check: Option<String>,
    /// The path at which the proxy answers readiness probes
    #[arg(long, value_name = "PATH", help_heading = "The policy")]
    probe: Option<String>,
    /// Answer 503 at once while the first upstream is not ready
    #[arg(long, help_heading = "The policy")]
    gate: bool,
}

/// Writes the policy of the arguments, or that of the answers to a few questions.
pub fn run(arguments: &InitArguments) -> Result<(), Failure> {
    let is_stdout = arguments.file.as_os_str() == "-";
    let file = arguments.file.display();
    // Refuses before it asks anything.
    if !is_stdout && !arguments.force && arguments.file.exists() {
        return Err(Failure::Usage(format!(
            "{file} exists already. Name another file, or add --force to replace it."
        )));
    }
    let mut draft = Draft {
        schema: arguments.schema.clone(),
        name: arguments.name.clone().unwrap_or_default(),
        mode: arguments.mode.clone(),
        upstreams: arguments.upstream.clone(),
        versions: arguments.release.clone(),
        weights: arguments.weight.clone(),
        keys: arguments.hash_on.clone(),
        check: arguments.check.clone(),
        probe: arguments.probe.clone(),
        has_gate: arguments.gate,
    };
    if arguments.name.is_none() {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Failure::Usage(
                "the policy needs a name: add --name NAME. Questions are only asked on a terminal."
                    .to_owned(),
            ));
        }
        answers::complete(&mut draft)?;
    }
    draft.check_weights()?;
    draft.check_parts()?;
    let text = draft.text()?;
    validate(&text)?;
    if is_stdout {
        return std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::output(&error));
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!arguments.force);
    let written = options.open(&arguments.file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::io(&file, &error))?;
    print_line(&format!("{file}: written. Check it after each change: graygate check {file}"))
}

/// Refuses arguments that do not make a policy.
fn validate(text: &str) -> Result<(), Failure> {
    let document: Node =
        serde_saphyr::from_str(text).map_err(|error| Failure::Usage(format!("not YAML: {error}")))?;
    let Err(problems) = PolicySet::from_document(&document) else {
        return Ok(());
    };
    for problem in problems.iter() {
        print_error(&problem.to_string());
    }
    Err(Failure::Usage("these arguments do not make a policy, so nothing is written".to_owned()))
}
