//! `graygate render` prints the Istio manifests for the policies of one file or of several, those for Envoy Gateway
//! ([`gateway`]), or the configuration for an Envoy without Istio ([`envoy`]).
//!
//! A policy for sidecars is split into an inbound and an outbound [`part`]. The parts of one direction become one manifest
//! that adds the filter, and others for clusters and routes, if the arguments ask for them.

mod admission;
pub mod arguments;
mod callout;
mod conflicts;
mod envoy;
mod envoy_filter;
mod fail;
mod gateway;
pub mod manifest;
mod module;
mod module_choice;
mod options;
mod part;
mod plugin;
mod policy_files;
mod probe_listener;
mod routes;
mod version;

use std::io::Write;

use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::problem::Problem;

use crate::failure::{Failure, print_error};
use crate::istio::direction::{self, Direction};
use crate::istio::host_rule;
use crate::tree::{self, get, number, object, text};
use crate::warning;
use arguments::RenderArguments;
use callout::Callout;
use fail::FailurePolicy;
use manifest::{Identity, Manifest, Selection};
use module::Module;
use options::{ManifestKind, NamespaceScope};
use part::{Bundle, Part};
use plugin::Plugin;
use policy_files::{PolicyFile, PolicyFiles};
use routes::Routes;
use version::IstioVersion;

/// The default root namespace of a mesh.
const ROOT_NAMESPACE: &str = "istio-system";

/// The manifests for standard output, and the warnings for standard error.
struct Output {
    manifests: Vec<Manifest>,
    warnings: Vec<String>,
}

/// Prints the manifests of the policies, and warnings. Prints problems and no manifest if there are any.
pub fn run(arguments: &RenderArguments) -> Result<(), Failure> {
    if arguments.kind == ManifestKind::Validatingadmissionpolicy {
        admission::validate(arguments)?;
        return print(&admission::manifests(arguments));
    }
    if arguments.policies.is_empty() {
        return Err(Failure::Usage(
            "no policy is given. Name its file, or write \"-\" for standard input.".to_owned(),
        ));
    }
    if arguments.kind != ManifestKind::Envoy
        && let Some(path) = arguments.module.as_ref().filter(|url| !url.contains("://"))
    {
        return Err(Failure::Usage(format!(
            "--module: {path:?} is a path, which is for --kind envoy. For Istio and Envoy Gateway, write a URL: oci://REGISTRY/NAME:TAG, https://HOST/PATH or file:///PATH"
        )));
    }
    let sources = match policy_files::read(arguments)? {
        Ok(sources) => sources,
        Err(mut found) => {
            found.extend(option_problems(arguments, None).iter().map(Problem::to_string));
            return refuse(found);
        }
    };
    if arguments.kind == ManifestKind::Envoy {
        return run_whole(arguments, &sources, envoy::print);
    }
    if arguments.kind == ManifestKind::Envoyextensionpolicy {
        return run_whole(arguments, &sources, print_gateway);
    }
    let mut found: Vec<String> = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    for source in &sources.policies {
        let mut document = source.document.clone();
        if arguments.probe_listener.is_some() {
            probe_listener::restrict_sources(&mut document);
        }
        match part::parts(arguments.at, &source.file, &document) {
            Ok(of_source) => parts.extend(of_source),
            Err(problems) => {
                found.extend(problems.iter().map(|problem| format!("{}: {problem}", source.file)));
            }
        }
    }
    for part in &parts {
        let of_direction = direction::problems(part.direction, &part.document, &part.policy);
        let of_hosts = host_rule::problems(part.direction, &part.document, &part.policy, &[]);
        let has_listener = arguments.probe_listener.is_some() && part.direction == Direction::Inbound;
        let of_listener = direction::source_problems(&part.policy).into_iter().filter(|_| has_listener);
        for problem in of_direction.into_iter().chain(of_hosts).chain(of_listener) {
            let problem = format!("{}: {problem}", part.file);
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
    }
    found.extend(idle_problems(&sources));
    let bundles = part::bundles(parts, sources.is_list, sources.on_wrong_policy);
    found.extend(unserved_keys(arguments, &sources, Some(&bundles)));
    found.extend(option_problems(arguments, Some(&bundles)).iter().map(Problem::to_string));
    if !found.is_empty() {
        return refuse(found);
    }
    let output = arguments.output(&bundles, &sources)?;
    for warning in output.warnings {
        print_error(&format!("graygate: warning: {warning}"));
    }
    print(&output.manifests)
}

/// Prints what is made of whole policies, for Envoy without Istio or for Envoy Gateway. Wrong options are wrong usage, as the
/// policies are fine.
fn run_whole(
    arguments: &RenderArguments,
    sources: &PolicyFiles,
    run: fn(&RenderArguments, &PolicyFiles) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut found = idle_problems(sources);
    found.extend(unserved_keys(arguments, sources, None));
    if !found.is_empty() {
        return refuse(found);
    }
    let problems: Vec<String> =
        whole_problems(arguments, Some(sources)).iter().map(Problem::to_string).collect();
    if !problems.is_empty() {
        return Err(Failure::Usage(problems.join("\ngraygate: ")));
    }
    run(arguments, sources)
}

/// Returns the problems of the options for a kind that takes whole policies. Each kind refuses the options of the other.
fn whole_problems(arguments: &RenderArguments, sources: Option<&PolicyFiles>) -> Vec<Problem> {
    let mut problems = envoy::problems(arguments, sources);
    problems.extend(gateway::problems(arguments, sources));
    problems
}

/// Prints the manifests for Envoy Gateway, and warnings.
fn print_gateway(arguments: &RenderArguments, sources: &PolicyFiles) -> Result<(), Failure> {
    match gateway::manifests(arguments, sources)? {
        Ok(output) => {
            for warning in output.warnings {
                print_error(&format!("graygate: warning: {warning}"));
            }
            print(&output.manifests)
        }
        Err(problems) => refuse(problems),
    }
}

/// Returns the problems of options that do not fit together. `bundles` are the parts of the policies for Istio, if they
/// could be read.
fn option_problems(arguments: &RenderArguments, bundles: Option<&[Bundle]>) -> Vec<Problem> {
    match arguments.kind {
        ManifestKind::Envoy | ManifestKind::Envoyextensionpolicy => whole_problems(arguments, None),
        _ => conflicts::problems(arguments, bundles),
    }
}

/// Returns a problem for each policy with which the filter would do nothing.
fn idle_problems(sources: &PolicyFiles) -> Vec<String> {
    let idle = sources.policies.iter().filter(|source| part::is_idle(&source.policy));
    idle.map(|source| {
        format!(
            "{}: no probes, releases or gates, so the filter would do nothing. Add at least one of them",
            source.file
        )
    })
    .collect()
}

/// Returns a problem for each key that the module of `--module` cannot serve, by its path in the file. `bundles` are the parts
/// of the policies, of which a policy may have fewer keys.
fn unserved_keys(
    arguments: &RenderArguments,
    sources: &PolicyFiles,
    bundles: Option<&[Bundle]>,
) -> Vec<String> {
    let mut found = Vec::new();
    for PolicyFile { file, policy, .. } in &sources.policies {
        let parts = bundles.map(|bundles| {
            let parts = bundles.iter().flat_map(|bundle| &bundle.parts);
            parts.filter(|part| part.policy_name == policy.name).collect::<Vec<_>>()
        });
        let is_used =
            |key: &str| parts.as_ref().is_none_or(|parts| parts.iter().any(|part| part.needs_full(key)));
        let problems = arguments.unserved(policy).into_iter().filter(|problem| is_used(&problem.path));
        found.extend(problems.map(|problem| format!("{file}: {problem}")));
    }
    found
}

fn print(manifests: &[Manifest]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    for manifest in manifests {
        let written = stdout.write_all(manifest.yaml()?.as_bytes());
        written.map_err(|error| Failure::output(&error))?;
    }
    Ok(())
}

impl Output {
    /// Adds warnings about a policy. If there are several, each names the file.
    fn add_warnings(&mut self, warnings: &mut Vec<String>, file: &str, is_list: bool) {
        let named = warnings.drain(..);
        self.warnings.extend(named.map(|warning| match is_list {
            true => format!("{file}: {warning}"),
            false => warning,
        }));
    }
}

fn refuse(problems: Vec<String>) -> Result<(), Failure> {
    for problem in &problems {
        print_error(problem);
    }
    print_error(&format!("{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" }));
    Err(Failure::Problems)
}

impl RenderArguments {
    /// Returns the document with the mode and the rollout of each policy replaced by `--mode` and `--percent`.
    fn overridden(&self, mut document: Node) -> Node {
        if let Node::Object(fields) = &mut document
            && let Some((_, Node::List(policies))) = fields.iter_mut().find(|(key, _)| key == "policies")
        {
            for policy in policies {
                *policy = self.overridden(core::mem::replace(policy, Node::Null));
            }
            return document;
        }
        if let Some(percent) = self.percent {
            tree::set(&mut document, "rollout", object([("percent", number(percent))]));
        }
        if let Some(mode) = &self.mode {
            tree::set(&mut document, "mode", text(mode));
        }
        document
    }

    fn output(&self, bundles: &[Bundle], sources: &PolicyFiles) -> Result<Output, Failure> {
        let mut output = Output { manifests: Vec::new(), warnings: Vec::new() };
        if self.istio > IstioVersion::NEWEST {
            let newest = IstioVersion::NEWEST;
            output.warnings.push(format!(
                "--istio: {} is newer than any that graygate was tested with. The output is as for {newest}",
                self.istio
            ));
        }
        let modules: Vec<Module> =
            bundles.iter().map(|bundle| self.module_for(&bundle.policies(), sources.is_list)).collect();
        self.add_module_warnings(&modules, &mut output.warnings);
        if self.fail() == FailurePolicy::Closed {
            let warning = "--fail closed: every request is denied while the module cannot be fetched or its VM has failed. graygate check accepts this with --allow fail-close";
            output.warnings.push(warning.to_owned());
        }
        // This is only a warning, as a mesh may have another root namespace than Istio's default.
        if let (NamespaceScope::Mesh, Some(namespace)) = (self.scope, &self.namespace)
            && namespace != ROOT_NAMESPACE
        {
            output.warnings.push(format!(
                "--namespace: {namespace}: only if this is the root namespace of the mesh, the resource applies to all proxies. Otherwise it applies to the proxies of {namespace}"
            ));
        }
        for source in &sources.policies {
            let warnings = &mut Vec::new();
            for (id, upstream) in source.policy.upstream_ids() {
                if self.at.is_none() && !part::references(&source.policy).any(|used| used == id) {
                    let name = &upstream.name;
                    warnings.push(format!(
                        "upstreams.{name}: nothing refers to this upstream, so no manifest contains it"
                    ));
                }
            }
            warnings.extend(warning::probes_warning(&source.policy));
            output.add_warnings(warnings, &source.file, sources.is_list);
        }
        let mut added_clusters: Vec<&str> = Vec::new();
        for (bundle, module) in bundles.iter().zip(&modules) {
            self.add_bundle(bundle, bundles.len(), sources, module, &mut added_clusters, &mut output)?;
        }
        Ok(output)
    }

    /// Adds a warning for each module that is a placeholder or is not pinned.
    fn add_module_warnings(&self, modules: &[Module], warnings: &mut Vec<String>) {
        for Module { url, sha256, .. } in modules {
            let warning = if self.module.is_none() {
                format!(
                    "--module: {url} is a placeholder. Set --module to the URL of your module, with {{module}} for its name"
                )
            } else if sha256.is_none() && !url.starts_with("file://") {
                format!(
                    "--sha256: not given, so proxies accept any module that they find at {url}. Give the module's 64 digits to pin it"
                )
            } else {
                continue;
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }

    /// Adds the manifests and warnings of one of `count` plugins. `added_clusters` are the clusters that an earlier one
    /// adds to the same proxies, which this one must not add again.
    fn add_bundle<'a>(
        &'a self,
        bundle: &Bundle,
        count: usize,
        sources: &PolicyFiles,
        module: &Module,
        added_clusters: &mut Vec<&'a str>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let direction = bundle.direction;
        let identity = self.identity(bundle, module);
        let selection = self.selection(bundle);
        let ports: Vec<u32> = self.port.iter().copied().map(u32::from).collect();
        let plugin = Plugin {
            identity: &identity,
            selection: &selection,
            bundle,
            module,
            fail: self.fail(),
            ports: &ports,
            priority: self.priority,
        };
        let object = match self.kind {
            ManifestKind::Wasmplugin => plugin.wasm_plugin(),
            ManifestKind::Trafficextension => plugin.traffic_extension(),
            ManifestKind::Envoyfilter => envoy_filter::envoy_filter(&plugin, self.istio)?,
            // They have no parts. See `admission`, `envoy` and `gateway`.
            ManifestKind::Validatingadmissionpolicy
            | ManifestKind::Envoy
            | ManifestKind::Envoyextensionpolicy => return Ok(()),
        };
        let mut comments = vec![
            self.describe_part(direction),
            module.about.clone(),
            self.kind.use_for().to_owned(),
            self.fail().reason(direction, self.kind),
        ];
        if count > 1 && bundle.parts.iter().any(|part| get(&part.document, &["maxGatedPercent"]).is_some()) {
            comments.push("maxGatedPercent counts the gated upstreams of this part alone.".to_owned());
        }
        if sources.is_list {
            let owned =
                bundle.parts.iter().map(|part| format!("Policy {}: {}.", part.policy.name, part.file));
            comments.extend(owned);
        }
        if !sources.is_chosen {
            comments.push("With onWrongPolicy: lastGood, a wrong policy does not stop traffic. Proxies that have had a good policy keep it, new proxies let requests pass unmanaged, and graygate_policy_refused is 1. If the filter refused the policy instead, each new proxy would answer every request with 500.".to_owned());
        }
        let probe_port = self.probe_listener.filter(|_| probe_listener::is_for(bundle));
        // A plugin with probes alone would only take requests for their paths from the app.
        if probe_port.is_none() || !probe_listener::replaces_plugin(bundle) {
            output.manifests.push(Manifest { comments, object });
        }
        if let Some(port) = probe_port {
            output.manifests.push(probe_listener::manifest(&plugin, self.kind, self.istio, port)?);
        }
        for part in &bundle.parts {
            let mut warnings: Vec<String> =
                direction::off_warning(&part.policy, probe_port.is_some()).into_iter().collect();
            self.add_warnings(part, &mut warnings);
            output.add_warnings(&mut warnings, &part.file, sources.is_list);
        }

        let callouts: Vec<&Callout> = self
            .callout
            .iter()
            .filter(|callout| bundle.is_checked(&callout.cluster))
            .filter(|callout| !added_clusters.contains(&callout.cluster.as_str()))
            .collect();
        added_clusters.extend(callouts.iter().map(|callout| callout.cluster.as_str()));
        if !callouts.is_empty() {
            let identity = identity.with_suffix("callout");
            let object =
                callout::envoy_filter(&identity, &selection, direction, &bundle.policies(), &callouts);
            let comments = vec!["Clusters for readiness checks. A check needs a cluster with an address, and Istio's own cluster for the app has none.".to_owned()];
            output.manifests.push(Manifest { comments, object });
        }
        let mut routed_hosts: Vec<(&str, &str)> = Vec::new();
        let releases = bundle.parts.iter().flat_map(|part| &part.policy.releases);
        for release in releases.filter(|_| self.routes) {
            let identity = identity.with_suffix(&options::to_name(&release.name));
            let routes =
                Routes { identity: &identity, selection: &selection, direction, priority: self.priority };
            let host = routes.host(release);
            // Of two resources for one host, Istio would use only one, and which one is undefined.
            if let Some((host, other)) = routed_hosts.iter().find(|(known, _)| Some(*known) == host) {
                output.warnings.push(format!("--routes: none for release {}: a host has only one DestinationRule and one VirtualService, and {host} has those of release {other}. Add the subsets and routes there", release.name));
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
                "requests to the app. The filter answers its probes, and gates protect what the app needs"
            }
            Direction::Outbound => {
                "requests of the app to other services. The filter chooses versions, and gates protect the services"
            }
            Direction::Gateway => {
                "requests to the gateway. The filter answers probes, chooses versions and applies gates"
            }
            Direction::Waypoint => {
                "requests to the services of the waypoint. The filter answers probes, chooses versions and applies gates"
            }
        };
        format!("graygate, {}: {description}.", direction.name())
    }

    /// Adds warnings about effects of the part that are easily missed.
    fn add_warnings(&self, part: &Part, warnings: &mut Vec<String>) {
        let policy = &part.policy;
        if !policy.probes.grpc_services.is_empty() {
            warnings.push("probes.grpc: Istio has no route to the hop that a gRPC health check needs, so the check reaches the app. The filter answers from readiness only if the app responds to the POST with 200 and a body. Otherwise it answers UNAVAILABLE".to_owned());
        }
        if part.direction == Direction::Waypoint && !policy.probes.is_empty() {
            warnings.push(
                "probes: the kubelet's probes do not pass a waypoint, so the filter only answers probes of other clients".to_owned(),
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
                warnings.push(format!("gate on {name}: its fallback needs a route with cluster_header: {header}, which a VirtualService cannot express. Add it by an EnvoyFilter"));
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
                warnings.push(format!("upstreams.{name}.cluster: {cluster:?} is not a cluster of Istio, so no check can be sent unless something adds it. To add it, write --callout '{cluster}=IP:PORT'"));
            }
        }
    }

    fn identity(&self, bundle: &Bundle, module: &Module) -> Identity {
        let direction = bundle.direction.name();
        let name = match (&self.name, self.at) {
            (Some(name), Some(_)) => name.clone(),
            (Some(name), None) => format!("{name}-{direction}"),
            (None, _) => match bundle.parts.as_slice() {
                [part] => format!("graygate-{}-{direction}", part.policy_name),
                _ => format!("graygate-{direction}"),
            },
        };
        // In the root namespace, labels select a gateway in any namespace.
        let gateway_by_labels =
            bundle.direction == Direction::Gateway && self.target.is_empty() && self.selector.is_empty();
        let is_root =
            self.scope == NamespaceScope::Mesh || gateway_by_labels && self.scope == NamespaceScope::Workload;
        let default_namespace = if is_root { ROOT_NAMESPACE } else { "default" };
        let namespace = self.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
        let module = Some(module.kind);
        Identity { name, namespace, component: direction, revision: self.revision.clone(), module }
    }

    fn selection(&self, bundle: &Bundle) -> Selection {
        match (bundle.direction, self.scope) {
            (Direction::Waypoint, _) if self.target.is_empty() => {
                Selection::Targets(vec![(manifest::TargetKind::Gateway, "waypoint".to_owned())])
            }
            _ if !self.target.is_empty() => Selection::Targets(self.target.clone()),
            (_, NamespaceScope::Namespace | NamespaceScope::Mesh) => Selection::All,
            _ if !self.selector.is_empty() => Selection::Labels(self.selector.clone()),
            (Direction::Gateway, _) => {
                Selection::Labels(vec![("istio".to_owned(), "ingressgateway".to_owned())])
            }
            _ => {
                let app = bundle.parts.first().map(|part| part.policy_name.clone());
                Selection::Labels(vec![("app".to_owned(), app.unwrap_or_default())])
            }
        }
    }
}
