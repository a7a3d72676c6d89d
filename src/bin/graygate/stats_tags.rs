//! `graygate stats-tags` prints what makes the labels of graygate's metrics known to Envoy, Istio or Envoy Gateway. All of it
//! is made from the table of metrics.

use std::io::Write;

use clap::{Args, ValueEnum};
use graygate::policy::document::Node;
use graygate::worker::metric::spec::labels;

use crate::failure::Failure;
use crate::render::manifest::comment_lines;
use crate::tree::{self, list, object, text};

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate stats-tags
  graygate stats-tags --for istio
  graygate stats-tags --for envoy-gateway >envoy-proxy.yaml";

/// The arguments of `stats-tags`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct StatsTagsArguments {
    /// The configuration that the rules are for
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value = "envoy")]
    reader: TagReader,
}

/// The configuration that has the rules. The comments are the text of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TagReader {
    /// The bootstrap of an Envoy: `stats_config`
    Envoy,
    /// Istio's mesh configuration: `extraStatTags`
    Istio,
    /// An EnvoyProxy of Envoy Gateway, which adds to the bootstrap
    EnvoyGateway,
}

/// Prints it.
pub fn run(arguments: &StatsTagsArguments) -> Result<(), Failure> {
    let (comments, node) = match arguments.reader {
        TagReader::Envoy => (envoy_comments(), bootstrap()),
        TagReader::Istio => (istio_comments(), mesh_config()),
        TagReader::EnvoyGateway => (comment_lines(&gateway_comments()), envoy_proxy()?),
    };
    let output = comments + &tree::write(&node)?;
    let written = std::io::stdout().lock().write_all(output.as_bytes());
    written.map_err(|error| Failure::output(&error))
}

/// Returns the value of `stats_config`, by which Envoy turns the labels in a counter's name into tags, and so into labels in
/// Prometheus.
///
/// A label is `<label>=.=<value>;.;` in the name. Envoy removes the first group, and the second is the value. The literal
/// prefix lets Envoy skip every other statistic. The separator before the label keeps `to` from matching at the end of
/// another one.
pub fn stats_config() -> Node {
    let tag = |label: &str| {
        let regex = format!(r"^wasmcustom\.graygate_.*?[.;]({label}=\.=(.*?);\.;)");
        object([("tag_name", text(label)), ("regex", text(regex))])
    };
    object([("stats_tags", list(labels().into_iter().map(tag)))])
}

fn made() -> String {
    format!(
        "Made by graygate {}: graygate stats-tags. Turns the labels in the names of graygate's metrics into labels of Prometheus.",
        env!("CARGO_PKG_VERSION")
    )
}

fn bootstrap() -> Node {
    object([("stats_config", stats_config())])
}

fn envoy_comments() -> String {
    comment_lines(&[
        made(),
        "Put it into the bootstrap. If that has stats_config.stats_tags already, add these to the list. Envoy reads them when it starts.".to_owned(),
    ])
}

fn mesh_config() -> Node {
    let tags = list(labels().into_iter().map(text));
    object([("meshConfig", object([("defaultConfig", object([("extraStatTags", tags)]))]))])
}

fn istio_comments() -> String {
    let comments = [
        made(),
        "Put it into the mesh configuration, and restart the workloads and gateways. A proxy reads it when it starts. The metrics need no proxyStatsMatcher.".to_owned(),
        "The pods of one workload can have this annotation instead:".to_owned(),
    ];
    format!("{}# sidecar.istio.io/extraStatTags: {}\n", comment_lines(&comments), labels().join(","))
}

/// Returns the resource of Envoy Gateway. It adds lists of `value` to those of its own bootstrap.
pub fn envoy_proxy() -> Result<Node, Failure> {
    let value = text(tree::write(&bootstrap())?);
    let bootstrap = object([("type", text("Merge")), ("value", value)]);
    Ok(object([
        ("apiVersion", text("gateway.envoyproxy.io/v1alpha1")),
        ("kind", text("EnvoyProxy")),
        ("metadata", object([("name", text("graygate"))])),
        ("spec", object([("bootstrap", bootstrap)])),
    ]))
}

/// Returns the comments above that resource.
pub fn gateway_comments() -> Vec<String> {
    vec![
        made(),
        "Name it in spec.infrastructure.parametersRef of the Gateway, or in spec.parametersRef of the GatewayClass. If there is an EnvoyProxy already, add spec.bootstrap to it.".to_owned(),
        "If spec.telemetry.metrics.matches is set, add the prefix wasmcustom.graygate_ to it.".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{get, get_text, read_all};

    fn tags(config: &Node) -> Vec<String> {
        let Some(Node::List(tags)) = get(config, &["stats_config", "stats_tags"]) else {
            panic!("no stats_tags: {config:?}");
        };
        let mut tags: Vec<_> = tags.iter().map(|tag| format!("{tag:?}")).collect();
        tags.sort();
        tags
    }

    #[test]
    fn the_shipped_configuration_has_the_same_rules() {
        let shipped = read_all(include_str!("../../../envoy/envoy.yaml")).unwrap();
        assert_eq!(tags(&shipped[0]), tags(&bootstrap()));
    }

    #[test]
    fn the_bootstrap_of_envoy_gateway_has_the_same_rules() {
        let resource = envoy_proxy().unwrap();
        let value = get_text(&resource, &["spec", "bootstrap", "value"]).unwrap();
        assert_eq!(tags(&read_all(value).unwrap()[0]), tags(&bootstrap()));
    }

    /// Istio's rules have no prefix and no separator, so they would match inside of a longer label.
    #[test]
    fn no_label_ends_with_another_one() {
        for label in labels() {
            let longer = labels().into_iter().find(|other| *other != label && other.ends_with(label));
            assert_eq!(longer, None, "{label}");
        }
    }
}
