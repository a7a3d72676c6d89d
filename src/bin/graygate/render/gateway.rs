//! `--kind envoyextensionpolicy`: what adds the filter to Envoy Gateway, and the HTTPRoutes that follow the policies.

pub mod backend;
pub mod gateway_name;
mod problems;
mod rules;

use graygate::policy::problem::Problem;

use super::arguments::RenderArguments;
use super::fail::FailurePolicy;
use super::manifest::{Manifest, TargetKind};
use super::module::Module;
use super::policy_files::{PolicyFile, PolicyFiles};
use crate::failure::Failure;
use crate::istio::direction;
use crate::stats_tags;
use crate::tree::{list, object, or_null, set, text};
use crate::warning;
use graygate::policy::document::Node;
use rules::Rules;

/// The group of the resources of Envoy Gateway.
pub const GROUP: &str = "gateway.envoyproxy.io";
const ROUTES: &str = "gateway.networking.k8s.io";
/// The name of the Gateway in the documents of Envoy Gateway.
const GATEWAY: &str = "eg";

/// The manifests for standard output, and the warnings for standard error.
pub struct GatewayOutput {
    /// The manifests.
    pub manifests: Vec<Manifest>,
    /// The warnings.
    pub warnings: Vec<String>,
}

/// A route that the output has, or that the user has.
struct RouteName {
    namespace: String,
    name: String,
}

/// Returns the problems of the options.
pub fn problems(arguments: &RenderArguments, sources: Option<&PolicyFiles>) -> Vec<Problem> {
    problems::problems(arguments, sources)
}

/// Returns the manifests. Returns the problems of the policies inside, each with its file.
pub fn manifests(
    arguments: &RenderArguments,
    sources: &PolicyFiles,
) -> Result<Result<GatewayOutput, Vec<String>>, Failure> {
    let routes: Vec<RouteName> = sources.policies.iter().map(|source| arguments.route(source)).collect();
    let own_route = arguments.own_route();
    let mut found = Vec::new();
    let mut planned = Vec::new();
    for (source, route) in sources.policies.iter().zip(&routes) {
        let place = (route.namespace.as_str(), route.name.as_str());
        let rules = match own_route {
            Some(_) => Rules::of_own(&source.policy, place),
            None => Rules::of(&source.policy, &arguments.backend, place),
        };
        match rules {
            Ok(rules) => planned.push(rules),
            Err(problems) => {
                found.extend(problems.iter().map(|problem| format!("{}: {problem}", source.file)));
            }
        }
    }
    if !found.is_empty() {
        return Ok(Err(found));
    }
    let mut manifests = Vec::new();
    let mut all_warnings: Vec<String> = Vec::new();
    let policies: Vec<_> = sources.policies.iter().map(|source| &source.policy).collect();
    let module = arguments.module_for(&policies, sources.is_list);
    arguments.add_module_warnings(core::slice::from_ref(&module), &mut all_warnings);
    let mut attached: Vec<(TargetKind, String)> = arguments.target.clone();
    for ((source, route), rules) in sources.policies.iter().zip(&routes).zip(&planned) {
        all_warnings.extend(
            warnings(arguments, source, rules)
                .into_iter()
                .map(|warning| if sources.is_list { format!("{}: {warning}", source.file) } else { warning }),
        );
        if rules.is_empty() {
            continue;
        }
        manifests.push(arguments.http_route(source, route, rules));
        if arguments.target.is_empty() {
            attached.push((TargetKind::HttpRoute, route.name.clone()));
        }
    }
    let documents: Vec<Node> = sources
        .policies
        .iter()
        .zip(&planned)
        .map(|(source, rules)| rules.renamed(&source.document))
        .collect();
    manifests.push(arguments.extension_policy(sources, documents, &module, &attached));
    manifests.push(arguments.envoy_proxy()?);
    Ok(Ok(GatewayOutput { manifests, warnings: all_warnings }))
}

/// Returns the warnings about one policy.
fn warnings(arguments: &RenderArguments, source: &PolicyFile, rules: &Rules<'_>) -> Vec<String> {
    let policy = &source.policy;
    let mut warnings: Vec<String> =
        warning::probes_warning(policy).into_iter().chain(direction::off_warning(policy, false)).collect();
    if !policy.probes.grpc_services.is_empty() {
        warnings.push("probes.grpc: Envoy Gateway has no route to the hop that a gRPC health check needs, so the check reaches the Service. The filter answers from readiness only if the Service responds to the POST with 200 and a body. Otherwise it answers UNAVAILABLE".to_owned());
    }
    for namespace in rules.other_namespaces() {
        warnings.push(format!(
            "--backend: the route is in namespace {}, and leads to Services in {namespace}. Envoy Gateway responds 500 unless {namespace} has a ReferenceGrant for it",
            arguments.namespace()
        ));
    }
    warnings
}

impl RenderArguments {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// Returns the name of the user's own route, if the policy is for one.
    fn own_route(&self) -> Option<&str> {
        let mut targets = self.target.iter();
        targets.find(|(kind, _)| *kind == TargetKind::HttpRoute).map(|(_, name)| name.as_str())
    }

    /// Returns the route of a policy.
    fn route(&self, source: &PolicyFile) -> RouteName {
        let name = match (self.own_route(), &self.name) {
            (Some(name), _) => name.to_owned(),
            (None, Some(name)) => name.clone(),
            (None, None) => format!("graygate-{}", source.policy.name),
        };
        RouteName { namespace: self.namespace().to_owned(), name }
    }

    /// Returns the namespace and the name of the Gateway.
    fn gateway(&self) -> (&str, &str) {
        let targeted = self.target.iter().find(|(kind, _)| *kind == TargetKind::Gateway);
        match (&self.gateway, targeted) {
            (Some((namespace, name)), _) => (namespace.as_deref().unwrap_or(self.namespace()), name),
            (None, Some((_, name))) => (self.namespace(), name),
            (None, None) => (self.namespace(), GATEWAY),
        }
    }

    fn metadata(&self, name: &str, namespace: &str) -> Node {
        let labels = object([("app.kubernetes.io/name", text("graygate"))]);
        object([("name", text(name)), ("namespace", text(namespace)), ("labels", labels)])
    }

    fn http_route(&self, source: &PolicyFile, route: &RouteName, rules: &Rules<'_>) -> Manifest {
        let (gateway_namespace, gateway) = self.gateway();
        let is_other = gateway_namespace != route.namespace;
        let namespace = is_other.then(|| text(gateway_namespace));
        let parent = object([("name", text(gateway)), ("namespace", or_null(namespace))]);
        let hosts = rules::hostnames(&source.policy);
        let hosts = (!hosts.is_empty()).then(|| list(hosts.iter().map(text)));
        let spec =
            object([("parentRefs", list([parent])), ("hostnames", or_null(hosts)), ("rules", rules.node())]);
        let mut comments = vec![format!(
            "Routes for policy {}. The filter is on by route, so a path without a route is 404 and never reaches it.",
            source.policy.name
        )];
        comments.extend(rules.comments());
        comments.push("Envoy Gateway names the cluster of a rule by its number, and the policy has these names. If you add rules, add them at the end. If you move or remove one, change upstreams.*.cluster of the policy with it. graygate check finds what does not fit.".to_owned());
        Manifest {
            comments,
            object: object([
                ("apiVersion", text(format!("{ROUTES}/v1"))),
                ("kind", text("HTTPRoute")),
                ("metadata", self.metadata(&route.name, &route.namespace)),
                ("spec", spec),
            ]),
        }
    }

    fn extension_policy(
        &self,
        sources: &PolicyFiles,
        documents: Vec<Node>,
        module: &Module,
        attached: &[(TargetKind, String)],
    ) -> Manifest {
        let name = match (&self.name, sources.policies.as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [source]) => format!("graygate-{}", source.policy.name),
            (None, _) => "graygate".to_owned(),
        };
        let targets = attached.iter().map(|(kind, name)| {
            let (group, kind) = kind.reference();
            object([("group", text(group)), ("kind", text(kind)), ("name", text(name))])
        });
        let mut config = match documents.as_slice() {
            [document] if !sources.is_list => document.clone(),
            _ => object([("policies", list(documents))]),
        };
        set(&mut config, "onWrongPolicy", text(sources.on_wrong_policy));
        let is_open = self.fail() == FailurePolicy::Open;
        let wasm = object([
            ("name", text("graygate")),
            ("rootID", text("graygate")),
            ("code", code(module)),
            ("failOpen", Node::Bool(is_open)),
            ("config", config),
        ]);
        let spec = object([("targetRefs", list(targets)), ("wasm", list([wasm]))]);
        let mut comments = vec![
            "graygate for Envoy Gateway: the filter answers probes, chooses versions and applies gates on the routes of its targets.".to_owned(),
            module.about.clone(),
            fail_reason(is_open).to_owned(),
            "A changed policy changes the listener: Envoy drains the connections to it, and closes them after the drain timeout, which is 60 seconds unless spec.shutdown.drainTimeout of the EnvoyProxy says otherwise.".to_owned(),
            "An EnvoyExtensionPolicy for a single route or rule replaces one for its Gateway there. To add to it, set mergeType in the other.".to_owned(),
        ];
        if !sources.is_chosen {
            comments.push("With onWrongPolicy: lastGood, a wrong policy does not stop traffic. Proxies that have had a good policy keep it, new proxies let requests pass unmanaged, and graygate_policy_refused is 1.".to_owned());
        }
        Manifest {
            comments,
            object: object([
                ("apiVersion", text(format!("{GROUP}/v1alpha1"))),
                ("kind", text("EnvoyExtensionPolicy")),
                ("metadata", self.metadata(&name, self.namespace())),
                ("spec", spec),
            ]),
        }
    }

    /// Returns the resource with the labels of metrics. The Gateway must name it.
    fn envoy_proxy(&self) -> Result<Manifest, Failure> {
        let mut object = stats_tags::envoy_proxy()?;
        set(&mut object, "metadata", self.metadata("graygate", self.gateway().0));
        Ok(Manifest { comments: stats_tags::gateway_comments(), object })
    }
}

/// Returns the `code` of the module. An image has no scheme there.
fn code(module: &Module) -> Node {
    let sha256 = or_null(module.sha256.as_deref().map(text));
    if let Some(image) = module.url.strip_prefix("oci://") {
        let secret = module.secret.as_deref().map(|name| object([("name", text(name))]));
        let image = object([("url", text(image)), ("sha256", sha256), ("pullSecretRef", or_null(secret))]);
        return object([("type", text("Image")), ("image", image)]);
    }
    let http = object([("url", text(&module.url)), ("sha256", sha256)]);
    object([("type", text("HTTP")), ("http", http)])
}

/// Explains `failOpen`.
fn fail_reason(is_open: bool) -> &'static str {
    match is_open {
        true => {
            "failOpen: true: while the module cannot be fetched, or its VM has failed, requests pass as if the filter were absent: probes follow the routes, all users get the version of the route without a header, and gates have no effect. Envoy Gateway has no FAIL_RELOAD, so a VM that has failed stays away until the policy changes or the proxy restarts."
        }
        false => {
            "failOpen: false: while the module cannot be fetched, every request gets 500. After a VM has failed, its worker responds 503 to every request until the policy changes or the proxy restarts. Envoy Gateway has no FAIL_RELOAD."
        }
    }
}
