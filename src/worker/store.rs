//! Values that all workers of a proxy share, by key, updated by compare-and-swap.
//!
//! Keys can't be deleted, so they come from the policy alone and never from a request.
//!
//! | key | holds | written by |
//! |---|---|---|
//! | `graygate/POLICY/upstream/UPSTREAM/HASH` | [`crate::readiness::UpstreamState`] | every worker, [`super::upstreams`] |
//! | `graygate/POLICY/releases/LAYOUT` | [`crate::rollback::RollbackStore`] | every worker, [`super::releases`] |
//! | `graygate/POLICY/clock/LAYOUT` | the latest time seen | every worker, [`super::releases`] |
//! | `graygate/POLICY/failing-open/LAYOUT` | the gates that fail open | its leader, [`super::gates`] |
//! | `graygate/POLICY/lifecycle` | [`crate::value::lifecycle::Lifecycle`] | its leader, and the worker that is told to drain, [`super::lifecycle`] |
//! | `graygate/POLICY/kept/PROBE/HASH` | [`crate::decision::probe::cache::CachedProbe`] | every worker, [`super::app_probe`] |
//! | `graygate/POLICY/loaded/PLUGIN` | a hash of the policy's text | the first VM that is given it, [`super`] |
//! | `KEY/leader` | [`crate::value::lease::Lease`] | whoever claims it, [`super::leader`] |

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proxy::{Proxy, StoreError, StoreVersion, Stored};

/// Changes with the shape of what is stored, so that another release of this module does not read it.
pub const LAYOUT: u32 = 4;

/// How often an update is tried against other workers' updates before it is given up. Each loss means that another
/// worker won, so this many in a row do not happen by chance.
const TRIES: usize = 16;

/// Returns the value of `key`, or nothing if there is none that this release of the module can read.
pub fn get<T: DeserializeOwned>(proxy: &impl Proxy, key: &str) -> Option<T> {
    read(proxy, key).0
}

/// Gives `key` a first value, if it has none.
///
/// The proxy can't create a key only if it is absent: two workers that both find none would both write, and both
/// believe that they were first. Who relies on [`update`] having one winner seeds the key while the policy is
/// configured, which the proxy tries out in a VM of its own before any other sees the policy.
pub fn seed<T: Serialize + DeserializeOwned>(proxy: &impl Proxy, key: &str, value: &T) {
    update(proxy, key, |known: Option<T>| ((), if known.is_none() { Some(value) } else { None }));
}

/// Replaces the value of `key` by what `update` returns; `None` leaves it as it is.
///
/// `update` may run several times. Its result is returned only once the value is written, so what follows from it (a log
/// line, a count, a call) is done by exactly one worker. Returns nothing if the update lost to too many others.
pub fn update<T, N, R>(
    proxy: &impl Proxy,
    key: &str,
    mut update: impl FnMut(Option<T>) -> (R, Option<N>),
) -> Option<R>
where
    T: DeserializeOwned,
    N: Serialize,
{
    for _ in 0..TRIES {
        let (value, version) = read(proxy, key);
        let (result, new) = update(value);
        let Some(new) = new else {
            return Some(result);
        };
        let bytes = postcard::to_allocvec(&new).ok()?;
        match proxy.store(key, &bytes, version) {
            Ok(()) => return Some(result),
            Err(StoreError::Conflict) => continue,
            Err(StoreError::Refused) => return None,
        }
    }
    None
}

fn read<T: DeserializeOwned>(proxy: &impl Proxy, key: &str) -> (Option<T>, Option<StoreVersion>) {
    let Stored { bytes, version } = proxy.load(key);
    (bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()), version)
}
