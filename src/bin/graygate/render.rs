//! `graygate render` prints the Istio manifests for one policy file.
//!
//! A policy for sidecars is split into an inbound and an outbound [`part`]. Each part becomes one manifest that adds
//! the filter, and others for clusters and routes, if the arguments ask for them.

pub mod arguments;
mod callout;
mod conflicts;
mod envoy_filter;
mod fail;
mod manifest;
mod module;
mod options;
mod part;
mod plugin;
mod routes;
mod version;

use std::io::Write;

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::problem::Problem;

use crate::document;
use crate::failure::Failure;
use crate::istio::direction::{self, Direction};
use crate::istio::host_rule;
use crate::tree::{self, get, number, object, text};
use arguments::RenderArguments;
use callout::Callout;
use fail::FailurePolicy;
use manifest::{Identity, Manifest, Selection};
use module::Module;
use options::{ManifestKind, NamespaceScope};
use part::Part;
use plugin::Plugin;
use routes::Routes;
use version::IstioVersion;

/// The default root namespace of a mesh.
const ROOT_NAMESPACE: &str = "istio-system";

/// The manifests for standard output, and the warnings for standard error.
struct Output {
    manifests: Vec<Manifest>,
    warnings: Vec<String>,
}

/// Prints the manifests of a policy, and warnings. Prints problems and no manifest if there are any.
pub fn run(arguments: &RenderArguments) -> Result<(), Failure> {
    let file = arguments.policy.display();
    let read = document::read(&arguments.policy)?;
    let parts = read.and_then(|mut document| {
        arguments.apply_overrides(&mut document);
        let whole = Policy::from_document(&document)?;
        Ok((part::parts(arguments.at, &document)?, whole))
    });
    let mut problems = conflicts::problems(arguments, parts.as_ref().ok().map(|(parts, _)| parts.as_slice()));
    match &parts {
        Err(found) => {
            let found = found.iter().map(|problem| format!("{file}: {problem}"));
            return refuse(found.chain(problems.iter().map(Problem::to_string)).collect());
        }
        Ok((parts, _)) => {
            let mut found: Vec<Problem> = Vec::new();
            for problem in parts.iter().flat_map(|part| {
                let of_direction = direction::problems(part.direction, &part.document, &part.policy);
                let of_hosts = host_rule::problems(part.direction, &part.document, &part.policy, &[]);
                of_direction.into_iter().chain(of_hosts)
            }) {
                if !found.contains(&problem) {
                    found.push(problem);
                }
            }
            if parts.iter().all(|part| part::is_idle(&part.policy)) {
                let message = "no probes, no releases and no gates, so that the filter would do nothing; allowed: at least one of them";
                found.push(Problem { path: String::new(), message: message.to_owned() });
            }
            let found = found.iter().map(|problem| format!("{file}: {problem}"));
            let found: Vec<String> =
                found.chain(problems.drain(..).map(|problem| problem.to_string())).collect();
            if !found.is_empty() {
                return refuse(found);
            }
        }
    }
    let Ok((parts, whole)) = parts else {
        return Err(Failure::Problems);
    };
    let output = arguments.output(&parts, &whole)?;
    for warning in output.warnings {
        eprintln!("graygate: warning: {warning}");
    }
    let mut stdout = std::io::stdout().lock();
    for manifest in output.manifests {
        let written = stdout.write_all(manifest.yaml()?.as_bytes());
        written.map_err(|error| Failure::Usage(format!("standard output: {error}")))?;
    }
    Ok(())
}

fn refuse(problems: Vec<String>) -> Result<(), Failure> {
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
    Err(Failure::Problems)
}

impl RenderArguments {
    /// Replaces the policy's mode and rollout by `--mode` and `--percent`.
    fn apply_overrides(&self, document: &mut Node) {
        if let Some(percent) = self.percent {
            tree::set(document, "rollout", object([("percent", number(percent))]));
        }
        if let Some(mode) = &self.mode {
            tree::set(document, "mode", text(mode));
        }
    }

    fn output(&self, parts: &[Part], whole: &Policy) -> Result<Output, Failure> {
        let mut output = Output { manifests: Vec::new(), warnings: Vec::new() };
        if self.istio > IstioVersion::NEWEST {
            let newest = IstioVersion::NEWEST;
            output
                .warnings
                .push(format!("--istio: {} is not tried yet; written as for {newest}", self.istio));
        }
        let module = Module {
            url: self.module.clone().unwrap_or_else(Module::placeholder),
            sha256: self.sha256.clone(),
            secret: self.pull_secret.clone(),
        };
        if self.module.is_none() {
            output
                .warnings
                .push(format!("--module: {} is a placeholder; say where your module is", module.url));
        } else if module.sha256.is_none() && !module.url.starts_with("file://") {
            let url = &module.url;
            output.warnings.push(format!(
                "--sha256: missing, so that proxies take whatever {url} is at the time; 64 digits from 0 to f pin it"
            ));
        }
        if self.fail == FailurePolicy::Closed {
            let warning = "--fail closed: each request is denied while the module can't be fetched or its VM has failed; graygate check --istio takes it with --allow fail-close";
            output.warnings.push(warning.to_owned());
        }
        // This is only a warning, as a mesh may have another root namespace than Istio's default.
        if let (NamespaceScope::Mesh, Some(namespace)) = (self.scope, &self.namespace)
            && namespace != ROOT_NAMESPACE
        {
            output.warnings.push(format!(
                "--namespace: {namespace}: for the mesh only if it is the root namespace; else for the proxies of {namespace} alone"
            ));
        }
        for (id, upstream) in whole.upstream_ids() {
            if self.at.is_none() && !part::references(whole).any(|used| used == id) {
                let name = &upstream.name;
                output
                    .warnings
                    .push(format!("upstreams.{name}: nothing refers to it, so no manifest has it"));
            }
        }
        let mut added_clusters: Vec<&str> = Vec::new();
        for part in parts {
            output.warnings.extend(direction::off_warning(&part.policy, false));
            self.add_part(part, parts.len(), &module, &mut added_clusters, &mut output)?;
        }
        Ok(output)
    }

    /// Adds the manifests and warnings of one of `part_count` parts. `added_clusters` are the clusters that an earlier
    /// part adds to the same proxies, which this part must not add again.
    fn add_part<'a>(
        &'a self,
        part: &Part,
        part_count: usize,
        module: &Module,
        added_clusters: &mut Vec<&'a str>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let direction = part.direction;
        let identity = self.identity(part);
        let selection = self.selection(part);
        let ports: Vec<u32> = self.port.iter().copied().map(u32::from).collect();
        let plugin = Plugin {
            identity: &identity,
            selection: &selection,
            part,
            module,
            fail: self.fail,
            ports: &ports,
            priority: self.priority,
        };
        let object = match self.kind {
            ManifestKind::Wasmplugin => plugin.wasm_plugin(),
            ManifestKind::Trafficextension => plugin.traffic_extension(),
            ManifestKind::Envoyfilter => envoy_filter::envoy_filter(&plugin, self.istio)?,
        };
        let mut comments = vec![
            self.describe_part(direction),
            self.kind.use_for().to_owned(),
            self.fail.reason(direction, self.kind),
        ];
        if part_count > 1 && get(&part.document, &["maxGatedPercent"]).is_some() {
            comments.push("maxGatedPercent counts the gated upstreams of this part alone.".to_owned());
        }
        output.manifests.push(Manifest { comments, object });
        self.add_warnings(part, &mut output.warnings);

        let callouts: Vec<&Callout> = self
            .callout
            .iter()
            .filter(|callout| callout::is_checked(&part.policy, &callout.cluster))
            .filter(|callout| !added_clusters.contains(&callout.cluster.as_str()))
            .collect();
        added_clusters.extend(callouts.iter().map(|callout| callout.cluster.as_str()));
        if !callouts.is_empty() {
            let identity = identity.with_suffix("callout");
            let object = callout::envoy_filter(&identity, &selection, direction, &part.policy, &callouts);
            let comments = vec!["Clusters that readiness checks are sent to. A check needs a cluster with an address of its own: Istio's cluster for the app itself has none.".to_owned()];
            output.manifests.push(Manifest { comments, object });
        }
        let mut routed_hosts: Vec<(&str, &str)> = Vec::new();
        for release in part.policy.releases.iter().filter(|_| self.routes) {
            let identity = identity.with_suffix(&options::to_name(&release.name));
            let routes =
                Routes { identity: &identity, selection: &selection, direction, priority: self.priority };
            let host = routes.host(release);
            // Of two resources for one host, Istio would use only one, and which one is undefined.
            if let Some((host, other)) = routed_hosts.iter().find(|(known, _)| Some(*known) == host) {
                output.warnings.push(format!("--routes: none for release {}: a host has one DestinationRule and one VirtualService, and those of {host} are release {other}'s; add its subsets and routes there", release.name));
                continue;
            }
            match routes.manifests(release) {
                Ok(manifests) => {
                    output.manifests.extend(manifests);
                    routed_hosts.extend(host.map(|host| (host, release.name.as_str())));
                }
                Err(why) => {
                    output.warnings.push(format!("--routes: none for release {}: {why}", release.name))
                }
            }
        }
        Ok(())
    }

    fn describe_part(&self, direction: Direction) -> String {
        let description = match direction {
            Direction::Inbound => {
                "what comes to the app: its probes are answered, and gates stand before what it needs"
            }
            Direction::Outbound => {
                "what the app sends to others: versions are chosen, and gates stand before other services"
            }
            Direction::Gateway => "what comes to the gateway: probes, versions and gates",
            Direction::Waypoint => {
                "what comes to the services behind the waypoint: probes, versions and gates"
            }
        };
        format!("graygate, {}: {description}.", direction.name())
    }

    /// Adds warnings about effects of the part that are easily missed.
    fn add_warnings(&self, part: &Part, warnings: &mut Vec<String>) {
        let policy = &part.policy;
        if !policy.probes.grpc_services.is_empty() {
            warnings.push("probes.grpc: a check takes a hop, and none of Istio's routes leads to one, so it goes on to the app: it is answered from readiness only if the app answers that POST with 200 and a body, and else UNAVAILABLE".to_owned());
        }
        if part.direction == Direction::Waypoint && !policy.probes.is_empty() {
            warnings.push(
                "probes: the kubelet's own do not pass a waypoint, so it answers others' alone".to_owned(),
            );
        }
        if !self.routes {
            warnings.extend(
                policy.releases.iter().filter_map(|release| routes::missing_route_warning(policy, release)),
            );
        }
        for gate in &policy.gates {
            if let Some(Fallback::Upstream { header, .. }) = &gate.fallback {
                let name = policy.name_of(gate.upstream);
                warnings.push(format!("gate on {name}: its fallback takes effect only by a route with cluster_header: {header}, which no VirtualService makes"));
            }
        }
        for upstream in &policy.upstreams {
            if let Some(why) = direction::wrong_direction(part.direction, &upstream.cluster) {
                warnings.push(format!("upstreams.{}.cluster: {:?}: {why}", upstream.name, upstream.cluster));
            }
        }
        for upstream in policy.upstreams.iter().filter(|upstream| upstream.check.is_some()) {
            let cluster = &upstream.cluster;
            if !direction::is_istio_cluster(cluster)
                && !self.callout.iter().any(|callout| callout.cluster == *cluster)
            {
                let name = &upstream.name;
                warnings.push(format!("upstreams.{name}.cluster: {cluster:?} is none of Istio's clusters; unless something else adds it, no check can be sent: --callout '{cluster}=IP:PORT' adds it"));
            }
        }
    }

    fn identity(&self, part: &Part) -> Identity {
        let direction = part.direction.name();
        let name = match (&self.name, self.at) {
            (Some(name), Some(_)) => name.clone(),
            (Some(name), None) => format!("{name}-{direction}"),
            (None, _) => format!("graygate-{}-{direction}", part.policy_name),
        };
        // In the root namespace, labels select a gateway in any namespace.
        let gateway_by_labels =
            part.direction == Direction::Gateway && self.target.is_empty() && self.selector.is_empty();
        let is_root =
            self.scope == NamespaceScope::Mesh || gateway_by_labels && self.scope == NamespaceScope::Workload;
        let default_namespace = if is_root { ROOT_NAMESPACE } else { "default" };
        let namespace = self.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
        Identity { name, namespace, component: direction, revision: self.revision.clone() }
    }

    fn selection(&self, part: &Part) -> Selection {
        match (part.direction, self.scope) {
            (Direction::Waypoint, _) if self.target.is_empty() => {
                Selection::Targets(vec![(manifest::TargetKind::Gateway, "waypoint".to_owned())])
            }
            _ if !self.target.is_empty() => Selection::Targets(self.target.clone()),
            (_, NamespaceScope::Namespace | NamespaceScope::Mesh) => Selection::All,
            _ if !self.selector.is_empty() => Selection::Labels(self.selector.clone()),
            (Direction::Gateway, _) => {
                Selection::Labels(vec![("istio".to_owned(), "ingressgateway".to_owned())])
            }
            _ => Selection::Labels(vec![("app".to_owned(), part.policy_name.clone())]),
        }
    }
}
