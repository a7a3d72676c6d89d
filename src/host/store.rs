//! The store that all VMs of a proxy share: small values by key, updated by compare-and-swap.
//!
//! Keys can't be deleted, so they come from the policy alone and never from a request.

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Changes with the shape of what is stored, so that another release of this module starts afresh.
pub const LAYOUT: u32 = 4;

/// How often an update is tried against other VMs' updates before it is given up. Each loss means that
/// another VM won, so this many in a row do not happen by chance.
const TRIES: usize = 16;

/// The value of `key`, or nothing: also where another release of this module left bytes of another shape.
pub fn get<T: DeserializeOwned>(key: &str) -> Option<T> {
    read(key).0
}

/// Gives `key` a first value, if it has none.
///
/// The proxy can't create a key only if it is absent: two VMs that both find none would both write, and
/// both believe they were first. Who relies on [`update`] having one winner seeds the key while the policy
/// is configured, which the proxy tries out in a VM of its own before any other VM sees the policy.
pub fn seed<T: Serialize + DeserializeOwned>(key: &str, value: &T) {
    update(key, |known: Option<T>| ((), if known.is_none() { Some(value) } else { None }));
}

/// Replaces the value of `key` by what `update` makes of it; `None` leaves it as it is.
///
/// `update` may run several times. Its result is given back only once the value is written, so what follows
/// from it (a log line, a count, a callout) is done by exactly one VM.
pub fn update<T, N, R>(key: &str, mut update: impl FnMut(Option<T>) -> (R, Option<N>)) -> Option<R>
where
    T: DeserializeOwned,
    N: Serialize,
{
    for _ in 0..TRIES {
        let (value, version) = read(key);
        let (result, new) = update(value);
        let Some(new) = new else {
            return Some(result);
        };
        let bytes = postcard::to_allocvec(&new).ok()?;
        match hostcalls::set_shared_data(key, Some(&bytes), version) {
            Ok(()) => return Some(result),
            Err(Status::CasMismatch) => continue,
            Err(_) => return None,
        }
    }
    None
}

fn read<T: DeserializeOwned>(key: &str) -> (Option<T>, Option<u32>) {
    #[cfg(feature = "faults")]
    super::fault::note(key);
    let (bytes, version) = hostcalls::get_shared_data(key).unwrap_or_default();
    (bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()), version)
}
