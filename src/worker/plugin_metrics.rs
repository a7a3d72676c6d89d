//! The gauges of a plugin and of the module. They exist whatever the document says.

use super::metric::spec::{BUILD, MetricSpec, REFUSED};
use crate::proxy::Proxy;

/// The version of the module.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the module's sources. `.ci/wasm` sets it.
pub const REVISION: &str = match option_env!("GRAYGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Shows which build of the module the proxy runs.
pub fn show_build(proxy: &impl Proxy) {
    set(proxy, &BUILD, &[VERSION, REVISION], 1);
}

/// Shows whether the plugin's newest document is wrong.
pub fn set_refused(proxy: &impl Proxy, plugin: &str, is_wrong: bool) {
    set(proxy, &REFUSED, &[plugin], is_wrong.into());
}

fn set(proxy: &impl Proxy, spec: &MetricSpec, labels: &[&str], value: u64) {
    if let Some(gauge) = proxy.metric(spec.kind, &spec.full_name(labels, false)) {
        proxy.set(gauge, value);
    }
}
