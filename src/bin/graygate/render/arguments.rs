//! The arguments of `render`. Their doc comments are the text of `--help`.

use core::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::callout::{self, Callout};
use super::envoy::cluster::{self, Endpoint};
use super::fail::FailurePolicy;
use super::gateway::backend::{self, Backend};
use super::gateway::gateway_name::{self, GatewayName};
use super::module::{self, ModuleDigest};
use super::options::{self, ManifestKind, NamespaceScope, Target};
use super::version::IstioVersion;
use crate::istio::direction::Direction;
use crate::number;

/// The arguments of `render`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  graygate render policy.yaml --module oci://registry.example.com/{module}:1 --sha256 graygate=HEX \\
    --sha256 graygate-requests=HEX | kubectl apply -f -
  graygate render policy.yaml --kind envoy --bootstrap --endpoint app=127.0.0.1:8080 > envoy.yaml && envoy -c envoy.yaml
  graygate render policy.yaml --kind envoyextensionpolicy --gateway eg --backend app=reviews:9080 \\
    --module oci://registry.example.com/{module}:1 --sha256 HEX")]
pub struct RenderArguments {
    /// The policy, as YAML or JSON. "-" is standard input. Several files make one document of all their policies, in
    /// this order. Only the last policy may have no hosts.
    #[arg(value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Use only the policy with this name, if there are several.
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
    /// What to print.
    #[arg(long, value_enum, default_value = "wasmplugin")]
    pub kind: ManifestKind,

    /// Where proxies get the module. For Istio and Envoy Gateway: oci:// or https://, and for Istio
    /// file:///PATH [default: an image that does not exist]. For Envoy: a path [default: /etc/envoy/{module}.wasm]. {module} is replaced by graygate-requests, which
    /// costs less per request, or by graygate if the policy needs it.
    #[arg(long, value_name = "URL", value_parser = module::parse_url, help_heading = MODULE)]
    pub module: Option<String>,
    /// The SHA-256 that the module must have. Of an image, it is that of the manifest. With {module} in --module, write
    /// graygate=HEX and graygate-requests=HEX.
    #[arg(long, value_name = "HEX", value_parser = module::parse_sha256, help_heading = MODULE)]
    pub sha256: Vec<ModuleDigest>,
    /// The secret with the login to the registry. It must be in the same namespace. An EnvoyFilter cannot name one.
    #[arg(long, value_name = "NAME", value_parser = options::parse_name, help_heading = MODULE)]
    pub pull_secret: Option<String>,
    /// What happens to requests while the module is missing or its VM has failed [default: open, and reload for Envoy].
    #[arg(long, value_enum, help_heading = MODULE)]
    pub fail: Option<FailurePolicy>,

    /// Print the policy with this mode instead of the file's.
    #[arg(long, value_parser = ["enforce", "shadow", "off"], help_heading = POLICY)]
    pub mode: Option<String>,
    /// Print the policy with this rollout.percent instead of the file's.
    #[arg(long, value_name = "PERCENT", value_parser = number::within(0..=100_u32), help_heading = POLICY)]
    pub percent: Option<u32>,

    /// Add a listener on this port that answers the policy's probes, and 404 to all else. For Istio, it replaces the
    /// plugin on the app's port if the policy only has probes there.
    #[arg(long, value_name = "PORT", value_parser = number::within(1..=u16::MAX), help_heading = LISTENERS)]
    pub probe_listener: Option<u16>,
    /// For Istio: only requests for this port pass the filter. Inbound it is a port of the Pod, outbound one of the
    /// service. May be repeated. For Envoy: the port of the bootstrap's listener [default: 10000].
    #[arg(long, value_name = "PORT", value_parser = number::within(1..=u16::MAX), help_heading = LISTENERS)]
    pub port: Vec<u16>,

    /// The requests that the filter sees. Without it, the policy is split into an inbound and an outbound part, with a
    /// manifest for each. If there are two, each part has its direction in its name.
    #[arg(long, value_enum, help_heading = ISTIO)]
    pub at: Option<Direction>,
    /// The proxies that the resource applies to.
    #[arg(long, value_enum, default_value = "workload", help_heading = ISTIO)]
    pub scope: NamespaceScope,
    /// A label of the Pods, as KEY=VALUE. May be repeated [default: app=POLICY, and istio=ingressgateway at a gateway].
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::parse_label, help_heading = ISTIO)]
    pub selector: Vec<(String, String)>,
    /// At a gateway or waypoint: attach to Gateway/NAME or Service/NAME instead. May be repeated [default:
    /// Gateway/waypoint at a waypoint]. For Envoy Gateway: Gateway/NAME, or a route of your own, HTTPRoute/NAME, whose
    /// clusters the policy names [default: the HTTPRoutes that are printed].
    #[arg(long, value_name = "KIND/NAME", value_parser = options::parse_target, help_heading = ISTIO)]
    pub target: Vec<Target>,
    /// The name of the resource. Without --at, the direction is added to it [default: graygate-POLICY-DIRECTION, and for Envoy
    /// Gateway graygate-POLICY].
    #[arg(long, value_parser = options::parse_name, help_heading = ISTIO)]
    pub name: Option<String>,
    /// The namespace of the resource [default: default, or istio-system for scope mesh and for gateways by label].
    #[arg(long, value_parser = options::parse_short_name, help_heading = ISTIO)]
    pub namespace: Option<String>,
    /// The revision of the control plane that reads the resource [default: all].
    #[arg(long, value_name = "REVISION", value_parser = options::parse_short_name, help_heading = ISTIO)]
    pub revision: Option<String>,
    /// The order among other resources. Of plugins, the highest number comes first. Of EnvoyFilters, the lowest
    /// [default for an EnvoyFilter: 10].
    #[arg(
        long,
        allow_negative_numbers = true,
        value_parser = number::within(i32::MIN..=i32::MAX),
        help_heading = ISTIO
    )]
    pub priority: Option<i32>,
    /// The oldest version of Istio that reads the resource, from 1.24 to 1.31. A newer one gets a warning.
    #[arg(long, value_name = "VERSION", default_value_t = IstioVersion::NEWEST, help_heading = ISTIO)]
    pub istio: IstioVersion,
    /// Add a cluster with this address for readiness checks. May be repeated.
    #[arg(long, value_name = "CLUSTER=IP:PORT", value_parser = callout::parse_callout, help_heading = ISTIO)]
    pub callout: Vec<Callout>,
    /// Also print the routes that follow the policy's releases.
    #[arg(long, help_heading = ISTIO)]
    pub routes: bool,

    /// The Service behind a cluster of the policy. May be repeated. The policy gets the names that Envoy Gateway gives to the
    /// clusters. A name of Istio for a whole Service needs no option.
    #[arg(
        long,
        value_name = "CLUSTER=[NAMESPACE/]SERVICE:PORT",
        value_parser = backend::parse_backend,
        help_heading = GATEWAY
    )]
    pub backend: Vec<Backend>,
    /// The Gateway of the HTTPRoutes [default: that of --target, or eg, in the namespace of --namespace].
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = gateway_name::parse_gateway, help_heading = GATEWAY)]
    pub gateway: Option<GatewayName>,

    /// Print a whole bootstrap, which `envoy -c` runs, instead of the parts.
    #[arg(long, help_heading = ENVOY)]
    pub bootstrap: bool,
    /// An address of a cluster. May be repeated, also for several addresses of one cluster. With --bootstrap, each
    /// cluster of the policy needs one.
    #[arg(long, value_name = "CLUSTER=HOST:PORT", value_parser = cluster::parse_endpoint, help_heading = ENVOY)]
    pub endpoint: Vec<Endpoint>,
    /// The cluster of requests that no release, gate or probe leads elsewhere [default: that of the first release's
    /// default version, else that of the first gate's upstream, else that of the first upstream].
    #[arg(long, value_name = "CLUSTER", help_heading = ENVOY)]
    pub default_cluster: Option<String>,
    /// The IP address that listeners bind [default: 127.0.0.1]. The admin interface always binds 127.0.0.1.
    #[arg(long, value_name = "IP", value_parser = options::parse_address, help_heading = ENVOY)]
    pub address: Option<IpAddr>,
    /// The port of the admin interface in the bootstrap [default: 9901].
    #[arg(long, value_name = "PORT", value_parser = number::within(1..=u16::MAX), help_heading = ENVOY)]
    pub admin_port: Option<u16>,
}

const MODULE: &str = "The module";
const POLICY: &str = "The policy";
const LISTENERS: &str = "Listeners";
const ISTIO: &str = "Istio";
const GATEWAY: &str = "Envoy Gateway (--kind envoyextensionpolicy)";
const ENVOY: &str = "Envoy without Istio (--kind envoy)";

impl RenderArguments {
    /// Returns what happens to requests if the filter fails.
    ///
    /// Istio fetches modules, and until one is there a proxy must let requests pass. Plain Envoy has the module in a
    /// file, so that only a VM can fail, which a reload mends.
    pub fn fail(&self) -> FailurePolicy {
        let default = match self.kind {
            ManifestKind::Envoy => FailurePolicy::Reload,
            _ => FailurePolicy::Open,
        };
        self.fail.unwrap_or(default)
    }
}
