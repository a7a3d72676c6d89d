//! Which policy's gauges the proxy shows under one name, and the end of those that leave.
//!
//! A gauge cannot be deleted. Its last value would stand for ever, and an alert on it as well. So these rules hold:
//!
//! - All gauges of a policy's name are those of the newest document in use. While a listener drains, the workers of an older
//!   document still tick, but they set no gauge.
//! - If an upstream, a version or a release leaves the policy, its gauges get values that no alert takes. So do the gauges of a
//!   policy that leaves the proxy: the roots of its last document have ended, and no other document has its name.
//! - One worker sets the shares of a release. It sets all of them at once, so they always add up.
//!
//! The store knows the document and the names of its gauges. These keys have no layout in them, because the gauges are shared
//! with other releases of this module. A value that cannot be read belongs to another release, which then decides.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::metrics::{GaugeNames, GaugeRole, end_gauges};
use super::scope::Scope;
use super::{leader, store};
use crate::policy::{Mode, Policy};
use crate::proxy::Proxy;
use crate::value::lease::{Holder, LeaseRole, SAME_UPDATE};
use crate::value::time::Time;

/// The document that is in use under a policy's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InUse {
    /// The time at which the last of its workers got it.
    configured: Time,
    /// Its hash.
    document: u64,
    /// Whether its metrics all exist and its gauges are shown.
    is_complete: bool,
}

/// Returns the names in a policy.
fn names_of(policy: &Policy) -> GaugeNames {
    if policy.mode == Mode::Off {
        return GaugeNames::new();
    }
    let watched = policy.upstreams.iter().filter(|upstream| upstream.is_watched());
    let mut names: GaugeNames = watched.map(|upstream| (String::new(), upstream.name.clone())).collect();
    for release in &policy.releases {
        names.extend(release.versions.iter().map(|version| (release.name.clone(), version.name.clone())));
    }
    names.sort_unstable();
    names
}

/// Returns the key of the document that is in use under this name.
fn in_use_key(policy: &Policy) -> String {
    format!("graygate/{}/in-use", policy.name)
}

/// Replaces the names of the gauges of the policy's name. Returns those before.
fn replace_names(proxy: &impl Proxy, policy: &Policy, names: &GaugeNames) -> Option<GaugeNames> {
    store::update(proxy, &format!("graygate/{}/gauges", policy.name), |known: Option<GaugeNames>| {
        let known = known.unwrap_or_default();
        let is_same = known == *names;
        (known, (!is_same).then_some(names))
    })
}

/// Claims the gauges of the policy's name for this worker's document, unless a newer one has them.
fn claim(proxy: &impl Proxy, key: &str, holder: Holder) -> GaugeRole {
    let Holder { configured, policy: document, .. } = holder;
    let role = store::update(proxy, key, |known: Option<Option<InUse>>| match known.flatten() {
        Some(known) if known.document == document => {
            // If the document comes again after a while, that is for a new VM, in which its metrics do not exist yet. The
            // workers of the old VM leave it to the new ones.
            let is_late = configured > known.configured + SAME_UPDATE;
            let is_early = known.configured > configured + SAME_UPDATE;
            let is_complete = known.is_complete && !is_late;
            let role = if is_complete || is_early { GaugeRole::Shows } else { GaugeRole::Begins };
            (
                role,
                (configured > known.configured).then_some(Some(InUse { configured, document, is_complete })),
            )
        }
        Some(known) if known.configured >= configured => (GaugeRole::Outdated, None),
        _ => (GaugeRole::Begins, Some(Some(InUse { configured, document, is_complete: false }))),
    });
    role.unwrap_or(GaugeRole::Outdated)
}

impl<P: Proxy> Scope<'_, P> {
    /// Claims the gauges of the policy's name, at the beginning of a tick.
    pub fn claim_gauges(&mut self) {
        let before = self.metrics.role();
        let role = claim(self.proxy, &in_use_key(self.policy), self.holder);
        self.metrics.take_role(role);
        if before == GaugeRole::Outdated && role != before {
            self.metrics.set_in_use(self.proxy, self.policy, self.holder.policy);
        }
    }

    /// Defines some of the metrics that exist from the beginning, until all do, and shows shares that have changed. One worker
    /// does so for the proxy, because two that set the shares of one release at the same time would mix them. `span` is that
    /// of its lead. `left` is how many may be defined.
    pub fn refresh_gauges(&mut self, now: Time, span: Duration, left: &mut usize) {
        let role = self.metrics.role();
        let has_work = role == GaugeRole::Begins || role == GaugeRole::Shows && self.releases.has_unshown();
        let key = in_use_key(self.policy);
        if !has_work || leader::claim(self.proxy, &key, self.holder, now, span) != LeaseRole::Leads {
            return;
        }
        match role {
            GaugeRole::Begins => self.begin_gauges(&key, left),
            _ => self.show_shares(),
        }
    }

    fn begin_gauges(&mut self, key: &str, left: &mut usize) {
        let own = names_of(self.policy);
        if !self.metrics.has_begun() {
            let Some(mut leaving) = replace_names(self.proxy, self.policy, &own) else {
                return;
            };
            let was_shown = !leaving.is_empty();
            leaving.retain(|name| own.binary_search(name).is_err());
            // If this worker dies on the way, the next one finds all that may have to end.
            if !leaving.is_empty() {
                let all = [own.as_slice(), &leaving].concat();
                replace_names(self.proxy, self.policy, &all);
            }
            self.metrics.begin(self.policy, leaving, was_shown);
        }
        self.metrics.define_some(self.proxy, self.policy, left);
        if !self.metrics.shares_exist(self.policy) {
            return;
        }
        self.show_shares();
        if self.metrics.end_leaving(self.proxy, self.policy) {
            replace_names(self.proxy, self.policy, &own);
            let Holder { policy: document, .. } = self.holder;
            store::update(self.proxy, key, |known: Option<Option<InUse>>| {
                let known = known.flatten().filter(|known| known.document == document);
                ((), known.map(|known| Some(InUse { is_complete: true, ..known })))
            });
            self.metrics.take_role(GaugeRole::Shows);
        }
    }

    fn show_shares(&mut self) {
        let shares = self.releases.shares().enumerate();
        for (release, shares) in shares.filter(|_| self.policy.mode != Mode::Off) {
            self.metrics.set_shares(self.proxy, self.policy, release, shares);
        }
        self.releases.are_shown();
    }

    /// Ends all gauges of the policy's name if this worker is the last one with its document, and the document was in use.
    /// Called when its root has ended.
    pub fn end_gauges(&mut self) {
        let Holder { configured, policy: document, .. } = self.holder;
        let is_last = store::update(self.proxy, &in_use_key(self.policy), |known: Option<Option<InUse>>| {
            let is_own = known
                .flatten()
                .is_some_and(|known| known.document == document && known.configured <= configured);
            (is_own, is_own.then_some(None::<InUse>))
        });
        if is_last != Some(true) {
            return;
        }
        let names = replace_names(self.proxy, self.policy, &GaugeNames::new());
        end_gauges(&names.unwrap_or_default(), self.proxy, &self.policy.name);
        self.metrics.end(self.proxy, self.policy);
    }
}
