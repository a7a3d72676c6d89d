//! Which module a policy needs.
//!
//! There are two modules, made from the same source. The proxy calls a module at each point of a request for which the
//! module has a callback, and each such call costs. So one module has only the callback of a request's headers.

use super::Policy;
use super::gate::{Fallback, WhenAllNotReady};
use super::probe::{Basis, Probes};
use super::release::Release;
use super::release::version::HeaderEdits;

/// A module of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum ModuleKind {
    /// It serves every policy.
    Full,
    /// It serves policies that act on the headers of requests alone. A request costs about half as much.
    Requests,
}

impl ModuleKind {
    /// Returns the name of the file.
    pub fn file(self) -> &'static str {
        match self {
            ModuleKind::Full => "graygate.wasm",
            ModuleKind::Requests => "graygate-requests.wasm",
        }
    }

    /// Returns the module with the lowest cost that serves the policy.
    ///
    /// ```
    /// use graygate::policy::Policy;
    /// use graygate::policy::module::ModuleKind;
    ///
    /// let bare = br#"{"name": "shop", "upstreams": {"app": {"cluster": "app"}}, "gates": [{"upstream": "app"}]}"#;
    /// assert_eq!(ModuleKind::of(&Policy::from_json(bare)?), ModuleKind::Requests);
    /// let judged = br#"{"name": "shop", "upstreams": {"app": {"cluster": "app", "circuitBreaker": {}}}}"#;
    /// assert_eq!(ModuleKind::of(&Policy::from_json(judged)?), ModuleKind::Full);
    /// # Ok::<(), graygate::policy::problem::Problems>(())
    /// ```
    pub fn of(policy: &Policy) -> Self {
        if full_only(policy).is_empty() { ModuleKind::Requests } else { ModuleKind::Full }
    }

    /// Returns whether responses can be seen, counted and edited.
    pub fn sees_responses(self) -> bool {
        self == ModuleKind::Full
    }

    /// Returns the paths of what the policy has and this module cannot do, grouped by section.
    pub fn missing(self, policy: &Policy) -> Vec<String> {
        match self {
            ModuleKind::Full => Vec::new(),
            ModuleKind::Requests => full_only(policy),
        }
    }
}

/// Returns the paths of what only the full module can do: all that is about responses, bodies or the end of a request.
fn full_only(policy: &Policy) -> Vec<String> {
    let mut paths = Vec::new();
    for upstream in policy.upstreams.iter().filter(|upstream| upstream.breaker.is_some()) {
        paths.push(format!("upstreams.{}.circuitBreaker", upstream.name));
    }
    add_probes(&mut paths, &policy.probes);
    for (index, release) in policy.releases.iter().enumerate() {
        add_release(&mut paths, &format!("releases[{index}]"), release);
    }
    // A gate that does not reply tells so in a header of the response.
    for (index, gate) in policy.gates.iter().enumerate() {
        if let Some(Fallback::Upstream { .. }) = gate.fallback {
            paths.push(format!("gates[{index}].fallback.upstream"));
        }
        if gate.when_all_not_ready == WhenAllNotReady::Forward {
            paths.push(format!("gates[{index}].whenAllNotReady"));
        }
    }
    if policy.most_gated() < policy.gated.len() {
        paths.push("maxGatedPercent".to_owned());
    }
    paths
}

fn add_probes(paths: &mut Vec<String>, probes: &Probes) {
    for probe in probes.endpoints.iter().filter(|probe| matches!(probe.basis, Basis::App(_))) {
        paths.push(format!("probes.{}.passThrough", probe.name));
    }
    if !probes.grpc_services.is_empty() {
        paths.push("probes.grpc".to_owned());
    }
}

fn add_release(paths: &mut Vec<String>, path: &str, release: &Release) {
    for (index, key) in release.keys.iter().enumerate() {
        if key.cookie().is_some_and(|cookie| cookie.issue.is_some()) {
            paths.push(format!("{path}.hashOn[{index}].httpCookie.ttl"));
        }
    }
    if release.response_header.is_some() {
        paths.push(format!("{path}.responseHeader"));
    }
    for (index, version) in release.versions.iter().enumerate() {
        if version.response != HeaderEdits::default() {
            paths.push(format!("{path}.versions[{index}].headers.response"));
        }
    }
    if release.rollback.is_some() {
        paths.push(format!("{path}.rollback"));
    }
}
