//! The last good document of each policy. It goes on in place of a wrong one, if the document says so.
//!
//! A document is kept once it is in use, see [`super::configuration::Unshared`]. It is kept whatever its `onWrongPolicy` says, because the next one may have another.
//!
//! Filters with different plugin names have different documents, so the name is part of each key. A policy's name is never
//! empty, so the keys of a plugin, which have an empty one, are no policy's.

use super::store;
use crate::proxy::Proxy;
use crate::value::time::Time;

/// Separates the names of policies, which are DNS labels.
const SEPARATOR: &str = " ";

/// A policy that is in use: its name, the hash of its text, and the text.
pub struct KeptPolicy {
    /// The name.
    pub name: String,
    /// The hash of the text.
    pub hash: u64,
    /// The text. `None` if it was read from the store.
    pub text: Option<Vec<u8>>,
}

/// Keeps the documents of the policies that a root has in use since `configured`. Returns `false` if one could not be
/// written.
pub fn keep(proxy: &impl Proxy, plugin: &str, policies: &[KeptPolicy], configured: Time) -> bool {
    let mut all_written = true;
    for KeptPolicy { name, hash, text } in policies {
        let Some(text) = text else {
            continue;
        };
        // The text may be long, so each VM compares only its hash. Whoever writes the hash has written the text before.
        let key = hash_key(name, plugin);
        let is_known = |known: Option<(Time, u64)>| {
            known.is_some_and(|(since, known)| known == *hash || since > configured)
        };
        if is_known(store::get(proxy, &key)) {
            continue;
        }
        let written = proxy.store(&text_key(name, plugin), text, None).is_ok();
        let written = written
            && store::update(proxy, &key, |known| ((), (!is_known(known)).then_some((configured, *hash))))
                .is_some();
        all_written &= written;
    }
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    let names = names.join(SEPARATOR);
    let written = store::update(proxy, &names_key(plugin), |known: Option<String>| {
        ((), (known.as_ref() != Some(&names)).then_some(&names))
    });
    all_written && written.is_some()
}

/// Returns the last good document of a policy, if the proxy has had one.
pub fn text(proxy: &impl Proxy, plugin: &str, name: &str) -> Option<Vec<u8>> {
    proxy.load(&text_key(name, plugin)).bytes
}

/// Returns the names of the policies that the plugin last had in use, in document order.
pub fn names(proxy: &impl Proxy, plugin: &str) -> Vec<String> {
    let names: String = store::get(proxy, &names_key(plugin)).unwrap_or_default();
    names.split(SEPARATOR).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn text_key(name: &str, plugin: &str) -> String {
    format!("graygate/{name}/last-good/{plugin}")
}

fn hash_key(name: &str, plugin: &str) -> String {
    format!("graygate/{name}/last-good-hash/{plugin}")
}

fn names_key(plugin: &str) -> String {
    format!("graygate//policies/{plugin}")
}
