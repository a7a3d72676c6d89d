//! Who leads: one VM per proxy runs the active checks, by a lease that expires.
//!
//! Any VM may hold it, the main thread's too. A VM that dies simply stops renewing.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// A claim to lead, as kept in the store that all VMs of a proxy share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The random id of the VM that leads.
    pub owner: u64,
    /// When the claim ends unless renewed.
    pub until: Time,
}

impl Lease {
    /// Nobody's lease: it ended long ago.
    pub fn none() -> Self {
        Lease { owner: 0, until: Time::from_millis(0) }
    }

    /// The lease that `claimant` should write to lead for another `span`, or nothing while another VM leads.
    pub fn claim(current: Option<Lease>, claimant: u64, now: Time, span: Duration) -> Option<Lease> {
        match current {
            Some(held) if held.owner != claimant && !now.is_due(held.until, span) => None,
            _ => Some(Lease { owner: claimant, until: now + span }),
        }
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

    #[test]
    fn one_leads_and_renews_while_others_wait() {
        let first = Lease::claim(None, 1, at(0), SPAN);
        assert_eq!(first, Some(Lease { owner: 1, until: at(3) }));
        assert_eq!(Lease::claim(first, 2, at(2), SPAN), None);
        assert_eq!(Lease::claim(first, 1, at(2), SPAN), Some(Lease { owner: 1, until: at(5) }));
    }

    #[test]
    fn another_takes_over_when_the_lease_has_expired() {
        let dead = Some(Lease { owner: 1, until: at(3) });
        assert_eq!(Lease::claim(dead, 2, at(3), SPAN), Some(Lease { owner: 2, until: at(6) }));
    }

    #[test]
    fn a_clock_that_jumped_back_does_not_leave_the_proxy_without_a_leader() {
        let from_the_future = Some(Lease { owner: 1, until: at(1_000) });
        assert!(Lease::claim(from_the_future, 2, at(5), SPAN).is_some());
    }
}
