//! Which module a policy needs.
//!
//! There are two modules, made from the same source. The proxy calls a module at each point of a request for which the
//! module has a callback, and each such call costs. So one module has only the callback of a request's headers.

use super::Policy;
use super::gate::{Fallback, WhenAllNotReady};
use super::probe::Basis;
use super::release::Release;
use super::release::version::HeaderEdits;

/// A module of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum ModuleKind {
    /// It serves every policy.
    Full,
    /// It serves policies that act on the headers of requests alone. A request costs less.
    Requests,
}

impl ModuleKind {
    /// Returns the name, which an image has.
    #[cfg(feature = "tool")]
    pub fn name(self) -> &'static str {
        match self {
            ModuleKind::Full => "graygate",
            ModuleKind::Requests => "graygate-requests",
        }
    }

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

/// A key that only the full module can do: all that is about responses, bodies or the end of a request.
pub struct FullKey {
    /// The path to the key, with `NAME` for a name and `[]` for a place in a list.
    #[cfg(feature = "tool")]
    pub path: &'static str,
    /// The values of the key that need the full module. Empty if all do.
    #[cfg(feature = "tool")]
    pub values: &'static str,
    /// A sentence about what the full module does for the key.
    #[cfg(feature = "tool")]
    pub about: &'static str,
    /// Adds the path of each place in a policy that has the key.
    find: fn(&Policy, &mut Vec<String>),
}

/// The keys that only the full module can do, grouped by section. The reference has them as a table.
pub static FULL_KEYS: [FullKey; 10] = [
    key(
        "upstreams.NAME.circuitBreaker",
        "",
        "It judges each response by its status, its time and its end.",
        |policy, paths| {
            for upstream in policy.upstreams.iter().filter(|upstream| upstream.breaker.is_some()) {
                paths.push(format!("upstreams.{}.circuitBreaker", upstream.name));
            }
        },
    ),
    key(
        "probes.NAME.passThrough",
        "",
        "It keeps a request for the probe until the app's response is there.",
        |policy, paths| {
            let endpoints = policy.probes.endpoints.iter();
            for probe in endpoints.filter(|probe| matches!(probe.basis, Basis::App(_))) {
                paths.push(format!("probes.{}.passThrough", probe.name));
            }
        },
    ),
    key(
        "probes.grpc",
        "",
        "It reads the message in the request, and writes one into the response.",
        |policy, paths| {
            if !policy.probes.grpc_services.is_empty() {
                paths.push("probes.grpc".to_owned());
            }
        },
    ),
    key(
        "releases[].hashOn[].httpCookie.ttl",
        "",
        "It sets the cookie of a new user in the response.",
        |policy, paths| {
            for (path, release) in releases(policy) {
                for (index, key) in release.keys.iter().enumerate() {
                    if key.cookie().is_some_and(|cookie| cookie.issue.is_some()) {
                        paths.push(format!("{path}.hashOn[{index}].httpCookie.ttl"));
                    }
                }
            }
        },
    ),
    key("releases[].responseHeader", "", "It tells clients the version in the response.", |policy, paths| {
        let having = releases(policy).filter(|(_, release)| release.response_header.is_some());
        paths.extend(having.map(|(path, _)| format!("{path}.responseHeader")));
    }),
    key(
        "releases[].versions[].headers.response",
        "",
        "It edits the headers of responses of the version.",
        |policy, paths| {
            for (path, release) in releases(policy) {
                for (index, version) in release.versions.iter().enumerate() {
                    if version.response != HeaderEdits::default() {
                        paths.push(format!("{path}.versions[{index}].headers.response"));
                    }
                }
            }
        },
    ),
    key(
        "releases[].rollback",
        "",
        "It counts the responses of the versions, and the users who get bad ones.",
        |policy, paths| {
            let having = releases(policy).filter(|(_, release)| release.rollback.is_some());
            paths.extend(having.map(|(path, _)| format!("{path}.rollback")));
        },
    ),
    // A gate that does not reply tells so in a header of the response.
    key(
        "gates[].fallback.upstream",
        "",
        "It tells clients in the response that another upstream has answered.",
        |policy, paths| {
            for (index, gate) in policy.gates.iter().enumerate() {
                if let Some(Fallback::Upstream { .. }) = gate.fallback {
                    paths.push(format!("gates[{index}].fallback.upstream"));
                }
            }
        },
    ),
    key(
        "gates[].whenAllNotReady",
        "forward",
        "It tells clients in the response that the gate has let the request through.",
        |policy, paths| {
            for (index, gate) in policy.gates.iter().enumerate() {
                if gate.when_all_not_ready == WhenAllNotReady::Forward {
                    paths.push(format!("gates[{index}].whenAllNotReady"));
                }
            }
        },
    ),
    key(
        "maxGatedPercent",
        "fewer than all upstreams that have gates",
        "It tells clients in the response that the gate has let the request through.",
        |policy, paths| {
            if policy.most_gated() < policy.gated.len() {
                paths.push("maxGatedPercent".to_owned());
            }
        },
    ),
];

/// Returns a row of the table. The module itself needs none of the texts.
const fn key(
    path: &'static str,
    values: &'static str,
    about: &'static str,
    find: fn(&Policy, &mut Vec<String>),
) -> FullKey {
    let _ = (path, values, about);
    FullKey {
        #[cfg(feature = "tool")]
        path,
        #[cfg(feature = "tool")]
        values,
        #[cfg(feature = "tool")]
        about,
        find,
    }
}

/// Returns the releases of the policy with their paths.
fn releases(policy: &Policy) -> impl Iterator<Item = (String, &Release)> {
    policy.releases.iter().enumerate().map(|(index, release)| (format!("releases[{index}]"), release))
}

/// Returns the paths of what only the full module can do.
fn full_only(policy: &Policy) -> Vec<String> {
    let mut paths = Vec::new();
    for key in &FULL_KEYS {
        (key.find)(policy, &mut paths);
    }
    paths
}
