//! Which VMs of a plugin live.
//!
//! A VM that has died runs no callback any more. If the proxy makes no new one in its place, no statistic of the proxy shows
//! that. So each VM writes down from time to time that it lives, and another one notices when it no longer does.
//!
//! A VM is watched while a root of the plugin ticks in it. What leaves in order says so before.
//!
//! A module that is not told of the end of a root can't say so. There, a VM counts as dead only while another one goes on with
//! the same document, and no VM of the plugin has a newer one. What leaves in order leaves all threads at the same time.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::{plugin_metrics, store};
use crate::policy::module::ModuleKind;
use crate::proxy::Proxy;
use crate::value::time::Time;

/// How often a VM writes that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// The time without a beat after which a VM counts as dead. A worker thread that is busy for so long serves nobody either.
const SILENT_AFTER: Duration = Duration::from_secs(20);

/// The time without a beat after which nobody asks any more why a VM is silent.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// The last sign of life of one VM.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Beat {
    vm: u64,
    at: Time,
    /// The newest document of the plugin in that VM, and when the VM got it.
    document: u64,
    configured: Time,
}

/// The part of one root in its VM's signs of life.
pub struct Pulse {
    plugin: String,
    key: String,
    /// Whether roots say so when they end.
    ends: bool,
    document: u64,
    configured: Time,
    /// The VM, and the time of its last beat by this root.
    last: Option<(u64, Time)>,
}

impl Pulse {
    /// Creates the pulse of a root of this plugin, which has got its document now. It has no beat yet.
    pub fn new(plugin: &str, module: ModuleKind, document: u64, configured: Time) -> Self {
        let key = format!("graygate//alive/{plugin}/{}", store::LAYOUT);
        let (plugin, ends) = (plugin.to_owned(), module.sees_responses());
        Pulse { plugin, key, ends, document, configured, last: None }
    }

    /// Writes that this VM lives, if that is due. Logs and counts the VMs that have died.
    pub fn beat(&mut self, proxy: &impl Proxy, vm: u64, now: Time) {
        let last = self.last.map(|(_, last)| last);
        if last.is_some_and(|last| now < last + BEAT) {
            return;
        }
        // If this VM is late as well, the whole proxy stood still, and the others may only be about to go on.
        let is_on_time = last.is_some_and(|last| now < last + 2 * BEAT);
        let died = store::update(proxy, &self.key, |known: Option<Vec<Beat>>| {
            let mut beats = known.unwrap_or_default();
            let own = Beat { vm, at: now, document: self.document, configured: self.configured };
            // Another root of the plugin in this VM may have a newer document.
            let known = beats.iter().find(|beat| beat.vm == vm && beat.configured > own.configured).copied();
            let own = Beat { at: now, ..known.unwrap_or(own) };
            beats.retain(|beat| beat.vm != vm && now < beat.at + FORGOTTEN_AFTER);
            let is_newest =
                beats.iter().all(|beat| beat.document == own.document || beat.configured < own.configured);
            let tells = |beat: &Beat| self.ends || is_newest && beat.document == own.document;
            let others = beats.len();
            beats.retain(|beat| !is_on_time || now < beat.at + SILENT_AFTER || !tells(beat));
            let died = others - beats.len();
            beats.push(own);
            (died, Some(beats))
        });
        self.last = Some((vm, now));
        for _ in 0..died.unwrap_or(0) {
            plugin_metrics::count_death(proxy, &self.plugin);
            Event::VmDied { plugin: &self.plugin }.record(proxy);
        }
    }

    /// Ends the watch of the VM by this root. If another root of the plugin ticks in it, its next beat goes on.
    pub fn end(&mut self, proxy: &impl Proxy) {
        if let Some((vm, _)) = self.last.take() {
            store::update(proxy, &self.key, |known: Option<Vec<Beat>>| {
                let mut beats = known.unwrap_or_default();
                let count = beats.len();
                beats.retain(|beat| beat.vm != vm);
                ((), (beats.len() < count).then_some(beats))
            });
        }
    }
}
