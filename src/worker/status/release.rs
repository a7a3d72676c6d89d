//! What the status page shows of a release.

use super::Present;
use super::upstream::state_of;
use super::writer::JsonWriter;
use crate::policy::release::Release;
use crate::policy::release::rollback::Rollback;
use crate::policy::release::version::Version;
use crate::proxy::Proxy;
use crate::rollback::{ReleaseState, RollbackStore};
use crate::value::date::Date;
use crate::weights::schedule::WeightChange;
use crate::worker::scope::Scope;

impl<P: Proxy> Scope<'_, P> {
    /// Writes one release. `shared` is what the workers share of all of them.
    #[inline(never)]
    pub(super) fn write_release(
        &self,
        present: Present,
        (index, release): (usize, &Release),
        shared: &mut RollbackStore,
        json: &mut JsonWriter,
    ) {
        let date = self.releases.latest();
        let shared = self.releases.state_in(shared, index, release);
        json.open("");
        json.text("name", &release.name);
        json.open_list("versions");
        for (version, of) in release.versions.iter().enumerate() {
            json.open("");
            json.text("name", &of.name);
            json.flag("default", version == release.default);
            self.write_upstream_of(of, json);
            let share = self.releases.shares_of(index).get(version).copied().unwrap_or_default();
            json.percent("sharePercent", share);
            if let Some(weight) = wanted_weight(release, version, date) {
                json.number("wantedWeight", weight.into());
            }
            let rolled_back = self.releases.rolled_back(index).get(version).copied().flatten();
            json.flag("rolledBack", rolled_back.is_some());
            if let Some(at) = rolled_back {
                present.write_time(json, ["rolledBackAt", "rolledBackSecondsAgo"], at);
            }
            if let Some(shared) = &shared {
                write_counts(present, shared, release, version, json);
            }
            json.close();
        }
        json.close_list();
        if release.schedule.changes() {
            write_schedule(present, release, date, json);
        }
        if let Some(rollback) = &release.rollback {
            write_rules(rollback, json);
        }
        json.close();
    }

    #[inline(never)]
    fn write_upstream_of(&self, version: &Version, json: &mut JsonWriter) {
        json.text("upstream", self.policy.name_of(version.upstream));
        let upstream = self.policy.upstream(version.upstream);
        if let Some((state, upstream)) = self.upstreams.snapshot(version.upstream).zip(upstream) {
            json.text("state", state_of(state, upstream).0);
        }
    }
}

/// Returns the weight that the schedule has reached or is on the way to. `None` before the start.
#[inline(never)]
fn wanted_weight(release: &Release, version: usize, date: Date) -> Option<u32> {
    if release.starts_at.is_some_and(|start| date < start) {
        return None;
    }
    let changes = release.schedule.steps().map(|(change, _)| change);
    match changes.take_while(|change| change.at <= date).last() {
        Some(change) => change.weights.get(version).copied(),
        None => release.versions.get(version).map(|version| version.weight),
    }
}

/// Writes the counts by which a version is judged, by the code of the cause.
#[inline(never)]
fn write_counts(
    present: Present,
    shared: &ReleaseState,
    release: &Release,
    version: usize,
    json: &mut JsonWriter,
) {
    let counts = shared.counts(release, version);
    if counts.is_empty() {
        return;
    }
    json.open("rollbackWindow");
    for (cause, from, [own, default]) in counts {
        json.open(cause.code());
        json.number("bad", own.bad);
        json.number("total", own.all);
        json.number("defaultBad", default.bad);
        json.number("defaultTotal", default.all);
        present.write_ago(json, "sinceSecondsAgo", from);
        json.close();
    }
    json.close();
}

/// Writes the step of the schedule that holds now, and the next one.
#[inline(never)]
fn write_schedule(present: Present, release: &Release, date: Date, json: &mut JsonWriter) {
    let begun = release.schedule.steps_begun(date);
    let starts = usize::from(release.starts_at.is_some());
    json.open("schedule");
    json.number("stepsBegun", begun as u64);
    json.number("steps", (release.schedule.steps().count() + starts) as u64);
    for (name, place) in [("now", begun), ("next", begun + 1)] {
        let step = place.checked_sub(starts + 1);
        let change = step.and_then(|step| release.schedule.steps().nth(step)).map(|(change, _)| change);
        let start = release.starts_at.filter(|_| place == starts);
        let Some(at) = change.map(|change| change.at).or(start) else {
            continue;
        };
        json.open(name);
        json.text("name", &release.schedule.name(place));
        json.text("at", &at.to_string());
        if at > date {
            json.number("inSeconds", at.since(present.date).as_secs());
        }
        if let Some(change) = change {
            write_change(release, change, json);
        }
        json.close();
    }
    json.close();
}

#[inline(never)]
fn write_change(release: &Release, change: &WeightChange, json: &mut JsonWriter) {
    if !change.over.is_zero() {
        json.number("overSeconds", change.over.as_secs());
    }
    json.open("weights");
    for (version, weight) in release.versions.iter().zip(&change.weights) {
        json.number(&version.name, (*weight).into());
    }
    json.close();
}

/// Writes the limits of a rollback.
#[inline(never)]
fn write_rules(rollback: &Rollback, json: &mut JsonWriter) {
    json.open("rollback");
    json.flag("judges", rollback.judges);
    if let Some(percent) = rollback.failure_percent {
        json.number("failurePercent", percent.into());
    }
    if let Some(latency) = rollback.latency {
        json.open("latency");
        json.number("percentile", latency.percentile.into());
        json.number("aboveMilliseconds", latency.above.as_millis() as u64);
        json.close();
    }
    if let Some(percent) = rollback.check_failure_percent {
        json.number("checkFailurePercent", percent.into());
    }
    json.number("minimumRequests", rollback.minimum_requests.into());
    json.number("windowSeconds", rollback.window.as_secs());
    json.close();
}
