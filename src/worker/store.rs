//! The values that all workers of a proxy share, by key. Updates use compare-and-swap.
//!
//! Keys cannot be deleted, so they depend only on the policy and on the clusters of the proxy.
//!
//! | key | holds | written by |
//! |---|---|---|
//! | `graygate/POLICY/upstream/UPSTREAM/HASH` | [`crate::readiness::UpstreamState`] | every worker, [`super::upstreams`] |
//! | `graygate/POLICY/changes/LAYOUT` | which states of upstreams have changed lately | every worker, [`super::changes`] |
//! | `graygate/POLICY/releases/LAYOUT` | [`crate::rollback::RollbackStore`] | every worker, [`super::releases`] |
//! | `graygate/POLICY/clock/LAYOUT` | the latest date seen | every worker, [`super::releases`] |
//! | `graygate/POLICY/failing-open/LAYOUT` | the gates that fail open | its leader, [`super::gates`] |
//! | `graygate/POLICY/lifecycle` | [`crate::value::lifecycle::Lifecycle`] | its leader, and a worker that changes a reason to drain, [`super::lifecycle`] |
//! | `graygate/POLICY/kept/PROBE/HASH` | [`crate::decision::probe::cache::CachedProbe`] | every worker, [`super::app_probe`] |
//! | `graygate/POLICY/in-use` | the document whose gauges are shown | a worker of a newer document, [`super::gauges`] |
//! | `graygate/POLICY/gauges` | the names of its gauges | its leader, [`super::gauges`] |
//! | `graygate/POLICY/misrouted/LAYOUT` | the versions whose requests go elsewhere | every worker, [`super::routes`] |
//! | `graygate/POLICY/loaded/PLUGIN` | a hash of the policy's text | the first VM that gets the text, [`super`] |
//! | `graygate/POLICY/last-good/PLUGIN`, `…/last-good-hash/PLUGIN` | the text of the policy that was last in use, and its hash | every VM, [`super::last_good`] |
//! | `graygate//policies/PLUGIN` | the names of the policies that the plugin last had in use | every VM, [`super::last_good`] |
//! | `graygate//build` | the version and the commit of the module | every VM, [`super::plugin_metrics`] |
//! | `graygate//since/PLUGIN` | the time from which a rise of the plugin's counters is seen | the first VM, [`super::plugin_metrics`] |
//! | `graygate//alive/PLUGIN/LAYOUT` | the last sign of life of each VM | every VM, [`super::pulse`] |
//! | `graygate//newest/PLUGIN` | the time of the newest document of which a gauge tells whether it is wrong | every VM, [`super::plugin_metrics`] |
//! | `KEY/leader` | [`crate::value::lease::Lease`] | the worker that claims or renews the lead, [`super::leader`] |

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proxy::{Proxy, StoreError, StoreVersion, Stored};

/// The version of the types that are stored. Raise it when one of them changes, so that another release of this module
/// does not misread the value.
pub const LAYOUT: u32 = 6;

/// The maximum number of attempts at one update. An attempt fails only if another worker's succeeds, so this many
/// failures in a row do not happen by chance.
const MAX_ATTEMPTS: usize = 16;

/// Returns the value of `key`. `None` if it has no value, or none that this release of the module can read.
pub fn get<T: DeserializeOwned>(proxy: &impl Proxy, key: &str) -> Option<T> {
    read(proxy, key).0
}

/// Gives `key` a first value if it has none.
///
/// The proxy has no way to create a key only if it is absent. Two workers that both find no value would both write, and
/// both would believe that they were first. So a key for which [`update`] must have one winner is seeded while the policy
/// is configured. The proxy first configures a policy in one VM that validates it, before any other VM gets it.
pub fn seed<T: Serialize + DeserializeOwned>(proxy: &impl Proxy, key: &str, value: &T) {
    update(proxy, key, |known: Option<T>| ((), if known.is_none() { Some(value) } else { None }));
}

/// Replaces the value of `key` by the one that `update` returns. If `update` returns none, the value stays as it is.
///
/// `update` may run several times. Its result is returned only after the value was written. So exactly one worker acts on
/// the result, for example with a log line, a count or a call. Returns `None` if the value could not be written.
pub fn update<T, N, R>(
    proxy: &impl Proxy,
    key: &str,
    mut update: impl FnMut(Option<T>) -> (R, Option<N>),
) -> Option<R>
where
    T: DeserializeOwned,
    N: Serialize,
{
    for _ in 0..MAX_ATTEMPTS {
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
