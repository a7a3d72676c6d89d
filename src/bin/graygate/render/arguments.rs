//! The arguments of `render`. Their doc comments are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::callout::{self, Callout};
use super::fail::FailurePolicy;
use super::module;
use super::options::{self, ManifestKind, NamespaceScope, Target};
use super::version::IstioVersion;
use crate::istio::direction::Direction;

/// The arguments of `render`.
#[derive(Args)]
pub struct RenderArguments {
    /// The policy, as YAML or JSON; "-" is standard input. Several files make one plugin, with the policies in this
    /// order. Only the last policy may have no hosts
    #[arg(value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Use only the policy with this name, if there are several
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
    /// The kind of resource
    #[arg(long, value_enum, default_value = "wasmplugin")]
    pub kind: ManifestKind,
    /// Which proxies it is for: those of one workload, of a namespace, or all
    #[arg(long, value_enum, default_value = "workload")]
    pub scope: NamespaceScope,
    /// The oldest release of Istio that is to read it, 1.24 to 1.31; a newer one is taken with a warning
    #[arg(long, value_name = "VERSION", default_value_t = IstioVersion::NEWEST)]
    pub istio: IstioVersion,
    /// Whose requests the filter sees. Without it the policy is split into what belongs inbound and what outbound, and
    /// a manifest is printed for each; where there are two, the policy's name has the place added to it
    #[arg(long, value_enum)]
    pub at: Option<Direction>,
    /// The name of the resource [default: graygate-POLICY-PLACE]. Without --at the place is added to it
    #[arg(long, value_parser = options::parse_name)]
    pub name: Option<String>,
    /// The namespace [default: default; istio-system, the root namespace, for scope mesh, and for gateways by label]
    #[arg(long, value_parser = options::parse_short_name)]
    pub namespace: Option<String>,
    /// A label of the Pods, as KEY=VALUE; may be repeated [default: app=POLICY; at a gateway istio=ingressgateway]
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::parse_label)]
    pub selector: Vec<(String, String)>,
    /// What it is attached to at a gateway or waypoint instead, as Gateway/NAME or Service/NAME; may be repeated
    /// [default: Gateway/waypoint at a waypoint]
    #[arg(long, value_name = "KIND/NAME", value_parser = options::parse_target)]
    pub target: Vec<Target>,
    /// The module: oci://, https:// or file:/// [default: an image by a name that nobody has]
    #[arg(long, value_name = "URL", value_parser = module::parse_url)]
    pub module: Option<String>,
    /// The SHA-256 of the module; of an image that of its manifest
    #[arg(long, value_name = "HEX", value_parser = module::parse_sha256)]
    pub sha256: Option<String>,
    /// The secret with the registry's login, in the same namespace; an EnvoyFilter has no place for one
    #[arg(long, value_name = "NAME", value_parser = options::parse_name)]
    pub pull_secret: Option<String>,
    /// What becomes of requests while the module is not there or its VM has failed
    #[arg(long, value_enum, default_value = "open")]
    pub fail: FailurePolicy,
    /// A port whose requests it sees, and no other's; may be repeated. Inbound the Pod's, outbound the service's
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Add a cluster with this address, for readiness checks; may be repeated
    #[arg(long, value_name = "CLUSTER=IP:PORT", value_parser = callout::parse_callout)]
    pub callout: Vec<Callout>,
    /// The mode of the printed policy instead of the file's
    #[arg(long, value_parser = ["enforce", "shadow", "off"])]
    pub mode: Option<String>,
    /// rollout.percent of the printed policy instead of the file's
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub percent: Option<u32>,
    /// The revision of the control plane that it is for [default: all]
    #[arg(long, value_name = "REVISION", value_parser = options::parse_short_name)]
    pub revision: Option<String>,
    /// Its place among others: of plugins the highest comes first, of EnvoyFilters the lowest [default: 10 of an
    /// EnvoyFilter]
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Print the routes, too, that read what releases steer by
    #[arg(long)]
    pub routes: bool,
}
