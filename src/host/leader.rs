//! Who leads: the lease beside a key of the store, as [`crate::value::lease`] has it.

use std::time::Duration;

use super::store;
use crate::value::lease::{Holder, Lease, LeaseRole};
use crate::value::time::Time;

/// Makes the lease beside `key` nobody's, if there is none; see [`store::seed`].
pub fn seed(key: &str) {
    store::seed(&beside(key), &Lease::none());
}

/// Claims the lease beside `key` for `span` from now on. What the holder is to it now.
pub fn claim(key: &str, holder: Holder, now: Time, span: Duration) -> LeaseRole {
    let role = store::update(&beside(key), |current: Option<Lease>| {
        let claim = Lease::claim(current, holder, now, span);
        let other = current.map_or(LeaseRole::Follows, |held| held.role(holder));
        (if claim.is_some() { LeaseRole::Leads } else { other }, claim)
    });
    role.unwrap_or(LeaseRole::Follows)
}

fn beside(key: &str) -> String {
    format!("{key}/leader")
}
