//! Finds options that `--kind envoy` does not have, lacks, or cannot follow.

use graygate::policy::Policy;
use graygate::policy::problem::Problem;

use super::super::arguments::RenderArguments;
use super::super::options::{ManifestKind, NamespaceScope};
use super::super::policy_files::PolicyFiles;
use super::super::version::IstioVersion;
use super::{listener, route};

/// Returns the problems of the options. `sources` are the policies, if they could be read.
pub fn problems(arguments: &RenderArguments, sources: Option<&PolicyFiles>) -> Vec<Problem> {
    if arguments.kind != ManifestKind::Envoy {
        return given_envoy_options(arguments)
            .into_iter()
            .map(|option| {
                problem(option, "has no effect without --kind envoy. Add that, or remove the option")
            })
            .collect();
    }
    let mut problems: Vec<Problem> = given_istio_options(arguments)
        .into_iter()
        .map(|option| problem(option, "is only for Istio and has no effect with --kind envoy. Remove it"))
        .collect();
    if let Some(url) =
        arguments.module.as_deref().filter(|url| !url.starts_with("file://") && url.contains("://"))
    {
        let message = format!(
            "{url:?}: only Istio fetches modules. Copy the module to each Envoy and give its path, such as /etc/envoy/{{module}}.wasm"
        );
        problems.push(problem("--module", &message));
    }
    if arguments.bootstrap {
        if let [_, second, ..] = arguments.port.as_slice() {
            problems
                .push(problem("--port", &format!("{second}: a second port. The bootstrap has one listener")));
        }
        let port = arguments.port.first().copied().unwrap_or(listener::PORT);
        let admin_port = arguments.admin_port.unwrap_or(listener::ADMIN_PORT);
        if arguments.probe_listener == Some(port) {
            problems.push(problem("--probe-listener", "the same port as --port. Choose another"));
        }
        // Envoy would start, and requests would reach one or the other.
        for (option, other) in [("--port", Some(port)), ("--probe-listener", arguments.probe_listener)] {
            if other == Some(admin_port) {
                let message = format!(
                    "{admin_port} is also the port of the admin interface. Choose another, or add --admin-port"
                );
                problems.push(problem(option, &message));
            }
        }
    } else {
        for (option, is_given) in [
            ("--port", !arguments.port.is_empty()),
            ("--admin-port", arguments.admin_port.is_some()),
            ("--address", arguments.address.is_some() && arguments.probe_listener.is_none()),
        ] {
            if is_given {
                problems.push(problem(
                    option,
                    "has no effect without --bootstrap. Add that, or remove the option",
                ));
            }
        }
    }
    if let Some(sources) = sources {
        let policies: Vec<&Policy> = sources.policies.iter().map(|source| &source.policy).collect();
        problems.extend(endpoint_problems(arguments, &policies));
        if arguments.probe_listener.is_some() && policies.iter().all(|policy| policy.probes.is_empty()) {
            problems.push(problem(
                "--probe-listener",
                "the policy has no probes. Add probes, or remove the option",
            ));
        }
    }
    problems
}

/// Returns the names of the clusters that the policies need, each once.
pub fn cluster_names<'a>(arguments: &'a RenderArguments, policies: &[&'a Policy]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    let of_policies = policies.iter().flat_map(|policy| {
        let upstreams = policy.upstreams.iter().map(|upstream| upstream.cluster.as_str());
        upstreams.chain(route::default_cluster_of(policy))
    });
    for name in of_policies.chain(arguments.default_cluster.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn endpoint_problems(arguments: &RenderArguments, policies: &[&Policy]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let names = cluster_names(arguments, policies);
    for (index, endpoint) in arguments.endpoint.iter().enumerate() {
        let cluster = &endpoint.cluster;
        if arguments.endpoint.iter().take(index).any(|other| other == endpoint) {
            problems.push(problem("--endpoint", &format!("{cluster:?}: the same address twice. Remove one")));
        } else if !names.contains(&cluster.as_str()) {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!("{cluster:?}: the policy has no such cluster. It has: {known}");
            problems.push(problem("--endpoint", &message));
        }
    }
    if arguments.bootstrap {
        for name in names {
            if !arguments.endpoint.iter().any(|endpoint| endpoint.cluster == name) {
                let message = format!(
                    "missing for the cluster {name:?}, and a bootstrap needs its address. Add --endpoint '{name}=HOST:PORT'"
                );
                problems.push(problem("--endpoint", &message));
            }
        }
    }
    problems
}

fn problem(option: &str, message: &str) -> Problem {
    Problem { path: option.to_owned(), message: message.to_owned() }
}

fn given_envoy_options(arguments: &RenderArguments) -> Vec<&'static str> {
    given([
        ("--bootstrap", arguments.bootstrap),
        ("--endpoint", !arguments.endpoint.is_empty()),
        ("--default-cluster", arguments.default_cluster.is_some()),
        ("--address", arguments.address.is_some()),
        ("--admin-port", arguments.admin_port.is_some()),
    ])
}

fn given_istio_options(arguments: &RenderArguments) -> Vec<&'static str> {
    given([
        ("--at", arguments.at.is_some()),
        ("--scope", arguments.scope != NamespaceScope::Workload),
        ("--selector", !arguments.selector.is_empty()),
        ("--target", !arguments.target.is_empty()),
        ("--name", arguments.name.is_some()),
        ("--namespace", arguments.namespace.is_some()),
        ("--revision", arguments.revision.is_some()),
        ("--priority", arguments.priority.is_some()),
        ("--istio", arguments.istio != IstioVersion::NEWEST),
        ("--callout", !arguments.callout.is_empty()),
        ("--routes", arguments.routes),
        ("--pull-secret", arguments.pull_secret.is_some()),
        ("--sha256", !arguments.sha256.is_empty()),
    ])
}

fn given<const N: usize>(options: [(&'static str, bool); N]) -> Vec<&'static str> {
    options.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
}
