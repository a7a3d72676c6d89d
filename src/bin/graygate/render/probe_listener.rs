//! Renders the listener of a sidecar that answers probes, and 404 to all else.
//!
//! A kubelet's probes do not pass the filter on the app's port: Istio rewrites them to its agent, whose requests are not
//! captured. So the Pod's probes are aimed at this port.

use graygate::policy::document::Node;

use super::envoy::listener::{self, Manager};
use super::envoy_filter;
use super::fail::FailurePolicy;
use super::manifest::{self, Identity, Manifest, patch};
use super::options::ManifestKind;
use super::part::Bundle;
use super::plugin::Plugin;
use super::version::IstioVersion;
use crate::failure::Failure;
use crate::istio::direction::Direction;
use crate::tree::{self, list, object, text};

/// Returns whether the listener is for these parts: they are inbound, and there are probes.
pub fn is_for(bundle: &Bundle) -> bool {
    bundle.direction == Direction::Inbound && bundle.parts.iter().any(|part| !part.policy.probes.is_empty())
}

/// Returns whether the parts do nothing on the app's port that the listener does not do.
pub fn replaces_plugin(bundle: &Bundle) -> bool {
    bundle.parts.iter().all(|part| part.policy.gates.is_empty() && part.policy.releases.is_empty())
}

/// Returns the EnvoyFilter with the listener.
///
/// It has the very document of the plugin on the app's port, as policies of one name share their state. A plugin has no
/// VM ID, and only filters with the same one share, so beside a plugin the listener has none either.
pub fn manifest(
    plugin: &Plugin<'_>,
    kind: ManifestKind,
    istio: IstioVersion,
    port: u16,
) -> Result<Manifest, Failure> {
    let identity = Identity { module: plugin.identity.module, ..plugin.identity.with_suffix("probes") };
    let fail = match istio < IstioVersion::FAILURE_POLICY {
        // Older proxies cannot reload a VM. A probe must not pass to the route, which responds 404.
        true => FailurePolicy::Closed,
        false => FailurePolicy::Reload,
    };
    let plugin = Plugin { identity: &identity, fail, ..*plugin };
    let vm_id = (kind == ManifestKind::Envoyfilter).then_some("graygate");
    let (filter, extension) = envoy_filter::filter(&plugin, istio, vm_id)?;
    let manager = Manager {
        name: "graygate-probe",
        http_filters: vec![filter],
        virtual_hosts: vec![listener::not_found("probe", Vec::new())],
        request_timeout: None,
        has_access_log: false,
    };
    let value = object([
        ("name", text("graygate-probe")),
        ("traffic_direction", text("INBOUND")),
        ("address", listener::socket_address("0.0.0.0", port)),
        ("filter_chains", manager.filter_chains()),
    ]);
    let matched = object([("context", text(Direction::Inbound.context()))]);
    let mut patches = Vec::new();
    if let Some(mut extension) = extension {
        // Istio ignores the context of a resource. It tells `check` where the filter is.
        tree::set(&mut extension, "match", matched.clone());
        patches.push(extension);
    }
    patches.push(patch("LISTENER", matched, "ADD", value));
    let comments = vec![
        format!(
            "graygate, probes: a listener on port {port} that answers the policy's probes, and 404 to all else. Aim the Pod's probes at this port."
        ),
        plugin.module.about.clone(),
        "The kubelet's probes do not pass the filter on the app's port: Istio rewrites them to its agent, which asks the app directly. The agent asks this listener at the Pod's address, so it binds 0.0.0.0. In a Pod that only has IPv6, write \"::\".".to_owned(),
        "It has the same document as the plugin on the app's port, if there is one, so both share one state. Change both together.".to_owned(),
    ];
    let object = manifest::envoy_filter(&identity, plugin.selection, plugin.priority, patches);
    Ok(Manifest { comments, object })
}

/// Lets only the Pod itself order a drain and read the status page, if the policy does not say who may.
///
/// By default, every loopback address may. But a sidecar passes on requests of other workloads for this port from
/// 127.0.0.6, so that each of them could drain the Pod.
pub fn restrict_sources(document: &mut Node) {
    for key in ["drain", "status"] {
        let Some(Node::Object(fields)) = tree::get_mut(document, &["probes", key]) else {
            continue;
        };
        let has = |name: &str| fields.iter().any(|(key, _)| key == name);
        // Without a path, nobody asks or orders anything.
        if has("path") && !has("from") {
            fields.push(("from".to_owned(), list(["127.0.0.1/32", "::1/128"].map(text))));
        }
    }
}
