//! The metrics of a plugin and of the module. They exist from the start of a VM, whatever the document says.

use core::time::Duration;

use super::metric::spec::{BUILD, DEATHS, MetricSpec, REFUSALS, REFUSED};
use super::store;
use crate::proxy::{MetricId, Proxy};
use crate::value::time::Time;

/// The version of the module.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the module's sources. `.ci/wasm` sets it.
pub const REVISION: &str = match option_env!("GRAYGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The key of the build that the proxy runs.
const BUILD_KEY: &str = "graygate//build";

/// How long the counter of wrong documents is at 0 at least. It must be seen there, and scrapes are a minute apart by default.
const SEEN_AFTER: Duration = Duration::from_secs(65);

/// Defines the metrics of a plugin. Returns the time from which a rise of its counters is seen.
pub fn define(proxy: &impl Proxy, plugin: &str) -> Time {
    metric(proxy, &BUILD, &[VERSION, REVISION]);
    metric(proxy, &REFUSED, &[plugin]);
    metric(proxy, &REFUSALS, &[plugin]);
    metric(proxy, &DEATHS, &[plugin]);
    let seen = proxy.now() + SEEN_AFTER;
    let first = store::update(proxy, &format!("graygate//since/{plugin}"), |known: Option<Time>| {
        (known.unwrap_or(seen), known.is_none().then_some(seen))
    });
    first.unwrap_or(seen)
}

/// Shows which build of the module the proxy runs. That of an earlier one ends.
pub fn show_build(proxy: &impl Proxy) {
    let earlier = store::update(proxy, BUILD_KEY, |known: Option<(String, String)>| {
        let earlier =
            known.filter(|(version, revision)| (version.as_str(), revision.as_str()) != (VERSION, REVISION));
        (earlier, Some((VERSION, REVISION)))
    });
    if let Some((version, revision)) = earlier.flatten() {
        set(proxy, &BUILD, &[&version, &revision], 0);
    }
    set(proxy, &BUILD, &[VERSION, REVISION], 1);
}

/// Shows whether the plugin's newest document is wrong. `configured` is the time at which a VM got this one. Each VM shows
/// a document some time after that, so it does not if a newer one was shown before.
pub fn set_refused(proxy: &impl Proxy, plugin: &str, is_wrong: bool, configured: Time) {
    let is_newest = store::update(proxy, &format!("graygate//newest/{plugin}"), |known: Option<Time>| {
        let is_newest = known.is_none_or(|known| known <= configured);
        (is_newest, (is_newest && known != Some(configured)).then_some(configured))
    });
    if is_newest.unwrap_or(true) {
        set(proxy, &REFUSED, &[plugin], is_wrong.into());
    }
}

/// Counts one wrong document of the plugin.
pub fn count_refused(proxy: &impl Proxy, plugin: &str) {
    if let Some(counter) = metric(proxy, &REFUSALS, &[plugin]) {
        proxy.add(counter, 1);
    }
}

/// Counts one VM of the plugin that has died.
pub fn count_death(proxy: &impl Proxy, plugin: &str) {
    if let Some(counter) = metric(proxy, &DEATHS, &[plugin]) {
        proxy.add(counter, 1);
    }
}

fn set(proxy: &impl Proxy, spec: &MetricSpec, labels: &[&str], value: u64) {
    if let Some(gauge) = metric(proxy, spec, labels) {
        proxy.set(gauge, value);
    }
}

fn metric(proxy: &impl Proxy, spec: &MetricSpec, labels: &[&str]) -> Option<MetricId> {
    proxy.metric(spec.kind, &spec.full_name(labels, false))
}
