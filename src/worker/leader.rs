//! Who leads: the lease beside a shared key, by the rules of [`crate::value::lease`].

use core::time::Duration;

use super::store;
use crate::proxy::Proxy;
use crate::value::lease::{Holder, Lease, LeaseRole};
use crate::value::time::Time;

/// Creates the lease beside `key`, held by nobody, if there is none. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, key: &str) {
    store::seed(proxy, &beside(key), &Lease::none());
}

/// Claims the lease beside `key` for `span` from now on. Returns what the holder is to it now.
pub fn claim(proxy: &impl Proxy, key: &str, holder: Holder, now: Time, span: Duration) -> LeaseRole {
    let role = store::update(proxy, &beside(key), |current: Option<Lease>| {
        let claim = Lease::claim(current, holder, now, span);
        let other = current.map_or(LeaseRole::Follows, |held| held.role(holder));
        (if claim.is_some() { LeaseRole::Leads } else { other }, claim)
    });
    role.unwrap_or(LeaseRole::Follows)
}

fn beside(key: &str) -> String {
    format!("{key}/leader")
}
