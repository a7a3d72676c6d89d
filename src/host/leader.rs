//! Who leads: the lease beside a key of the store, as [`crate::lease`] has it.

use std::time::Duration;

use super::store;
use crate::lease::{Holder, Lease};
use crate::time::Time;

/// Makes the lease beside `key` nobody's, if there is none; see [`store::seed`].
pub fn seed(key: &str) {
    store::seed(&beside(key), &Lease::none());
}

/// Claims the lease beside `key` for `span` from now on. Whether it is the holder's now.
pub fn claim(key: &str, holder: Holder, now: Time, span: Duration) -> bool {
    let claim = store::update(&beside(key), |current| {
        let claim = Lease::claim(current, holder, now, span);
        (claim.is_some(), claim)
    });
    claim.unwrap_or(false)
}

fn beside(key: &str) -> String {
    format!("{key}/leader")
}
