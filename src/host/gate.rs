//! Which gates fail open, as the log has it: one line when one begins to, one when it ends.

use std::time::Duration;

use super::{leader, store};
use crate::decision::gate::fail_open::FailOpen;
use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::time::Time;

/// What has been said so far. It is shared, so that it is said once.
pub struct Gates {
    key: String,
}

impl Gates {
    /// As the other VMs know it already.
    pub fn new(policy: &Policy) -> Self {
        let gates = Gates { key: format!("graygate/{}/failing-open/{}", policy.name, store::LAYOUT) };
        if policy.may_fail_open() {
            store::seed(&gates.key, &Vec::<(String, String)>::new());
            leader::seed(&gates.key);
        }
        gates
    }

    /// Claims to say it for `span`. Whether this VM does.
    pub fn claim_lead(&self, holder: Holder, now: Time, span: Duration) -> bool {
        leader::claim(&self.key, holder, now, span) == LeaseRole::Leads
    }

    /// Says what has changed: these upstreams have a gate that fails open now.
    pub fn show(&self, policy: &Policy, open: &[(UpstreamId, FailOpen)]) {
        let named = open.iter().map(|(id, why)| (policy.name_of(*id).to_owned(), why.code().to_owned()));
        let after: Vec<(String, String)> = named.collect();
        let before = store::update(&self.key, |known: Option<Vec<(String, String)>>| {
            let before = known.unwrap_or_default();
            let news = before != after;
            (before, news.then_some(after.clone()))
        });
        // Should it not get through, the next tick says the same.
        let Some(before) = before.filter(|before| *before != after) else {
            return;
        };
        let whose = |upstream: &str| format!("policy {}: upstream {upstream}", policy.name);
        let shadow = policy.mode.mark();
        for (upstream, why) in after.iter().filter(|entry| !before.contains(entry)) {
            log::warn!("{}: not ready, and its gate fails open ({why}){shadow}", whose(upstream));
        }
        for (upstream, _) in before.iter().filter(|(gone, _)| after.iter().all(|(open, _)| open != gone)) {
            log::info!("{}: its gate no longer fails open{shadow}", whose(upstream));
        }
    }

    /// Makes this policy's what an earlier one has said, where none of this one's gates can fail open.
    pub fn take_over(&self, policy: &Policy) {
        if !policy.may_fail_open() {
            self.show(policy, &[]);
        }
    }
}
