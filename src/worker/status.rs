//! What the status page shows, as JSON: what this worker knows, and who leads.
//!
//! Nothing is written for it, so it costs other requests nothing. It has names of the policy and counts, and nothing of any
//! request.

mod release;
mod upstream;
mod writer;

use super::gates;
use super::plugin_metrics::{REVISION, VERSION};
use super::scope::Scope;
use crate::decision::probe::result::DrainReason;
use crate::proxy::Proxy;
use crate::readiness::Readiness;
use crate::value::date::Date;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;
use writer::JsonWriter;

/// The present by both clocks.
#[derive(Clone, Copy)]
struct Present {
    now: Time,
    date: Date,
}

impl Present {
    /// Writes the date of a time, and how long ago it is.
    #[inline(never)]
    fn write_time(self, json: &mut JsonWriter, [at, ago]: [&str; 2], time: Time) {
        json.text(at, &(self.date - self.now.since(time)).to_string());
        self.write_ago(json, ago, time);
    }

    /// Writes how many whole seconds ago a time is.
    #[inline(never)]
    fn write_ago(self, json: &mut JsonWriter, name: &str, time: Time) {
        json.number(name, self.now.since(time).as_secs());
    }

    /// Writes the whole seconds until a time.
    #[inline(never)]
    fn write_until(self, json: &mut JsonWriter, name: &str, time: Time) {
        json.number(name, time.since(self.now).as_secs());
    }
}

impl<P: Proxy> Scope<'_, P> {
    /// Returns what the status page shows.
    #[inline(never)]
    pub fn status(&mut self) -> Vec<u8> {
        let present = Present { now: self.proxy.now(), date: self.proxy.date() };
        let lifecycle = self.snapshot().lifecycle();
        let open = gates::open(self.proxy, self.policy);
        let mut json = JsonWriter::object();
        self.write_policy(present, &mut json);
        json.text("moduleVersion", VERSION);
        json.text("revision", REVISION);
        json.text("at", &present.date.to_string());
        self.write_lifecycle(present, &lifecycle, &mut json);
        json.open("worker");
        json.id("id", self.holder.id);
        json.close();
        let mut leaders: Vec<Option<u64>> = Vec::new();
        json.open_list("upstreams");
        for (id, upstream) in self.policy.upstream_ids() {
            let leader = upstream.is_watched().then(|| self.upstreams.leader(self.proxy, id, present.now));
            leaders.push(leader.flatten());
            self.write_upstream(present, (id, upstream), leader.flatten(), &open, &mut json);
        }
        json.close_list();
        json.open_list("releases");
        let mut shared = self.releases.shared(self.proxy);
        for (index, release) in self.policy.releases.iter().enumerate() {
            self.write_release(present, (index, release), &mut shared, &mut json);
        }
        json.close_list();
        self.write_leader(leaders, &mut json);
        json.finish()
    }

    /// Writes whether the proxy has started, and whether and why it drains.
    #[inline(never)]
    fn write_lifecycle(&self, present: Present, lifecycle: &Lifecycle, json: &mut JsonWriter) {
        json.open("lifecycle");
        json.flag("started", lifecycle.started);
        json.flag("draining", lifecycle.is_draining());
        if let Some(drain) = &self.policy.probes.drain
            && let Some(reason) = DrainReason::of(self.policy, lifecycle)
        {
            json.open_list("drainReasons");
            if let DrainReason::Ordered | DrainReason::Both(_) = reason {
                json.text("", "order");
            }
            if let DrainReason::Upstream(name) | DrainReason::Both(name) = reason {
                json.text("", &["upstream ", name].concat());
            }
            json.close_list();
            if let Some(since) = lifecycle.since {
                present.write_ago(json, "drainingSinceSecondsAgo", since);
            }
            if let Some(rest) = lifecycle.rest_of(drain.readiness_after, present.now) {
                json.number("readinessFailsInSeconds", rest.as_secs());
            }
        }
        json.close();
    }

    #[inline(never)]
    fn write_policy(&self, present: Present, json: &mut JsonWriter) {
        let policy = self.policy;
        json.open("policy");
        json.text("name", &policy.name);
        json.text("mode", policy.mode.name());
        if policy.rollout < 100 {
            json.number("rolloutPercent", policy.rollout.into());
        }
        // As the gauge shows it.
        json.number("document", self.holder.policy & u64::from(u32::MAX));
        present.write_time(json, ["configuredAt", "configuredSecondsAgo"], self.holder.configured);
        json.close();
    }

    /// Writes who leads. `leaders` has the leader of each upstream.
    #[inline(never)]
    fn write_leader(&self, mut leaders: Vec<Option<u64>>, json: &mut JsonWriter) {
        let own = Some(self.holder.id);
        json.open("leader");
        json.flag("leads", leaders.contains(&own));
        json.open_list("leadsUpstreams");
        for (upstream, leader) in self.policy.upstreams.iter().zip(&leaders) {
            if *leader == own {
                json.text("", &upstream.name);
            }
        }
        json.close_list();
        json.open_list("holders");
        leaders.sort_unstable();
        leaders.dedup();
        for leader in leaders.into_iter().flatten() {
            json.id("", leader);
        }
        json.close_list();
        json.close();
    }
}
