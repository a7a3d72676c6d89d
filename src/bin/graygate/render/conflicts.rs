//! Finds options of `render` that contradict each other, the policy, or the version of Istio.

use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Problem;

use super::arguments::RenderArguments;
use super::envoy;
use super::gateway;
use super::manifest::TargetKind;
use super::module_choice;
use super::options::{ManifestKind, NamespaceScope};
use super::part::Bundle;
use super::probe_listener;
use super::version::IstioVersion;
use crate::istio::direction::{self, Direction, refused};

/// Returns the problems of the options. `bundles` are the parts of the policies, if they could
/// be read.
pub fn problems(arguments: &RenderArguments, bundles: Option<&[Bundle]>) -> Vec<Problem> {
    let direction = arguments.at;
    let mut problems = kind_problems(arguments, bundles);
    problems.extend(envoy::problems(arguments, None));
    problems.extend(gateway::problems(arguments, None));
    problems.extend(probe_listener_problem(arguments, bundles));
    problems.extend(selection_problems(arguments));
    let ports: Vec<u32> = arguments.port.iter().copied().map(u32::from).collect();
    problems.extend(direction.and_then(|direction| direction::port_problem(direction, "--port", &ports)));
    for (index, port) in arguments.port.iter().enumerate() {
        if arguments.port.iter().take(index).any(|other| other == port) {
            problems.push(refused("--port", &port.to_string(), "it is given twice", "each port once"));
        }
    }
    if let (Some([_, _, ..]), Some(port)) = (bundles, arguments.port.first()) {
        let reason = "inbound it is a port of the Pod, outbound a port of a service, and this policy has parts for both";
        problems.push(refused("--port", &port.to_string(), reason, "with --at"));
    }
    let is_labelled = matches!(direction, Some(Direction::Gateway | Direction::Waypoint))
        || arguments.scope != NamespaceScope::Workload
        || !arguments.selector.is_empty();
    if !is_labelled && bundles.is_some_and(|bundles| bundles.iter().any(|bundle| bundle.parts.len() > 1)) {
        let reason = "the default label is app=POLICY, and there are several policies";
        problems.push(refused("--scope", "workload", reason, "namespace, mesh, or --selector KEY=VALUE"));
    }
    if arguments.routes && direction == Some(Direction::Gateway) {
        let reason = "a gateway's routes depend on its own hosts, which a policy does not have";
        problems.push(refused("--routes", "true", reason, "outbound, waypoint"));
    }
    for (index, added) in arguments.callout.iter().enumerate() {
        let cluster = format!("{:?}", added.cluster);
        if arguments.callout.iter().take(index).any(|other| other.cluster == added.cluster) {
            problems.push(refused("--callout", &cluster, "it is given twice", "each cluster once"));
        }
        if direction::is_istio_cluster(&added.cluster) || added.cluster.starts_with("inbound|") {
            let reason = "Istio has a cluster of this name";
            problems.push(refused("--callout", &cluster, reason, "a name of its own"));
        } else if let Some(bundles) = bundles
            && !bundles.iter().any(|bundle| bundle.is_checked(&added.cluster))
        {
            let mut checked: Vec<&str> = bundles
                .iter()
                .flat_map(|bundle| &bundle.parts)
                .flat_map(|part| &part.policy.upstreams)
                .filter(|upstream| {
                    upstream.check.is_some() && !direction::is_istio_cluster(&upstream.cluster)
                })
                .map(|upstream| upstream.cluster.as_str())
                .collect();
            checked.dedup();
            let allowed = if checked.is_empty() { "none".to_owned() } else { checked.join(", ") };
            problems.push(refused("--callout", &cluster, "no readinessProbe is sent there", &allowed));
        }
    }
    problems
}

/// Returns the problems of options that the kind of resource or the version of Istio does not support.
fn kind_problems(arguments: &RenderArguments, bundles: Option<&[Bundle]>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_plugin = arguments.kind != ManifestKind::Envoyfilter;
    let since = arguments.fail().since(is_plugin);
    let istio = arguments.istio;
    if istio < IstioVersion::OLDEST {
        let allowed = format!("{} to {}", IstioVersion::OLDEST, IstioVersion::NEWEST);
        problems.push(refused("--istio", &istio.to_string(), "it cannot read these manifests", &allowed));
    } else if istio < since {
        let reason = format!("Istio {istio} does not support FAIL_RELOAD in such a resource");
        problems.push(refused(
            "--fail",
            "reload",
            &reason,
            &format!("open, closed; reload with --istio {since} or later"),
        ));
    }
    if arguments.kind == ManifestKind::Trafficextension && istio < IstioVersion::TRAFFIC_EXTENSION {
        let reason = format!("Istio {istio} does not support TrafficExtension");
        let since = IstioVersion::TRAFFIC_EXTENSION;
        let allowed = format!("wasmplugin, envoyfilter; trafficextension with --istio {since} or later");
        problems.push(refused("--kind", "trafficextension", &reason, &allowed));
    }
    if let Some(secret) = arguments.pull_secret.as_ref().filter(|_| !is_plugin) {
        let reason = "an EnvoyFilter cannot name a secret";
        problems.push(refused("--pull-secret", secret, reason, "--kind wasmplugin, trafficextension"));
    }
    let is_remote = arguments.module.as_ref().is_none_or(|url| !url.starts_with("file://"));
    let names_module = !is_plugin || arguments.probe_listener.is_some();
    if names_module && is_remote {
        problems.extend(missing_digest(arguments, bundles));
    }
    let needed: Vec<ModuleKind> =
        bundles.unwrap_or_default().iter().map(|bundle| module_choice::needed(&bundle.policies())).collect();
    problems.extend(arguments.digest_problem(&needed));
    problems
}

/// Returns the problem that a module has no SHA-256.
fn missing_digest(arguments: &RenderArguments, bundles: Option<&[Bundle]>) -> Option<Problem> {
    let mut modules =
        bundles.unwrap_or_default().iter().map(|bundle| arguments.module_for(&bundle.policies(), false));
    let of_module = match (arguments.sha256.as_slice(), modules.find(|module| module.sha256.is_none())) {
        ([], _) => String::new(),
        (_, Some(module)) => format!(" for {}", module.kind.name()),
        (_, None) => return None,
    };
    let message = format!(
        "missing{of_module}, and an EnvoyFilter needs it for a module that Istio fetches. Give the 64 digits of the SHA-256, or --module file:///PATH"
    );
    Some(Problem { path: "--sha256".to_owned(), message })
}

/// Returns the problem of the listener for probes, which is one of sidecars.
fn probe_listener_problem(arguments: &RenderArguments, bundles: Option<&[Bundle]>) -> Option<Problem> {
    let message = match arguments.at {
        _ if arguments.probe_listener.is_none() => return None,
        Some(direction) if direction != Direction::Inbound => format!(
            "is for an app beside its sidecar, and --at is {}. Write --at inbound, or leave --at out",
            direction.name()
        ),
        _ if bundles.is_some_and(|bundles| !bundles.iter().any(probe_listener::is_for)) => {
            "the policy has no probes. Add probes, or remove the option".to_owned()
        }
        _ => return None,
    };
    Some(Problem { path: "--probe-listener".to_owned(), message })
}

/// Returns the problems of options that select proxies.
fn selection_problems(arguments: &RenderArguments) -> Vec<Problem> {
    let mut problems = Vec::new();
    let direction = arguments.at;
    let scope = arguments.scope;
    let takes_targets = matches!(direction, Some(Direction::Gateway | Direction::Waypoint));
    for (index, (key, value)) in arguments.selector.iter().enumerate() {
        if let Some((_, first)) = arguments.selector.iter().take(index).find(|(same, _)| same == key) {
            let reason = format!("{key}={first} is given already, and a Pod has each label once");
            problems.push(refused("--selector", &format!("{key}={value}"), &reason, "another label"));
        }
    }
    if let Some((key, value)) = arguments.selector.first() {
        let label = format!("{key}={value}");
        if scope != NamespaceScope::Workload {
            let reason = format!("scope {} already selects all its proxies", scope.name());
            problems.push(refused("--selector", &label, &reason, "scope workload"));
        }
        if direction == Some(Direction::Waypoint) {
            let reason = "Istio ignores labels at a waypoint";
            problems.push(refused("--selector", &label, reason, "--target"));
        } else if !arguments.target.is_empty() {
            problems.push(refused(
                "--selector",
                &label,
                "a resource has either labels or targets",
                "one of --selector, --target",
            ));
        }
    }
    for (kind, name) in &arguments.target {
        let target = format!("{}/{name}", kind.reference().1);
        if *kind == TargetKind::HttpRoute {
            let reason = "Istio attaches no resource to a route";
            let allowed = "Gateway/NAME, Service/NAME; HTTPRoute/NAME with --kind envoyextensionpolicy";
            problems.push(refused("--target", &target, reason, allowed));
        } else if !takes_targets {
            problems.push(refused(
                "--target",
                &target,
                "a sidecar is found by labels",
                "--selector, or at gateway or waypoint",
            ));
        } else if *kind == TargetKind::Service && direction == Some(Direction::Gateway) {
            problems.push(refused(
                "--target",
                &target,
                "only a waypoint can be attached to a Service",
                "Gateway/NAME",
            ));
        } else if *kind == TargetKind::Service && arguments.kind == ManifestKind::Envoyfilter {
            let reason = "Istio does not attach an EnvoyFilter to a Service, so it would have no effect";
            let allowed = "Gateway/NAME; Service/NAME with --kind wasmplugin, trafficextension";
            problems.push(refused("--target", &target, reason, allowed));
        } else if scope != NamespaceScope::Workload {
            let reason = format!("scope {} already selects all its proxies", scope.name());
            problems.push(refused("--target", &target, &reason, "scope workload"));
        }
    }
    if direction == Some(Direction::Waypoint)
        && scope != NamespaceScope::Workload
        && arguments.target.is_empty()
    {
        problems.push(refused(
            "--scope",
            scope.name(),
            "Istio selects a waypoint only by targets",
            "workload, with --target",
        ));
    }
    if direction == Some(Direction::Gateway)
        && scope != NamespaceScope::Workload
        && arguments.kind != ManifestKind::Envoyfilter
    {
        let reason = format!(
            "a {} for all proxies in mode CLIENT also applies to outbound requests of sidecars",
            arguments.kind.name()
        );
        problems.push(refused("--scope", scope.name(), &reason, "workload, or --kind envoyfilter"));
    }
    problems
}
