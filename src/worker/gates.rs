//! Which gates fail open, as it is made known: once when one begins to, and once when it ends.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::scope::Scope;
use super::{leader, store};
use crate::decision::gate::fail_open;
use crate::policy::Policy;
use crate::proxy::Proxy;
use crate::value::lease::LeaseRole;
use crate::value::time::Time;

/// What has been made known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    /// When the policy was configured that has made it known. An earlier one, which still serves its last connections, has
    /// no say any more.
    configured: Time,
    /// The upstreams whose gates fail open, by name, each with the code of why.
    open: Vec<(String, String)>,
}

/// Seeds what is shared of it.
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    if policy.may_fail_open() {
        let key = key(policy);
        store::seed(proxy, &key, &Announced::default());
        leader::seed(proxy, &key);
    }
}

fn key(policy: &Policy) -> String {
    format!("graygate/{}/open-gates/{}", policy.name, store::LAYOUT)
}

impl<P: Proxy> Scope<'_, P> {
    /// Looks which gates fail open now, and records what has changed. Only the newest policy's verdict counts: an older
    /// one may have other gates.
    pub fn refresh_gates(&mut self, now: Time, span: Duration) {
        if !self.policy.may_fail_open() {
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

    /// Takes over what an earlier policy has made known, where no gate of this one can fail open.
    pub fn adopt_gates(&mut self) -> bool {
        self.policy.may_fail_open() || self.announce(&key(self.policy), Vec::new())
    }

    /// Records which gates began to fail open and which ended. Returns false if it could not be written.
    fn announce(&mut self, key: &str, open: Vec<(String, String)>) -> bool {
        let after = Announced { configured: self.holder.configured, open };
        let before = store::update(self.proxy, key, |known: Option<Announced>| {
            let before = known.unwrap_or_default();
            let ours = before.configured <= after.configured;
            let changed = ours && before != after;
            (ours.then_some(before.open), changed.then(|| after.clone()))
        });
        let Some(before) = before else {
            return false;
        };
        let before = before.unwrap_or_else(|| after.open.clone());
        let (policy, open) = (self.policy, &after.open);
        for (upstream, why) in open.iter().filter(|entry| !before.contains(entry)) {
            self.record(&Event::FailsOpen { policy, upstream, why });
        }
        for (upstream, _) in before.iter().filter(|(gone, _)| open.iter().all(|(open, _)| open != gone)) {
            self.record(&Event::NoLongerFailsOpen { policy, upstream });
        }
        true
    }
}
