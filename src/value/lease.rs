//! The lease by which one VM of a proxy leads an upstream. The leader sends the checks and ends the waits.
//!
//! Any VM may hold the lease, also that of the main thread. The lease expires. A VM that dies, or whose
//! policy was removed, stops renewing it.
//!
//! While the proxy updates a policy, some VMs have the old version of it and some the new one. The settings
//! of the new version count. So a VM with the newer version takes the lease at once. A VM with the older
//! version gets it back only when no newer holder is left.
//!
//! Of VMs with the same policy, one that serves no requests takes the lease from one that does. Each VM calls
//! through the connections of its own thread, and those of the main thread carry only checks. So a check
//! neither waits for users' connections nor passes because of them.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::time::Time;

/// A claim to lead, in the store that all VMs of a proxy share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The VM that leads.
    pub holder: Holder,
    /// The time at which it ends unless it is renewed.
    pub until: Time,
}

/// A possible holder of a lease, which is one policy in one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// A random number, which identifies the holder.
    pub id: u64,
    /// The time at which it got its policy.
    pub configured: Time,
    /// The hash of that policy.
    pub policy: u64,
    /// Whether its VM has served a request.
    pub serves: bool,
}

/// The time within which all VMs of a proxy get the same policy.
pub const SAME_UPDATE: Duration = Duration::from_secs(10);

impl Holder {
    /// Returns whether this VM takes a valid lease from `other`.
    fn precedes(&self, other: &Holder) -> bool {
        if self.policy != other.policy {
            return self.configured > other.configured;
        }
        if self.serves != other.serves {
            return other.serves;
        }
        self.configured > other.configured + SAME_UPDATE
    }
}

/// The role of a VM with respect to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRole {
    /// It holds the lease.
    Leads,
    /// Another VM holds the lease.
    Follows,
    /// Another VM holds the lease, with a newer and different policy.
    Outdated,
}

impl Lease {
    /// Returns a lease without a holder, which expired long ago.
    pub fn none() -> Self {
        let start = Time::from_millis(0);
        Lease { holder: Holder { id: 0, configured: start, policy: 0, serves: true }, until: start }
    }

    /// Returns the lease that `claimant` must write to lead for another `span`. Returns `None` while another
    /// holder has the lease.
    pub fn claim(current: Option<Lease>, claimant: Holder, now: Time, span: Duration) -> Option<Lease> {
        let free = current.is_none_or(|held| {
            held.holder.id == claimant.id || claimant.precedes(&held.holder) || held.until <= now
        });
        free.then(|| Lease { holder: claimant, until: now + span })
    }

    /// Returns the role of `claimant`, which this lease has refused.
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
        Holder { id, configured: at(configured), policy: configured, serves: false }
    }

    /// Returns for each claim of (holder, second) whether it was granted.
    fn grants(claims: &[(Holder, u64)]) -> Vec<bool> {
        let mut lease = Some(Lease::none());
        let mut claim = |(holder, second): &(Holder, u64)| {
            let granted = Lease::claim(lease, *holder, at(*second), SPAN);
            lease = granted.or(lease);
            granted.is_some()
        };
        claims.iter().map(&mut claim).collect()
    }

    #[test]
    fn one_vm_holds_and_renews_the_lease_while_others_are_refused() {
        let (first, second) = (holder(1, 10), holder(2, 10));
        let attempts = [(first, 10), (second, 11), (first, 12), (second, 14), (first, 14)];
        assert_eq!(grants(&attempts), [true, false, true, false, true]);
    }

    #[test]
    fn another_vm_takes_an_expired_lease() {
        assert_eq!(
            grants(&[(holder(1, 10), 10), (holder(2, 10), 12), (holder(2, 10), 13)]),
            [true, false, true]
        );
    }

    #[test]
    fn a_newer_policy_takes_the_lease_from_an_older_one_but_not_the_reverse() {
        let (old, new) = (holder(1, 10), holder(2, 20));
        assert_eq!(grants(&[(old, 20), (new, 20), (old, 21), (old, 22)]), [true, true, false, false]);
    }

    #[test]
    fn a_holder_of_an_older_policy_is_outdated_unless_the_policies_are_equal() {
        let held = Lease { holder: holder(1, 20), until: at(23) };
        assert_eq!(held.role(holder(2, 10)), LeaseRole::Outdated);
        assert_eq!(held.role(holder(2, 20)), LeaseRole::Follows);
        let twin = Holder { policy: 20, ..holder(2, 10) };
        assert_eq!(held.role(twin), LeaseRole::Follows);
    }

    #[test]
    fn a_vm_that_serves_no_requests_takes_the_lease_from_one_that_does() {
        let (idle, serving) = (holder(1, 10), Holder { serves: true, ..holder(2, 10) });
        let attempts = [(serving, 10), (idle, 11), (serving, 12), (idle, 13), (serving, 15), (serving, 16)];
        // At the end, the idle VM has died.
        assert_eq!(grants(&attempts), [true, true, false, true, false, true]);
        let newer = Holder { serves: true, ..holder(3, 20) };
        assert_eq!(grants(&[(idle, 20), (newer, 20), (idle, 21)]), [true, true, false]);
    }

    #[test]
    fn vms_that_get_the_same_policy_at_one_time_do_not_take_the_lease_from_each_other() {
        let later = |configured| Holder { policy: 10, ..holder(2, configured) };
        assert_eq!(grants(&[(holder(1, 10), 20), (later(20), 20), (later(21), 21)]), [true, false, true]);
    }

    #[test]
    fn an_older_policy_gets_the_lease_back_when_the_newer_holder_stops_renewing() {
        let (old, new) = (holder(1, 10), holder(2, 20));
        assert_eq!(grants(&[(new, 20), (old, 21), (old, 23), (old, 24)]), [true, false, true, true]);
    }
}
