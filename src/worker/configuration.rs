//! Reads the document of a root, and decides which policies the root's workers apply.

use core::time::Duration;

use super::event::Event;
use super::last_good::{self, KeptPolicy};
use super::pulse::Pulse;
use super::{Worker, plugin_metrics, store};
use crate::policy::host_index::HostIndex;
use crate::policy::identity::PolicyIdentity;
use crate::policy::module::ModuleKind;
use crate::policy::problem::Problems;
use crate::policy::set::DocumentReading;
use crate::policy::{Mode, OnWrongPolicy, Policy};
use crate::proxy::{Attribute, Body, Proxy};
use crate::value::hash;
use crate::value::time::Time;

/// The maximum number of problems of a wrong document that are logged. Every VM logs them.
const MAX_LOGGED_PROBLEMS: usize = 20;

/// What a root does by its document.
pub struct Configuration {
    /// The name of the plugin.
    pub plugin: String,
    /// One worker for each policy.
    pub workers: Vec<Worker>,
    /// Finds the worker that a request is for.
    pub index: HostIndex,
    /// What the root shares once the document is in use.
    pub unshared: Unshared,
    /// The document, if it is wrong and not counted yet.
    pub refusal: Option<Refusal>,
    /// The root's part in the VM's signs of life.
    pub pulse: Pulse,
}

/// A wrong document that is yet to be counted, because the counter has only just begun at 0.
pub struct Refusal {
    plugin: String,
    due: Time,
}

impl Refusal {
    /// Returns whether a rise of the counter is seen now.
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.due
    }

    /// Counts the document.
    pub fn count(&self, proxy: &impl Proxy) {
        plugin_metrics::count_refused(proxy, &self.plugin);
    }
}

/// What a root shares once its document is in use: it has got a request, or is settled.
///
/// Before that, the proxy may still refuse the document because of another filter. Its threads may tick meanwhile.
pub struct Unshared {
    plugin: String,
    policies: Vec<KeptPolicy>,
    is_wrong: bool,
    configured: Time,
}

/// The time after which a document without requests counts as in use. The proxy has taken or refused it long before.
const SETTLES_AFTER: Duration = Duration::from_secs(5);

impl Unshared {
    /// Returns whether the proxy has had the document for so long that it has not refused it.
    pub fn is_settled(&self, now: Time) -> bool {
        now >= self.configured + SETTLES_AFTER
    }

    /// Shares it. Returns `false` if a part could not be written.
    pub fn share(&self, proxy: &impl Proxy) -> bool {
        plugin_metrics::show_build(proxy);
        plugin_metrics::set_refused(proxy, &self.plugin, self.is_wrong, self.configured);
        last_good::keep(proxy, &self.plugin, &self.policies, self.configured)
    }
}

/// A policy that a worker is to apply.
struct Chosen {
    policy: Policy,
    kept: KeptPolicy,
    /// The hash of what is applied.
    applied: u64,
}

/// Reads the document, which has `size` bytes, and creates its workers. Logs and counts a document that is wrong. Returns
/// `None` if the proxy must refuse it. `others` returns the names of the policies of each other document of the plugin in this VM. It
/// is asked if the module cannot tell the requests for those from the ones for this document.
pub fn configure(
    proxy: &impl Proxy,
    size: usize,
    others: impl FnOnce(&str) -> Vec<Vec<String>>,
) -> Option<Configuration> {
    let module = proxy.module();
    let text = proxy.body(Body::Configuration, size);
    let plugin = proxy.attribute(Attribute::PluginName).unwrap_or_default();
    let plugin = String::from_utf8_lossy(&plugin).into_owned();
    let node = proxy.attribute(Attribute::NodeId).unwrap_or_default();
    let due = plugin_metrics::define(proxy, &plugin);
    let document = hash::digest(0, &text);
    let mut reading = DocumentReading::for_node(text, &node);
    reading.limit_to(module);
    let others = if module.sees_responses() { Vec::new() } else { others(&plugin) };
    if let Some(other) = others.iter().find(|names| !shares_name(&reading, names)) {
        reading.refuse(format!(
            "plugin {plugin:?} already has a policy named {}, and {} takes a second document of one plugin for its \
            successor; give each plugin a `name` of its own, keep the policy's name, or use {}",
            other.join(", "),
            module.file(),
            ModuleKind::Full.file(),
        ));
    }
    let is_wrong = reading.problems.is_some();
    let mut refusal = None;
    if let Some(problems) = &reading.problems {
        report(proxy, &plugin, problems);
        let refused = Refusal { plugin: plugin.clone(), due };
        let ends = reading.on_wrong_policy == OnWrongPolicy::Refuse;
        // A VM whose document the proxy refuses may have no tick.
        if ends || refused.is_due(proxy.now()) {
            refused.count(proxy);
        } else {
            refusal = Some(refused);
        }
        if ends {
            return None;
        }
    }
    let chosen = choose(proxy, &plugin, &node, reading);
    let watched = chosen.iter().map(|chosen| chosen.policy.watched()).sum();
    let (mut workers, mut policies) = (Vec::new(), Vec::new());
    for chosen in chosen {
        let Chosen { policy, kept, applied: document } = chosen;
        if kept.text.is_some() && is_new(proxy, &plugin, &policy, document) {
            Event::PolicyLoaded { policy: &policy }.record(proxy);
        }
        workers.push(Worker::start(proxy, policy, document, watched));
        policies.push(kept);
    }
    let index = HostIndex::new(workers.iter().map(|worker| &worker.policy().hosts));
    let pulse = Pulse::new(&plugin, module, document, proxy.now());
    let unshared = Unshared { plugin: plugin.clone(), policies, is_wrong, configured: proxy.now() };
    Some(Configuration { plugin, workers, index, unshared, refusal, pulse })
}

/// Returns whether the document has a policy of one of these names, or no policy at all.
fn shares_name(reading: &DocumentReading, names: &[String]) -> bool {
    let mut own = reading.entries.iter().filter_map(|entry| entry.name.as_ref());
    names.is_empty() || own.clone().next().is_none() || own.any(|name| names.contains(name))
}

/// Returns the policies that the workers apply: the valid ones of the document, and the last good document of each other.
fn choose(proxy: &impl Proxy, plugin: &str, node: &[u8], reading: DocumentReading) -> Vec<Chosen> {
    let named: Vec<String> = reading.entries.iter().filter_map(|entry| entry.name.clone()).collect();
    let mut chosen: Vec<Chosen> = Vec::new();
    for entry in reading.entries {
        if let Some(policy) = entry.policy {
            let PolicyIdentity { written, applied } = entry.identity;
            let kept = KeptPolicy { name: policy.name.clone(), hash: written, text: Some(entry.text) };
            chosen.push(Chosen { policy, kept, applied });
            continue;
        }
        // A policy whose name cannot be read is one of those that the document no longer names.
        let names = match entry.name {
            Some(name) => vec![name],
            None => {
                let mut names = last_good::names(proxy, plugin);
                names.retain(|name| !named.contains(name));
                if names.is_empty() {
                    Event::Instead { whose: plugin, is_last_good: false }.record(proxy);
                }
                names
            }
        };
        for name in names {
            // The first of a name goes on, and with it the state of that name.
            if chosen.iter().any(|known| known.policy.name == name) {
                continue;
            }
            let last_good = last_good(proxy, plugin, node, &name, entry.mode_limit);
            Event::Instead { whose: &name, is_last_good: last_good.is_some() }.record(proxy);
            chosen.extend(last_good);
        }
    }
    chosen
}

/// Returns the last good document of a policy, with its mode limited.
fn last_good(proxy: &impl Proxy, plugin: &str, node: &[u8], name: &str, mode_limit: Mode) -> Option<Chosen> {
    let text = last_good::text(proxy, plugin, name)?;
    let reading = DocumentReading::for_node(text, node);
    let entry = reading.entries.into_iter().next().filter(|_| reading.problems.is_none())?;
    let mut policy = entry.policy?;
    let PolicyIdentity { written, applied } = entry.identity.limited_to(mode_limit);
    policy.mode = policy.mode.limited_to(mode_limit);
    let kept = KeptPolicy { name: name.to_owned(), hash: written, text: None };
    Some(Chosen { policy, kept, applied })
}

/// Logs and shows a wrong document. The proxy's own log line does not give the reason.
fn report(proxy: &impl Proxy, plugin: &str, problems: &Problems) {
    let count = problems.iter().count();
    for problem in problems.iter().take(MAX_LOGGED_PROBLEMS) {
        Event::Problem(problem).record(proxy);
    }
    if count > MAX_LOGGED_PROBLEMS {
        Event::MoreProblems(count - MAX_LOGGED_PROBLEMS).record(proxy);
    }
    plugin_metrics::set_refused(proxy, plugin, true, proxy.now());
}

/// Returns whether this worker is the first of the proxy to get this document. Only the first one logs it.
fn is_new(proxy: &impl Proxy, plugin: &str, policy: &Policy, document: u64) -> bool {
    let key = format!("graygate/{}/loaded/{plugin}", policy.name);
    let first = store::update(proxy, &key, |last: Option<u64>| {
        let new = last != Some(document);
        (new, new.then_some(document))
    });
    first.unwrap_or(false)
}
