//! The gates that fail open. The worker that leads records once when a gate begins to, and once when it stops.

use core::time::Duration;

use super::event::Event;
use super::scope::Scope;
use super::{leader, store};
use crate::decision::gate::fail_open;
use crate::policy::Policy;
use crate::proxy::Proxy;
use crate::value::lease::LeaseRole;
use crate::value::time::Time;

/// The upstreams whose gates fail open, by name, each with the code of the reason. Events are recorded for the
/// differences between the stored value and the new one.
type OpenGates = Vec<(String, String)>;

/// Seeds the shared value and its lease, if a gate of the policy can fail open. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    if policy.may_fail_open() {
        let key = key(policy);
        store::seed(proxy, &key, &OpenGates::new());
        leader::seed(proxy, &key);
    }
}

/// Returns the names of the upstreams whose gates fail open, as it was last recorded.
pub fn open(proxy: &impl Proxy, policy: &Policy) -> Vec<String> {
    if !policy.may_fail_open() {
        return Vec::new();
    }
    let open: OpenGates = store::get(proxy, &key(policy)).unwrap_or_default();
    open.into_iter().map(|(upstream, _)| upstream).collect()
}

fn key(policy: &Policy) -> String {
    format!("graygate/{}/failing-open/{}", policy.name, store::LAYOUT)
}

impl<P: Proxy> Scope<'_, P> {
    /// Determines which gates fail open now, and records what has changed. Only a worker with the newest policy does so,
    /// because an older policy may have other gates.
    pub fn refresh_gates(&mut self, now: Time, span: Duration) {
        // A newer policy that judges the same upstreams decides, even if none of its own gates can fail open.
        let is_outdated = self.policy.gated.iter().any(|id| self.upstreams.is_outdated(*id));
        if !self.policy.may_fail_open() || is_outdated {
            return;
        }
        let key = key(self.policy);
        if leader::claim(self.proxy, &key, self.holder, now, span) != LeaseRole::Leads {
            return;
        }
        let open = fail_open::upstreams(self.policy, &self.snapshot());
        let named = open.iter().map(|(id, why)| (self.policy.name_of(*id).to_owned(), why.code().to_owned()));
        self.announce(&key, named.collect());
    }

    /// If no gate of this policy can fail open, ends what an earlier policy recorded. Returns `false` if that could not be
    /// written.
    pub fn adopt_gates(&mut self) -> bool {
        self.policy.may_fail_open() || self.announce(&key(self.policy), Vec::new())
    }

    /// Records which gates began to fail open and which stopped. Returns `false` if the new value could not be written.
    fn announce(&mut self, key: &str, after: OpenGates) -> bool {
        let before = store::update(self.proxy, key, |known: Option<OpenGates>| {
            let before = known.unwrap_or_default();
            let changed = before != after;
            (before, changed.then(|| after.clone()))
        });
        let Some(before) = before else {
            return false;
        };
        let policy = self.policy;
        for (upstream, why) in after.iter().filter(|entry| !before.contains(entry)) {
            self.record(&Event::FailsOpen { policy, upstream, why });
        }
        for (upstream, _) in before.iter().filter(|(name, _)| after.iter().all(|(open, _)| open != name)) {
            self.record(&Event::NoLongerFailsOpen { policy, upstream });
        }
        true
    }
}
