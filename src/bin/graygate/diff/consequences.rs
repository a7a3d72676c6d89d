//! What follows from a new policy for probes, for the state that proxies keep, and for who is affected at all.

use graygate::policy::release::Release;
use graygate::policy::upstream::Upstream;
use graygate::policy::{Mode, Policy};
use graygate::value::hash;
use serde::Serialize;

/// What follows from a new policy.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Consequences {
    /// What follows from the mode and the rollout, in words.
    pub effects: Vec<String>,
    /// The upstreams whose readiness is kept.
    pub readiness_kept: Vec<String>,
    /// The upstreams whose readiness begins as `assume` says, with the reason.
    pub readiness_lost: Vec<LostReadiness>,
    /// What may go wrong.
    pub warnings: Vec<String>,
}

/// An upstream whose readiness is lost.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LostReadiness {
    /// The upstream.
    pub upstream: String,
    /// Why its readiness is lost.
    pub reason: String,
}

impl Consequences {
    /// Returns what follows if `new` replaces `old`. `None` means that the document has no such policy.
    pub fn of(old: Option<&Policy>, new: Option<&Policy>) -> Self {
        let mut found = Self::default();
        match (old, new) {
            (Some(old), Some(new)) => {
                found.add_effects(old, new);
                found.add_readiness(old, new);
                found.add_rollbacks(old, new);
            }
            (Some(_), None) => {
                found.effects.push("Its requests are for the other policies, or pass unmanaged.".to_owned());
            }
            (None, Some(new)) => {
                found.effects.push(format!("mode: {}: {}", new.mode.name(), describe_mode(new.mode)));
            }
            (None, None) => {}
        }
        found.add_probes(old, new);
        found
    }

    fn add_effects(&mut self, old: &Policy, new: &Policy) {
        if old.mode != new.mode {
            let (before, after) = (old.mode.name(), new.mode.name());
            self.effects.push(format!("mode: {before} -> {after}: {}", describe_mode(new.mode)));
        }
        if old.rollout != new.rollout {
            let words = if new.rollout > old.rollout {
                "More proxies follow the mode. All that followed it before still do."
            } else {
                "Fewer proxies follow the mode. On the others, decisions have no effect."
            };
            self.effects.push(format!("rollout: {} % -> {} %: {words}", old.rollout, new.rollout));
        }
        if old.name != new.name {
            self.warnings.push(format!(
                "The policy's name changes from {} to {}. Its metrics have the new name, and readiness, rollbacks and drains begin again.",
                old.name, new.name
            ));
        }
    }

    /// Compares what the state of each upstream goes by: the policy's name, its own name, and its identity.
    fn add_readiness(&mut self, old: &Policy, new: &Policy) {
        let identity = |upstream: &Upstream| hash::digest(0, &upstream.identity());
        let lost =
            |upstream: &Upstream, reason: String| LostReadiness { upstream: upstream.name.clone(), reason };
        for upstream in new.upstreams.iter().filter(|upstream| upstream.is_watched()) {
            let before = old.upstreams.iter().find(|known| known.name == upstream.name);
            let is_gone = |known: &&Upstream| new.upstreams.iter().all(|other| other.name != known.name);
            let twin = old.upstreams.iter().filter(is_gone).find(|known| known.cluster == upstream.cluster);
            match (before, twin) {
                (Some(_), _) if old.name != new.name => {
                    self.readiness_lost.push(lost(upstream, "the policy has another name".to_owned()));
                }
                (Some(before), _) if identity(before) == identity(upstream) => {
                    self.readiness_kept.push(upstream.name.clone());
                }
                (Some(before), _) => {
                    self.readiness_lost.push(lost(upstream, describe_change(before, upstream)));
                }
                (None, Some(twin)) => {
                    let reason = format!("it was named {}, and its state goes by its name", twin.name);
                    self.readiness_lost.push(lost(upstream, reason));
                }
                (None, None) => self.readiness_lost.push(lost(upstream, "it is new".to_owned())),
            }
        }
    }

    /// Warns of rollbacks that end, as a rollback stands only until the release or the mode changes.
    fn add_rollbacks(&mut self, old: &Policy, new: &Policy) {
        let has_rollback = |release: &&Release| release.judging_rollback().is_some();
        for release in old.releases.iter().filter(has_rollback) {
            let after = new.releases.iter().find(|other| other.name == release.name);
            let digest = |policy: &Policy, release: &Release| hash::digest(0, &(release, policy.mode));
            if after.is_some_and(|after| digest(old, release) != digest(new, after)) {
                self.warnings.push(format!(
                    "Release {} changes. If a version of it is rolled back at present, it gets its users again.",
                    release.name
                ));
            }
        }
    }

    /// Warns of probes that the filter no longer answers.
    fn add_probes(&mut self, old: Option<&Policy>, new: Option<&Policy>) {
        let answered = |policy: Option<&Policy>| -> Vec<(String, String)> {
            let Some(policy) = policy.filter(|policy| policy.mode != Mode::Off) else {
                return Vec::new();
            };
            let probes = &policy.probes;
            let endpoints = probes
                .endpoints
                .iter()
                .map(|probe| (format!("The {} probe", probe.name), probe.path.clone()));
            let drain = probes.drain_path().map(|path| ("The drain switch".to_owned(), path.to_owned()));
            let page = probes.status.iter().map(|page| ("The status page".to_owned(), page.path.clone()));
            let services = probes.grpc_services.iter();
            let services = services.map(|service| ("gRPC health".to_owned(), format!("service {service:?}")));
            endpoints.chain(drain).chain(page).chain(services).collect()
        };
        let now = answered(new);
        for (name, path) in answered(old) {
            if !now.iter().any(|(_, known)| *known == path) {
                self.warnings.push(format!(
                    "{name} is no longer answered at {path}. Probes that still ask there reach the app."
                ));
            }
        }
    }
}

/// Says why an upstream of the same name has another identity.
fn describe_change(old: &Upstream, new: &Upstream) -> String {
    if old.cluster != new.cluster {
        return format!("its cluster changes from {} to {}", old.cluster, new.cluster);
    }
    if old.is_watched() != new.is_watched() {
        return "it had no check and no breaker before".to_owned();
    }
    match (&old.check, &new.check) {
        (None, Some(_)) => "it had no check before",
        (Some(_), None) => "its check is removed",
        _ => "its check asks for something else",
    }
    .to_owned()
}

fn describe_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Decisions take effect on the proxies that the rollout reaches.",
        Mode::Shadow => "Releases and gates only count and log. Probes are answered.",
        Mode::Off => "The filter does nothing: no probe is answered, and no release or gate acts.",
    }
}
