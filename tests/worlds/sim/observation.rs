//! What tests can observe of a world.

use std::collections::{BTreeMap, BTreeSet};

use graygate::policy::upstream::UpstreamId;
use graygate::proxy::{ExchangeId, Level};
use graygate::readiness::UpstreamState;

use super::call::SentCall;
use super::request::Answer;
use super::surroundings::Written;
use super::world::World;

impl World {
    /// Returns the value of a header of a request as it was forwarded.
    pub fn sent_header(&self, id: u32, name: &str) -> Option<String> {
        self.stream(id, |stream| {
            let found = stream.request.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        })
    }

    /// Returns the label that access logs show for a request.
    pub fn label(&self, id: u32) -> String {
        self.stream(id, |stream| stream.label.clone())
    }

    /// Returns the response to a request so far.
    pub fn answer(&self, id: u32) -> Answer {
        self.stream(id, |stream| Answer { cluster: stream.cluster.clone(), ..stream.answer.clone() })
    }

    /// Returns the shared state of an upstream as it was last written.
    pub fn state(&self, upstream: &str) -> UpstreamState {
        let store = self.around.store.borrow();
        let part = format!("/upstream/{upstream}/");
        let found = store.iter().filter(|(key, _)| key.contains(&part) && !key.ends_with("/leader"));
        let (_, (bytes, _)) = found.max_by_key(|(_, (_, version))| *version).unwrap();
        postcard::from_bytes(bytes).unwrap()
    }

    /// Returns the name of an upstream's phase.
    pub fn phase(&self, upstream: &str) -> &'static str {
        self.state(upstream).phase.name()
    }

    /// Returns the reason for an upstream's phase.
    pub fn reason(&self, upstream: &str) -> String {
        self.state(upstream).reason.to_string()
    }

    /// Returns the sum over all metrics of this name that have all of these labels, such as `upstream=app`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let metrics = self.around.metrics.borrow();
        let labels: Vec<String> =
            labels.iter().map(|label| format!("{};.;", label.replacen('=', "=.=", 1))).collect();
        let prefix = format!("graygate_{name}.");
        let found = metrics.iter().filter(|(known, ..)| {
            known.starts_with(&prefix) && labels.iter().all(|label| known.contains(label))
        });
        found.map(|(.., value)| value).sum()
    }

    /// Returns the names of all metrics.
    pub fn metric_names(&self) -> BTreeSet<String> {
        self.around.metrics.borrow().iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Returns the log lines that contain this text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let log = self.around.log.borrow();
        log.iter().map(|(_, line)| line).filter(|line| line.contains(text)).cloned().collect()
    }

    /// Returns the keys of the store.
    pub fn keys(&self) -> BTreeSet<String> {
        self.around.store.borrow().keys().cloned().collect()
    }

    /// Returns all values of a header of a request as it was forwarded.
    pub fn sent_headers(&self, id: u32, name: &str) -> Vec<String> {
        self.stream(id, |stream| {
            let found = stream.request.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
        })
    }

    /// Returns the filter state of a request: objects and their values.
    pub fn filter_state(&self, id: u32) -> Vec<(String, String)> {
        self.stream(id, |stream| stream.filter_state.clone())
    }

    /// Returns the calls that were sent to a cluster.
    pub fn calls_to(&self, cluster: &str) -> Vec<SentCall> {
        self.around.sent.borrow().iter().filter(|call| call.cluster == cluster).cloned().collect()
    }

    /// Returns the tick of a VM's newest worker in milliseconds, or 0 if it does not tick.
    pub fn tick_of(&self, vm: usize) -> u64 {
        self.around.ticks.borrow().get(&(vm, self.vms[vm].ticks.len() - 1)).copied().unwrap_or(0)
    }

    /// Returns a trailer of a response.
    pub fn trailer(&self, id: u32, name: &str) -> Option<String> {
        self.stream(id, |stream| {
            let found = stream.trailers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        })
    }

    /// Returns all headers of a request as it was forwarded.
    pub fn forwarded_headers(&self, id: u32) -> Vec<(String, String)> {
        let text =
            |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
        self.stream(id, |stream| stream.request.iter().map(text).collect())
    }

    /// Returns the value of each metric by its full name.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        self.around.metrics.borrow().iter().map(|(name, _, value)| (name.clone(), *value)).collect()
    }

    /// Returns the log lines that contain this text, with their levels.
    pub fn logged_at(&self, text: &str) -> Vec<(Level, String)> {
        self.around.log.borrow().iter().filter(|(_, line)| line.contains(text)).cloned().collect()
    }

    /// Returns the writes to the store since this was last called. The first call starts the recording.
    pub fn written(&mut self) -> Vec<Written> {
        self.around.written.borrow_mut().replace(Vec::new()).unwrap_or_default()
    }

    /// Returns the state of an upstream as the newest worker of a VM last read it, if the VM is alive.
    pub fn seen(&self, vm: usize, upstream: usize) -> Option<UpstreamState> {
        let (_, worker) = self.vms[vm].contexts.workers().last()?;
        worker.upstreams().snapshot(UpstreamId(upstream)).cloned()
    }

    /// Returns whether the newest worker of a VM has work left for a request.
    pub fn has_exchange(&self, vm: usize, id: u32) -> bool {
        let newest = self.vms[vm].contexts.workers().last();
        newest.is_some_and(|(_, worker)| worker.has(ExchangeId(id)))
    }
}
