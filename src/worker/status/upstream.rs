//! What the status page shows of an upstream.

use super::Present;
use super::writer::JsonWriter;
use crate::policy::upstream::{Breaker, Upstream, UpstreamId};
use crate::proxy::Proxy;
use crate::readiness::{Admission, Phase, UpstreamReason, UpstreamState};
use crate::worker::scope::Scope;

impl<P: Proxy> Scope<'_, P> {
    /// Writes one upstream. `open` has the names of those whose gates fail open.
    #[inline(never)]
    pub(super) fn write_upstream(
        &self,
        present: Present,
        (id, upstream): (UpstreamId, &Upstream),
        leader: Option<u64>,
        open: &[String],
        json: &mut JsonWriter,
    ) {
        let Some(state) = self.upstreams.snapshot(id) else {
            return;
        };
        json.open("");
        json.text("name", &upstream.name);
        json.text("cluster", &upstream.cluster);
        write_state(present, state, upstream, json);
        if self.policy.gated.contains(&id) {
            let is_closed = matches!(state.admission(upstream), Admission::NotReady(_) | Admission::Trial(_));
            let gate = match is_closed {
                true if open.contains(&upstream.name) => "failing-open",
                true => "closed",
                false => "open",
            };
            json.text("gate", gate);
        }
        if upstream.check.is_some() {
            write_last_check(present, state, json);
        }
        if let Some(breaker) = &upstream.breaker {
            self.write_counts(present, id, breaker, json);
        }
        if let Some(leader) = leader {
            json.id("leader", leader);
        }
        json.close();
    }

    #[inline(never)]
    fn write_counts(&self, present: Present, id: UpstreamId, breaker: &Breaker, json: &mut JsonWriter) {
        let Some(counted) = self.upstreams.counted(id, breaker, present.now) else {
            return;
        };
        json.open("breaker");
        if let Some((length, counts)) = counted.window {
            let failures = counts.failed.min(counts.all);
            json.open("window");
            json.number("seconds", length.as_secs());
            json.number("total", counts.all.into());
            json.number("successes", (counts.all - failures).into());
            json.number("failures", failures.into());
            json.number("slow", counts.slow.into());
            json.close();
        }
        json.number("failuresInARow", counted.failures.into());
        json.number("unansweredInARow", counted.unanswered.into());
        json.number("brokenOffInARow", counted.broken_off.into());
        json.number("tripsInARow", counted.trips.into());
        json.close();
    }
}

/// Returns the name of the upstream's state, and its reason. `force` overrides both.
pub(super) fn state_of(state: &UpstreamState, upstream: &Upstream) -> (&'static str, UpstreamReason) {
    match upstream.force {
        Some(true) => (Phase::Ready.name(), UpstreamReason::Forced),
        Some(false) => (Phase::NotReady { until: None }.name(), UpstreamReason::Forced),
        None => (state.phase.name(), state.reason),
    }
}

#[inline(never)]
fn write_state(present: Present, state: &UpstreamState, upstream: &Upstream, json: &mut JsonWriter) {
    let (name, reason) = state_of(state, upstream);
    json.text("state", name);
    json.text("reason", reason.code());
    if let Some((_, detail)) = reason.to_string().split_once(": ") {
        json.text("reasonDetail", detail);
    }
    json.number("generation", state.generation.into());
    // The phase goes on below `force`, which has no time of its own.
    if let Some(ready) = upstream.force {
        json.text("forced", if ready { "ready" } else { "notReady" });
        return;
    }
    present.write_time(json, ["since", "sinceSecondsAgo"], state.since);
    match &state.phase {
        Phase::NotReady { until: Some(until) } => {
            json.open("ends");
            present.write_until(json, "trialInSeconds", *until);
            json.close();
        }
        Phase::Trial { leases, successes } => {
            json.open("ends");
            json.number("requestsOnTrial", leases.len() as u64);
            json.number("successesOnTrial", (*successes).into());
            json.close();
        }
        Phase::Ramp { until } => {
            json.open("ends");
            present.write_until(json, "rampEndsInSeconds", *until);
            json.close();
        }
        Phase::Ready | Phase::NotReady { until: None } => {}
    }
}

#[inline(never)]
fn write_last_check(present: Present, state: &UpstreamState, json: &mut JsonWriter) {
    let checks = &state.checks;
    let (result, at) = match checks.last_failure {
        _ if checks.unsent => ("not-sent", checks.started),
        Some(_) => ("failed", checks.last_result_at),
        None => ("passed", checks.last_result_at),
    };
    let Some(at) = at else {
        return;
    };
    json.open("lastCheck");
    json.text("result", result);
    present.write_ago(json, "secondsAgo", at);
    if let Some(failure) = checks.last_failure.filter(|_| !checks.unsent) {
        json.text("detail", &failure.to_string());
    }
    json.close();
}
