//! `--kind envoy`: the parts of an Envoy configuration that a policy needs, or a whole bootstrap.

pub mod cluster;
mod hop;
pub mod listener;
mod problems;
pub mod route;

use std::io::Write;

use graygate::policy::document::Node;
use graygate::policy::{Policy, problem::Problem};

use super::arguments::RenderArguments;
use super::envoy_filter::WASM;
use super::manifest;
use super::module::Module;
use super::policy_files::PolicyFiles;
use crate::failure::Failure;
use crate::istio::direction;
use crate::stats_tags;
use crate::tree::{self, list, object, text};
use crate::warning;
use cluster::Endpoint;
use listener::Manager;

/// One top-level key of the output, with the comments above it.
struct Section {
    key: &'static str,
    comments: Vec<String>,
    value: Node,
}

impl Section {
    fn new(key: &'static str, comment: impl Into<String>, value: Node) -> Self {
        Section { key, comments: vec![comment.into()], value }
    }

    fn yaml(&self) -> Result<String, Failure> {
        let comments = manifest::comment_lines(&self.comments);
        Ok(comments + &tree::write(&object([(self.key, self.value.clone())]))?)
    }
}

/// The policies, and what the options make of them.
struct Rendering<'a> {
    arguments: &'a RenderArguments,
    sources: &'a PolicyFiles,
    policies: Vec<&'a Policy>,
    module: Module,
    address: String,
}

/// Returns the problems of the options.
pub fn problems(arguments: &RenderArguments, sources: Option<&PolicyFiles>) -> Vec<Problem> {
    problems::problems(arguments, sources)
}

/// Prints the configuration, and warnings.
pub fn print(arguments: &RenderArguments, sources: &PolicyFiles) -> Result<(), Failure> {
    let policies: Vec<&Policy> = sources.policies.iter().map(|source| &source.policy).collect();
    let address = arguments.address.map_or("127.0.0.1".to_owned(), |address| address.to_string());
    let module = arguments.module_for(&policies, sources.is_list);
    let rendering = Rendering { arguments, sources, policies, module, address };
    let mut warnings = rendering.warnings();
    let hosts = route::virtual_hosts(&rendering.policies, arguments.default_cluster.as_deref());
    warnings.extend(hosts.warnings);
    for warning in warnings {
        crate::failure::print_error(&format!("graygate: warning: {warning}"));
    }
    let sections = match arguments.bootstrap {
        true => rendering.bootstrap(hosts.nodes)?,
        false => rendering.parts(hosts.nodes)?,
    };
    let mut output = String::new();
    for section in sections {
        if !output.is_empty() {
            output.push('\n');
        }
        output.push_str(&section.yaml()?);
    }
    let written = std::io::stdout().lock().write_all(output.as_bytes());
    written.map_err(|error| Failure::output(&error))
}

impl Rendering<'_> {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let has_listener = self.arguments.probe_listener.is_some();
        for source in &self.sources.policies {
            let own = [
                warning::probes_warning(&source.policy),
                direction::off_warning(&source.policy, has_listener),
            ];
            let own = own.into_iter().flatten();
            warnings.extend(own.map(|warning| match self.sources.is_list {
                true => format!("{}: {warning}", source.file),
                false => warning,
            }));
        }
        warnings
    }

    fn needs_hop(&self) -> bool {
        self.policies.iter().any(|policy| !policy.probes.grpc_services.is_empty())
    }

    /// Returns the parts of a configuration, each by the name of the field that it belongs to.
    fn parts(&self, mut virtual_hosts: Vec<Node>) -> Result<Vec<Section>, Failure> {
        let mut sections = vec![Section {
            key: "http_filters",
            comments: vec![
                format!(
                    "Made by graygate {} from {}. Put each part into the field of its name.",
                    env!("CARGO_PKG_VERSION"),
                    self.sources.files()
                ),
                "http_filters of the HTTP connection manager: the filter comes right before the router, so it sees requests as the router will.".to_owned(),
                self.module.about.clone(),
                self.explain_filter(),
            ],
            value: list([self.filter()?]),
        }];
        let has_own_hosts = self.policies.iter().any(|policy| !policy.hosts.are_all());
        let comment = "They follow what the filter writes into requests, so they come before your own. The last one is for requests without a version. Remove it if you have a default route.";
        if has_own_hosts || virtual_hosts.len() != 1 {
            let comment = format!(
                "virtual_hosts of the route table, one for each policy, because a policy acts on its hosts alone. If clients send ports in the host, set ignore_port_in_host_matching. {comment}"
            );
            sections.push(Section::new("virtual_hosts", comment, list(virtual_hosts)));
        } else if let Some(host) = virtual_hosts.pop() {
            let routes = tree::get(&host, &["routes"]).cloned().unwrap_or(Node::Null);
            sections.push(Section::new("routes", format!("routes of the virtual host. {comment}"), routes));
        }
        let mut listeners = Vec::new();
        listeners.extend(self.probe_listener()?);
        listeners.extend(self.needs_hop().then(hop::listener));
        if !listeners.is_empty() {
            sections.push(Section::new(
                "listeners",
                format!("static_resources.listeners. {}", self.explain_listeners()),
                list(listeners),
            ));
        }
        let clusters = self.clusters();
        if !clusters.is_empty() {
            sections.push(Section::new(
                "clusters",
                format!("static_resources.clusters. {}", self.explain_clusters()),
                list(clusters),
            ));
        }
        sections.extend(self.global_sections());
        Ok(sections)
    }

    /// Returns a whole bootstrap.
    fn bootstrap(&self, virtual_hosts: Vec<Node>) -> Result<Vec<Section>, Failure> {
        let name = self.policies.first().map_or("graygate", |policy| policy.name.as_str());
        let node = object([("id", text(name)), ("cluster", text(name))]);
        let node = Section {
            key: "node",
            comments: vec![
                format!("Made by graygate {} from {}.", env!("CARGO_PKG_VERSION"), self.sources.files()),
                "rollout.percent chooses proxies by their node id. Give each Envoy its own: envoy --service-node ID.".to_owned(),
            ],
            value: node,
        };
        let admin_port = self.arguments.admin_port.unwrap_or(listener::ADMIN_PORT);
        let admin = object([("address", listener::socket_address("127.0.0.1", admin_port))]);
        let admin = Section::new(
            "admin",
            "Statistics are at /stats/prometheus. Who reaches this port can stop Envoy, so it is bound to 127.0.0.1.",
            admin,
        );
        let manager = Manager {
            name: "graygate",
            http_filters: vec![self.filter()?],
            virtual_hosts,
            request_timeout: None,
            has_access_log: true,
        };
        let port = self.arguments.port.first().copied().unwrap_or(listener::PORT);
        let main = object([
            ("name", text("graygate")),
            ("address", listener::socket_address(&self.address, port)),
            ("filter_chains", manager.filter_chains()),
        ]);
        let probes = self.probe_listener()?;
        let hop = self.needs_hop().then(hop::listener);
        let listeners = list([Some(main), probes, hop].into_iter().flatten());
        let resources = object([("listeners", listeners), ("clusters", list(self.clusters()))]);
        let mut comments = vec![self.module.about.clone(), self.explain_filter()];
        comments.push("The routes follow what the filter writes into requests. The last one is for requests without a version.".to_owned());
        if self.arguments.probe_listener.is_some() || self.needs_hop() {
            comments.push(self.explain_listeners());
        }
        comments.push(self.explain_clusters());
        let mut sections = vec![node, admin];
        sections.extend(self.global_sections());
        sections.push(Section { key: "static_resources", comments, value: resources });
        Ok(sections)
    }

    /// Returns the sections that both forms have, as they are for Envoy as a whole.
    fn global_sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        if self.needs_hop() {
            sections.push(Section::new(
                "bootstrap_extensions",
                format!("Without this extension, Envoy refuses the listener {}.", hop::NAME),
                list([hop::bootstrap_extension()]),
            ));
        }
        sections.push(Section::new(
            "stats_config",
            "Turns the labels in the names of the filter's metrics into labels of Prometheus.",
            stats_tags::stats_config(),
        ));
        sections
    }

    fn explain_filter(&self) -> String {
        let consequence = match self.arguments.fail() {
            super::fail::FailurePolicy::Reload => {
                "FAIL_RELOAD makes a new VM if one fails. Without it, its worker would respond 503 permanently."
            }
            super::fail::FailurePolicy::Open => {
                "FAIL_OPEN lets requests pass without the policy once a VM has failed: probes reach the app, requests get no version, and no gate holds."
            }
            super::fail::FailurePolicy::Closed => {
                "FAIL_CLOSED answers each request of a worker with 503 once its VM has failed, until Envoy restarts."
            }
        };
        format!(
            "{consequence} The vm_id keeps other plugins from sharing the filter's VM and data. The policy is JSON in a StringValue, because a Struct reaches the filter as protobuf."
        )
    }

    fn explain_listeners(&self) -> String {
        let mut sentences = Vec::new();
        if self.arguments.probe_listener.is_some() {
            sentences.push("The listener graygate-probe answers the policy's probes, and 404 to all else. Its filter has the same vm_id and policy, so both share one state.");
        }
        if self.needs_hop() {
            sentences.push("The listener graygate-hop has no socket. gRPC health checks go through it, because a reply of the filter itself cannot carry a gRPC message.");
        }
        sentences.join(" ")
    }

    fn explain_clusters(&self) -> String {
        let missing: Vec<&str> = self
            .cluster_names()
            .into_iter()
            .filter(|name| !self.arguments.endpoint.iter().any(|endpoint| endpoint.cluster == *name))
            .collect();
        let of_hop = self.needs_hop().then(|| "graygate-hop leads to the listener of that name. ".to_owned());
        let rest = match missing.as_slice() {
            [] => "Each cluster of the policy is here.".to_owned(),
            names => format!(
                "Your configuration must have the other clusters of the policy: {}. Or name their addresses by --endpoint.",
                names.join(", ")
            ),
        };
        of_hop.unwrap_or_default() + &rest
    }

    /// Returns the names of the clusters that the policies need, each once.
    fn cluster_names(&self) -> Vec<&str> {
        problems::cluster_names(self.arguments, &self.policies)
    }

    fn clusters(&self) -> Vec<Node> {
        let mut clusters: Vec<Node> = self.needs_hop().then(hop::cluster).into_iter().collect();
        for name in self.cluster_names() {
            let endpoints: Vec<&Endpoint> =
                self.arguments.endpoint.iter().filter(|endpoint| endpoint.cluster == name).collect();
            if !endpoints.is_empty() {
                let http2 = super::callout::speaks_grpc(&self.policies, name);
                clusters.push(cluster::cluster(name, &endpoints, http2));
            }
        }
        clusters
    }

    /// Returns the filter, which is the same on all listeners.
    fn filter(&self) -> Result<Node, Failure> {
        let policy = serde_json::to_string_pretty(&self.document())
            .map_err(|error| Failure::Usage(format!("cannot write the policy as JSON: {error}")))?;
        let path = self.module.path().unwrap_or(&self.module.url);
        let fail = self.arguments.fail();
        let reload = match fail {
            super::fail::FailurePolicy::Reload => {
                object([("backoff", object([("base_interval", text("1s"))]))])
            }
            _ => Node::Null,
        };
        let code = object([("local", object([("filename", text(path))]))]);
        let vm =
            object([("vm_id", text("graygate")), ("runtime", text("envoy.wasm.runtime.v8")), ("code", code)]);
        let configuration = object([
            ("@type", text("type.googleapis.com/google.protobuf.StringValue")),
            ("value", text(policy + "\n")),
        ]);
        let config = object([
            ("name", text(self.plugin_name())),
            ("failure_policy", text(fail.policy())),
            ("reload_config", reload),
            ("vm_config", vm),
            ("configuration", configuration),
        ]);
        let typed = object([("@type", text(WASM)), ("config", config)]);
        Ok(object([("name", text("graygate")), ("typed_config", typed)]))
    }

    /// Returns the name of the plugin. A module without callbacks for each request tells the plugins of one VM apart by it.
    fn plugin_name(&self) -> String {
        match self.policies.as_slice() {
            [policy] if !self.sources.is_list => format!("graygate-{}", policy.name),
            _ => "graygate".to_owned(),
        }
    }

    /// Returns the document of all policies. Envoy refuses a wrong one as a whole, so it needs no onWrongPolicy.
    fn document(&self) -> Node {
        let documents = || self.sources.policies.iter().map(|source| source.document.clone());
        let mut document = match documents().next() {
            Some(document) if !self.sources.is_list => document,
            _ => object([("policies", list(documents()))]),
        };
        if self.sources.is_chosen {
            tree::set(&mut document, "onWrongPolicy", text(self.sources.on_wrong_policy));
        }
        document
    }

    fn probe_listener(&self) -> Result<Option<Node>, Failure> {
        let Some(port) = self.arguments.probe_listener else {
            return Ok(None);
        };
        let routes = self.needs_hop().then(hop::route).into_iter().collect();
        let manager = Manager {
            name: "graygate-probe",
            http_filters: vec![self.filter()?],
            virtual_hosts: vec![listener::not_found("probe", routes)],
            request_timeout: None,
            has_access_log: false,
        };
        Ok(Some(object([
            ("name", text("graygate-probe")),
            ("address", listener::socket_address(&self.address, port)),
            ("filter_chains", manager.filter_chains()),
        ])))
    }
}
