//! The options of `render`: how each is read, and which of them do not go together.

use clap::ValueEnum;
use graygate::policy::problem::Problem;

use super::Arguments;
use super::callout;
use super::manifest::TargetKind;
use super::part::Part;
use super::version::Version;
use crate::istio::place::{self, Place, refused};

/// The kind of resource that puts the filter where it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// For any release of Istio
    Wasmplugin,
    /// For Istio 1.30 and later
    Trafficextension,
    /// For what the others have no field for
    Envoyfilter,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Wasmplugin => "wasmplugin",
            Kind::Trafficextension => "trafficextension",
            Kind::Envoyfilter => "envoyfilter",
        }
    }

    /// When to use it, for the head of the manifest.
    pub fn use_for(self) -> &'static str {
        match self {
            Kind::Wasmplugin => {
                "A WasmPlugin is what every release of Istio reads. Never beside a TrafficExtension or EnvoyFilter for the same proxies: the filter would be there twice."
            }
            Kind::Trafficextension => {
                "A TrafficExtension takes the place of the WasmPlugin from Istio 1.30 on. Never beside one for the same proxies: the filter would be there twice."
            }
            Kind::Envoyfilter => {
                "An EnvoyFilter has what a WasmPlugin has no field for: a VM id of graygate's own, and a place before all other filters. It is tied to how Istio builds listeners: try it with each new release. Never beside a WasmPlugin or TrafficExtension for the same proxies: the filter would be there twice."
            }
        }
    }
}

/// Which proxies a resource is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Those of the Pods with the labels of --selector
    Workload,
    /// All of the namespace
    Namespace,
    /// All, by the root namespace
    Mesh,
}

impl Scope {
    fn word(self) -> &'static str {
        match self {
            Scope::Workload => "workload",
            Scope::Namespace => "namespace",
            Scope::Mesh => "mesh",
        }
    }
}

/// What a resource is attached to.
pub type Target = (TargetKind, String);

/// Reads a name of a Kubernetes object.
pub fn name(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() <= 200 && text.split('.').all(part) {
        return Ok(text.to_owned());
    }
    Err("allowed: up to 200 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends"
        .to_owned())
}

/// Reads a namespace's or a revision's name, which ends up as one part of a DNS name or as a label.
pub fn short_name(text: &str) -> Result<String, String> {
    if text.len() <= 63 && !text.contains('.') {
        return name(text).map_err(|_| SHORT.to_owned());
    }
    Err(SHORT.to_owned())
}

const SHORT: &str =
    "allowed: up to 63 lower-case letters, digits and \"-\", with a letter or digit at both ends";

/// A name with whatever else one in a policy may have.
pub fn as_name(text: &str) -> String {
    text.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Reads a label, as Kubernetes takes one.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(LABEL)?;
    let (prefix, word) = key.rsplit_once('/').map_or((None, key), |(prefix, word)| (Some(prefix), word));
    let good = prefix.is_none_or(|prefix| name(prefix).is_ok()) && !word.is_empty();
    if good && is_label(word) && is_label(value) {
        return Ok((key.to_owned(), value.to_owned()));
    }
    Err(LABEL.to_owned())
}

const LABEL: &str = "allowed: KEY=VALUE, such as app=reviews; each up to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends, and the key after DOMAIN/, if it has one";

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

/// Reads a target.
pub fn target(text: &str) -> Result<Target, String> {
    let read = |kind, rest: &str| name(rest).map(|name| (kind, name));
    match text.split_once('/') {
        Some(("Gateway", rest)) => read(TargetKind::Gateway, rest),
        Some(("Service", rest)) => read(TargetKind::Service, rest),
        _ => Err("allowed: Gateway/NAME or Service/NAME".to_owned()),
    }
}

/// What of the options does not go together. `parts` is what the policy comes to, if it could be read.
pub fn problems(arguments: &Arguments, parts: Option<&[Part]>) -> Vec<Problem> {
    let place = arguments.at;
    let mut problems = kind(arguments);
    problems.extend(reach(arguments));
    let ports: Vec<u32> = arguments.port.iter().copied().map(u32::from).collect();
    problems.extend(place.and_then(|place| place::ports(place, "--port", &ports)));
    for (index, port) in arguments.port.iter().enumerate() {
        if arguments.port.iter().take(index).any(|other| other == port) {
            problems.push(refused("--port", &port.to_string(), "it is given twice", "each port once"));
        }
    }
    if let (Some([_, _, ..]), Some(port)) = (parts, arguments.port.first()) {
        let reason = "inbound it is a port of the Pod and outbound one of a service, and this policy has parts for both";
        problems.push(refused("--port", &port.to_string(), reason, "with --at"));
    }
    if arguments.routes && place == Some(Place::Gateway) {
        let reason = "a gateway's routes go by its own hosts, which no policy knows";
        problems.push(refused("--routes", "true", reason, "outbound, waypoint"));
    }
    for (index, added) in arguments.callout.iter().enumerate() {
        let cluster = format!("{:?}", added.cluster);
        if arguments.callout.iter().take(index).any(|other| other.cluster == added.cluster) {
            problems.push(refused("--callout", &cluster, "it is given twice", "each cluster once"));
        }
        if place::is_known(&added.cluster) || added.cluster.starts_with("inbound|") {
            let reason = "Istio has a cluster of that name itself";
            problems.push(refused("--callout", &cluster, reason, "a name of its own"));
        } else if let Some(parts) = parts
            && !parts.iter().any(|part| callout::is_asked(&part.policy, &added.cluster))
        {
            let asked = parts.iter().flat_map(|part| &part.policy.upstreams);
            let asked =
                asked.filter(|upstream| upstream.check.is_some() && !place::is_known(&upstream.cluster));
            let mut asked: Vec<&str> = asked.map(|upstream| upstream.cluster.as_str()).collect();
            asked.dedup();
            let allowed = if asked.is_empty() { "none".to_owned() } else { asked.join(", ") };
            problems.push(refused("--callout", &cluster, "no readinessProbe is sent there", &allowed));
        }
    }
    problems
}

/// What the kind of resource and the release of Istio don't have.
fn kind(arguments: &Arguments) -> Vec<Problem> {
    let mut problems = Vec::new();
    let plugin = arguments.kind != Kind::Envoyfilter;
    let since = arguments.fail.since(plugin);
    let istio = arguments.istio;
    if istio < Version::OLDEST {
        let allowed = format!("{} to {}", Version::OLDEST, Version::NEWEST);
        problems.push(refused("--istio", &istio.to_string(), "it is too old for these manifests", &allowed));
    } else if istio < since {
        let reason = format!("Istio {istio} does not know FAIL_RELOAD in such a resource");
        problems.push(refused(
            "--fail",
            "reload",
            &reason,
            &format!("open, closed; reload with --istio {since} or later"),
        ));
    }
    if arguments.kind == Kind::Trafficextension && istio < Version::TRAFFIC_EXTENSION {
        let reason = format!("Istio {istio} does not know TrafficExtension");
        let since = Version::TRAFFIC_EXTENSION;
        let allowed = format!("wasmplugin, envoyfilter; trafficextension with --istio {since} or later");
        problems.push(refused("--kind", "trafficextension", &reason, &allowed));
    }
    if let Some(secret) = arguments.pull_secret.as_ref().filter(|_| !plugin) {
        let reason = "an EnvoyFilter has no place for a secret";
        problems.push(refused("--pull-secret", secret, reason, "--kind wasmplugin, trafficextension"));
    }
    let remote = arguments.module.as_ref().is_none_or(|url| !url.starts_with("file://"));
    if !plugin && remote && arguments.sha256.is_none() {
        let message = "missing, and Envoy takes no module from elsewhere without it; allowed: 64 digits from 0 to f, or --module file:///PATH";
        problems.push(Problem { path: "--sha256".to_owned(), message: message.to_owned() });
    }
    problems
}

/// What does not say which proxies are meant.
fn reach(arguments: &Arguments) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (place, scope) = (arguments.at, arguments.scope);
    let attached = matches!(place, Some(Place::Gateway | Place::Waypoint));
    for (index, (key, value)) in arguments.selector.iter().enumerate() {
        if let Some((_, first)) = arguments.selector.iter().take(index).find(|(same, _)| same == key) {
            let reason = format!("{key}={first} is there already, and a Pod has each label once");
            problems.push(refused("--selector", &format!("{key}={value}"), &reason, "another label"));
        }
    }
    if let Some((key, value)) = arguments.selector.first() {
        let label = format!("{key}={value}");
        if scope != Scope::Workload {
            let reason = format!("scope {} is all its proxies", scope.word());
            problems.push(refused("--selector", &label, &reason, "scope workload"));
        }
        if place == Some(Place::Waypoint) {
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
        let word = match kind {
            TargetKind::Gateway => format!("Gateway/{name}"),
            TargetKind::Service => format!("Service/{name}"),
        };
        if !attached {
            problems.push(refused(
                "--target",
                &word,
                "a sidecar is found by labels",
                "--selector, or at gateway or waypoint",
            ));
        } else if *kind == TargetKind::Service && place == Some(Place::Gateway) {
            problems.push(refused("--target", &word, "only a waypoint has services", "Gateway/NAME"));
        } else if scope != Scope::Workload {
            let reason = format!("scope {} is all its proxies", scope.word());
            problems.push(refused("--target", &word, &reason, "scope workload"));
        }
    }
    if place == Some(Place::Waypoint) && scope != Scope::Workload && arguments.target.is_empty() {
        problems.push(refused(
            "--scope",
            scope.word(),
            "Istio finds a waypoint by targets alone",
            "workload, with --target",
        ));
    }
    if place == Some(Place::Gateway) && scope != Scope::Workload && arguments.kind != Kind::Envoyfilter {
        let reason = format!(
            "a {} for all proxies in mode CLIENT is outbound in sidecars, too",
            arguments.kind.word()
        );
        problems.push(refused("--scope", scope.word(), &reason, "workload, or --kind envoyfilter"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_kubernetes_takes() {
        let long = format!("app={}", "x".repeat(63));
        for text in ["app=reviews", "app=", "a.b/C_d=1.0-x_Y", long.as_str()] {
            assert!(label(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in
            ["app", "=a", "a/b/c=d", "/a=b", "a/=b", "A/b=c", "app=-x", "app=x.", "-a=b", "a=b/c", &longer]
        {
            assert!(label(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_namespace_or_revision_is_one_part_of_a_name() {
        let long = "x".repeat(63);
        for text in ["shop", "1-30", "a--b", long.as_str()] {
            assert!(short_name(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in ["", "a.b", "-a", "a-", "A", "a_b", &longer] {
            assert!(short_name(text).is_err(), "{text}");
        }
    }
}
