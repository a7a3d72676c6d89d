//! Who leads: one VM per proxy sends an upstream's checks and ends its waits, by a lease that expires.
//!
//! Any VM may hold it, the main thread's too. A VM that dies, or whose policy is gone, simply stops
//! renewing. While an update is under way, VMs hold the policy in two forms; the newer form's settings
//! count, so its holder takes the lease from an older one at once, and an older one comes in again only
//! when nobody newer is left.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::time::Time;

/// A claim to lead, as kept in the store that all VMs of a proxy share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub holder: Holder,
    /// When it was claimed or renewed.
    pub from: Time,
    /// When it ends unless renewed.
    pub until: Time,
}

/// Who may hold a lease: one policy in one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Random.
    pub id: u64,
    /// When it was given its policy.
    pub configured: Time,
    /// A hash of that policy.
    pub policy: u64,
}

/// What a holder is to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRole {
    /// It leads.
    Leads,
    /// Another one does.
    Follows,
    /// Another one does that has a newer policy, which is not the same.
    Outdated,
}

impl Lease {
    /// Nobody's lease: it ended long ago.
    pub fn none() -> Self {
        let start = Time::from_millis(0);
        Lease { holder: Holder { id: 0, configured: start, policy: 0 }, from: start, until: start }
    }

    /// The lease that `claimant` should write to hold it for another `span`; nothing while it is another's.
    pub fn claim(current: Option<Lease>, claimant: Holder, now: Time, span: Duration) -> Option<Lease> {
        let free = current.is_none_or(|held| {
            held.holder.id == claimant.id
                || held.holder.configured < claimant.configured
                || now.is_due(held.from, held.until)
        });
        free.then(|| Lease { holder: claimant, from: now, until: now + span })
    }

    /// What a holder is whose claim this lease has stood against.
    pub fn role(&self, claimant: Holder) -> LeaseRole {
        let newer = self.holder.configured > claimant.configured && self.holder.policy != claimant.policy;
        if newer { LeaseRole::Outdated } else { LeaseRole::Follows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SPAN: Duration = Duration::from_secs(3);

    fn at(second: u64) -> Time {
        Time::from_millis(second * 1_000)
    }

    fn holder(id: u64, configured: u64) -> Holder {
        Holder { id, configured: at(configured), policy: configured }
    }

    /// The lease after `claims` of (holder, second), with whether each was granted.
    fn claims(claims: &[(Holder, u64)]) -> Vec<bool> {
        let mut lease = Some(Lease::none());
        let mut claim = |(holder, second): &(Holder, u64)| {
            let granted = Lease::claim(lease, *holder, at(*second), SPAN);
            lease = granted.or(lease);
            granted.is_some()
        };
        claims.iter().map(&mut claim).collect()
    }

    #[test]
    fn one_holds_and_renews_while_others_wait() {
        let (first, second) = (holder(1, 10), holder(2, 10));
        let asked = [(first, 10), (second, 11), (first, 12), (second, 14), (first, 14)];
        assert_eq!(claims(&asked), [true, false, true, false, true]);
    }

    #[test]
    fn another_takes_over_when_it_has_expired() {
        assert_eq!(
            claims(&[(holder(1, 10), 10), (holder(2, 10), 12), (holder(2, 10), 13)]),
            [true, false, true]
        );
    }

    #[test]
    fn a_newer_policy_takes_it_from_an_older_one_and_not_the_other_way_round() {
        let (old, new) = (holder(1, 10), holder(2, 20));
        assert_eq!(claims(&[(old, 20), (new, 20), (old, 21), (old, 22)]), [true, true, false, false]);
    }

    #[test]
    fn an_older_policy_is_outdated_and_the_same_one_in_another_vm_is_not() {
        let held = Lease { holder: holder(1, 20), from: at(20), until: at(23) };
        assert_eq!(held.role(holder(2, 10)), LeaseRole::Outdated);
        assert_eq!(held.role(holder(2, 20)), LeaseRole::Follows);
        let twin = Holder { policy: 20, ..holder(2, 10) };
        assert_eq!(held.role(twin), LeaseRole::Follows);
    }

    #[test]
    fn an_older_policy_comes_in_again_when_the_newer_one_is_gone() {
        let (old, new) = (holder(1, 10), holder(2, 20));
        assert_eq!(claims(&[(new, 20), (old, 21), (old, 23), (old, 24)]), [true, false, true, true]);
    }

    #[test]
    fn a_clock_that_jumped_back_does_not_leave_the_proxy_without_a_holder() {
        let held = Lease { holder: holder(1, 1_000), from: at(1_000), until: at(1_003) };
        assert!(Lease::claim(Some(held), holder(2, 5), at(5), SPAN).is_some());
    }
}
