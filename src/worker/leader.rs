//! The leader of a shared key. It holds the lease that is stored beside the key, by the rules of
//! [`crate::value::lease`].

use core::time::Duration;

use super::store;
use crate::proxy::Proxy;
use crate::value::lease::{Holder, Lease, LeaseRole};
use crate::value::time::Time;

/// Creates the lease beside `key` without a holder, if it does not exist. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, key: &str) {
    store::seed(proxy, &beside(key), &Lease::none());
}

/// Claims the lease beside `key` for `span`, starting now. Returns the role of `holder` after that.
pub fn claim(proxy: &impl Proxy, key: &str, holder: Holder, now: Time, span: Duration) -> LeaseRole {
    let role = store::update(proxy, &beside(key), |current: Option<Lease>| {
        let claim = Lease::claim(current, holder, now, span);
        let role = match (claim, current) {
            (Some(_), _) => LeaseRole::Leads,
            (None, Some(held)) => held.role(holder),
            (None, None) => LeaseRole::Follows,
        };
        (role, claim)
    });
    role.unwrap_or(LeaseRole::Follows)
}

/// Returns the id of the holder of the lease beside `key`, unless the lease has expired.
pub fn holder(proxy: &impl Proxy, key: &str, now: Time) -> Option<u64> {
    let lease: Option<Lease> = store::get(proxy, &beside(key));
    lease.filter(|lease| lease.until > now).map(|lease| lease.holder.id)
}

fn beside(key: &str) -> String {
    format!("{key}/leader")
}
