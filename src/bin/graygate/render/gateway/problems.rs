//! Finds options that `--kind envoyextensionpolicy` does not have, lacks, or cannot follow.

use graygate::policy::problem::Problem;

use super::super::arguments::RenderArguments;
use super::super::fail::FailurePolicy;
use super::super::manifest::TargetKind;
use super::super::module_choice;
use super::super::options::{ManifestKind, NamespaceScope};
use super::super::policy_files::PolicyFiles;
use super::super::version::IstioVersion;
use crate::istio::direction::refused;

/// Returns the problems of the options. `sources` are the policies, if they could be read.
pub fn problems(arguments: &RenderArguments, sources: Option<&PolicyFiles>) -> Vec<Problem> {
    if arguments.kind != ManifestKind::Envoyextensionpolicy {
        let given =
            [("--backend", !arguments.backend.is_empty()), ("--gateway", arguments.gateway.is_some())];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        return given
            .map(|(option, _)| {
                problem(
                    option,
                    "has no effect without --kind envoyextensionpolicy. Add that, or remove the option",
                )
            })
            .collect();
    }
    let mut problems: Vec<Problem> = given_istio_options(arguments)
        .into_iter()
        .map(|option| {
            problem(option, "is only for Istio and has no effect with --kind envoyextensionpolicy. Remove it")
        })
        .collect();
    if let Some(url) = arguments.module.as_ref().filter(|url| url.starts_with("file://")) {
        let reason = "Envoy Gateway fetches the module itself, and hands it to its proxies";
        problems.push(refused(
            "--module",
            &format!("{url:?}"),
            reason,
            "oci://REGISTRY/NAME:TAG, https://HOST/PATH",
        ));
    }
    if let Some(secret) = arguments.pull_secret.as_ref()
        && arguments.module.as_ref().is_some_and(|url| !url.starts_with("oci://"))
    {
        let reason = "only an image has a secret";
        problems.push(refused("--pull-secret", secret, reason, "with --module oci://REGISTRY/NAME:TAG"));
    }
    if arguments.fail == Some(FailurePolicy::Reload) {
        let reason = "Envoy Gateway has no FAIL_RELOAD, only failOpen";
        problems.push(refused("--fail", "reload", reason, "open, closed"));
    }
    problems.extend(target_problems(arguments));
    if let Some(sources) = sources {
        problems.extend(of_policies(arguments, sources));
    }
    problems
}

fn target_problems(arguments: &RenderArguments) -> Vec<Problem> {
    let mut problems = Vec::new();
    let service = arguments.target.iter().find(|(kind, _)| *kind == TargetKind::Service);
    if let Some((_, name)) = service {
        let reason = "Envoy Gateway attaches no EnvoyExtensionPolicy to a Service";
        problems.push(refused(
            "--target",
            &format!("Service/{name}"),
            reason,
            "HTTPRoute/NAME, Gateway/NAME",
        ));
    }
    let mut routes = arguments.target.iter().filter(|(kind, _)| *kind == TargetKind::HttpRoute);
    if let (Some((_, name)), Some(gateway)) = (routes.next(), &arguments.gateway) {
        let message = format!(
            "{}: has no effect with --target HTTPRoute/{name}, as that route names its Gateway. Remove one of them",
            gateway.1
        );
        problems.push(problem("--gateway", &message));
    }
    let targeted = arguments.target.iter().find(|(kind, _)| *kind == TargetKind::Gateway);
    if let (Some((_, name)), Some((Some(namespace), _))) = (targeted, &arguments.gateway)
        && Some(namespace) != arguments.namespace.as_ref()
    {
        let reason = format!("a policy is in the namespace of its target, and --gateway is in {namespace}");
        let allowed = format!("with --namespace {namespace}");
        problems.push(refused("--target", &format!("Gateway/{name}"), &reason, &allowed));
    }
    problems
}

fn of_policies(arguments: &RenderArguments, sources: &PolicyFiles) -> Vec<Problem> {
    let mut problems = Vec::new();
    let policies: Vec<_> = sources.policies.iter().map(|source| &source.policy).collect();
    problems.extend(arguments.digest_problem(&[module_choice::needed(&policies)]));
    if let (Some(name), [_, _, ..]) = (&arguments.name, policies.as_slice()) {
        let reason = "each policy has a route, whose name is that of the policy";
        problems.push(refused("--name", name, reason, "with one policy, as by --policy-name"));
    }
    let clusters: Vec<&str> = policies
        .iter()
        .flat_map(|policy| policy.upstreams.iter().map(|upstream| upstream.cluster.as_str()))
        .collect();
    for (index, backend) in arguments.backend.iter().enumerate() {
        let cluster = &backend.cluster;
        if arguments.backend.iter().take(index).any(|other| other.cluster == *cluster) {
            problems.push(problem("--backend", &format!("{cluster:?}: given twice. Keep one")));
        } else if !clusters.contains(&cluster.as_str()) {
            let known = if clusters.is_empty() { "none".to_owned() } else { clusters.join(", ") };
            let message = format!("{cluster:?}: the policy has no such cluster. It has: {known}");
            problems.push(problem("--backend", &message));
        }
    }
    problems
}

fn problem(option: &str, message: &str) -> Problem {
    Problem { path: option.to_owned(), message: message.to_owned() }
}

fn given_istio_options(arguments: &RenderArguments) -> Vec<&'static str> {
    let options = [
        ("--at", arguments.at.is_some()),
        ("--scope", arguments.scope != NamespaceScope::Workload),
        ("--selector", !arguments.selector.is_empty()),
        ("--revision", arguments.revision.is_some()),
        ("--priority", arguments.priority.is_some()),
        ("--istio", arguments.istio != IstioVersion::NEWEST),
        ("--callout", !arguments.callout.is_empty()),
        ("--routes", arguments.routes),
        ("--probe-listener", arguments.probe_listener.is_some()),
        ("--port", !arguments.port.is_empty()),
    ];
    options.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
}
