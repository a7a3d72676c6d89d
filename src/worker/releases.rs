//! What one worker holds of the releases: how they divide their requests right now, and what it has seen of their versions
//! since it last shared it.

use core::ops::RangeInclusive;

use super::event::Event;
use super::metrics::Metrics;
use super::store;
use crate::decision::release::split::Split;
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::upstream::UpstreamId;
use crate::proxy::Proxy;
use crate::rollback::{Observations, ReleaseState, RollbackFinding, RollbackStore};
use crate::value::hash;
use crate::value::time::Time;

/// All releases of a policy.
pub struct ReleaseTable {
    splits: Vec<Split>,
    /// Those that change while the policy stays.
    entries: Vec<ReleaseEntry>,
    /// When this worker was given the policy.
    configured: Time,
    /// The latest time that it has seen.
    latest: Time,
    /// The key of what is known of the releases.
    key: String,
    /// The key of the latest time that any worker has seen.
    clock: String,
}

/// One release that changes while the policy stays.
struct ReleaseEntry {
    /// Its index in the policy.
    release: usize,
    /// A digest of all that the policy says of it.
    identity: u64,
    unshared: Vec<Observations>,
    /// Since when each version is rolled back.
    rolled_back: Vec<Option<Time>>,
}

/// What a look at the shared state of a release tells.
struct MergeResult {
    rolled_back: Vec<Option<Time>>,
    /// The changes of its schedule that have begun since, by their numbers. Several at a time where the clock was set
    /// ahead.
    begun: RangeInclusive<u64>,
    /// The rollbacks that follow from what this worker saw.
    findings: Vec<RollbackFinding>,
}

impl ReleaseTable {
    /// Starts at `now` with what the other workers know already.
    pub fn new(proxy: &impl Proxy, policy: &Policy, now: Time) -> Self {
        let key = |what: &str| format!("graygate/{}/{what}/{}", policy.name, store::LAYOUT);
        let (key, clock) = (key("releases"), key("clock"));
        store::seed(proxy, &key, &RollbackStore::default());
        let changes = policy.releases.iter().any(Release::changes);
        let latest = if changes { advance(proxy, &clock, now) } else { now };
        let mut known: RollbackStore = store::get(proxy, &key).unwrap_or_default();
        let changing = policy.releases.iter().enumerate().filter(|(_, release)| release.changes());
        let entries = changing.map(|(index, release)| {
            // What is only tried out, in shadow, must not come true once it is enforced.
            let identity = hash::digest(0, &(release, policy.mode));
            let state = known.state(&release.name, identity);
            let rolled_back = state.map(|state| state.rolled_back()).unwrap_or_default();
            let unshared = vec![Observations::default(); release.versions.len()];
            ReleaseEntry { release: index, identity, unshared, rolled_back }
        });
        let entries: Vec<ReleaseEntry> = entries.collect();
        let splits = policy.releases.iter().enumerate().map(|(index, release)| {
            let entry = entries.iter().find(|entry| entry.release == index);
            let rolled_back = entry.map_or(&[][..], |entry| &entry.rolled_back);
            Split::new(release, latest, now, rolled_back, proxy.random())
        });
        let splits = splits.collect();
        ReleaseTable { splits, entries, configured: now, latest, key, clock }
    }

    /// Returns how each release divides its requests right now.
    pub fn splits_mut(&mut self) -> &mut [Split] {
        &mut self.splits
    }

    /// Returns what this worker has seen of a version since it last shared it, if a rollback may follow for the release.
    pub fn observations_mut(&mut self, release: usize, version: usize) -> Option<&mut Observations> {
        let entry = self.entries.iter_mut().find(|entry| entry.release == release);
        entry.and_then(|entry| entry.unshared.get_mut(version))
    }

    /// Counts the result of a check for each version that the upstream serves and that checks judge.
    pub fn on_check(&mut self, policy: &Policy, id: UpstreamId, passed: bool) {
        let judged = |release: &Release| {
            release.rollback.as_ref().is_some_and(|rollback| rollback.check_failure_percent.is_some())
        };
        for (index, release) in policy.releases.iter().enumerate().filter(|(_, release)| judged(release)) {
            let served = release.versions.iter().enumerate().filter(|(_, version)| version.upstream == id);
            for (version, _) in served {
                if let Some(seen) = self.observations_mut(index, version) {
                    seen.checks += 1;
                    seen.failed_checks += u64::from(!passed);
                }
            }
        }
    }

    /// Makes the shared state this policy's: what is known of a release stays if the policy has not changed it, and goes
    /// otherwise, with its rollbacks. Called once, when the policy has come into use: before that, the proxy may still
    /// refuse it. A policy without such releases does so as well, or one that went would come back as it was.
    pub fn adopt(&self, proxy: &impl Proxy, policy: &Policy) -> bool {
        let written = store::update(proxy, &self.key, |known: Option<RollbackStore>| {
            let own = self.entries.iter().filter_map(|entry| {
                let release = policy.releases.get(entry.release)?;
                Some((release.name.clone(), ReleaseState::new(release, entry.identity, self.latest)))
            });
            let known = known.unwrap_or_default();
            let adopted = known.adopted_by(self.configured, own.collect());
            ((), adopted.filter(|adopted| *adopted != known))
        });
        written.is_some()
    }

    /// Publishes what each version holds.
    pub fn publish_shares(&self, proxy: &impl Proxy, policy: &Policy, metrics: &mut Metrics) {
        for (release, split) in self.splits.iter().enumerate() {
            metrics.set_shares(proxy, policy, release, split.shares());
        }
    }

    /// Shares what this worker saw of the versions, and applies what the other workers and time have changed. Returns what
    /// this worker is the first to know.
    pub fn refresh<'p>(
        &mut self,
        proxy: &impl Proxy,
        policy: &'p Policy,
        metrics: &mut Metrics,
        now: Time,
    ) -> Vec<Event<'p>> {
        let mut events = Vec::new();
        let ReleaseTable { splits, entries, latest, key, clock, .. } = self;
        if entries.is_empty() {
            return events;
        }
        *latest = advance(proxy, clock, now).max(*latest);
        let time = *latest;
        let merged = store::update(proxy, key, |known: Option<RollbackStore>| {
            let before = known.unwrap_or_default();
            let mut store = before.clone();
            let merge = |entry: &ReleaseEntry| {
                let release = policy.releases.get(entry.release)?;
                let shares = splits.get(entry.release)?.shares();
                let default_holds = shares.get(release.default).is_some_and(|share| *share > 0);
                entry.merge(release, &mut store, (now, time), default_holds)
            };
            let merged: Vec<Option<MergeResult>> = entries.iter().map(merge).collect();
            (merged, (store != before).then_some(store))
        });
        // What could not be shared now is shared on the next tick.
        let Some(merged) = merged else {
            return events;
        };
        for (entry, merged) in entries.iter_mut().zip(merged) {
            let index = entry.release;
            let (Some(release), Some(split)) = (policy.releases.get(index), splits.get_mut(index)) else {
                continue;
            };
            entry.unshared.fill(Observations::default());
            let own = merged.is_some();
            if let Some(MergeResult { rolled_back, begun, findings }) = merged {
                entry.rolled_back = rolled_back;
                events.extend(begun.map(|begun| Event::ScheduleStep { policy, release: index, begun }));
                let rolled_back = |finding| Event::RolledBack { policy, release: index, finding };
                events.extend(findings.into_iter().map(rolled_back));
            }
            if split.update(release, time, now, &entry.rolled_back) && own {
                metrics.set_shares(proxy, policy, index, split.shares());
            }
        }
        events
    }
}

impl ReleaseEntry {
    /// Adds what this worker saw to the shared state, and returns what follows. Nothing if the state is another policy's:
    /// what this one knew stands for the requests that it still serves. `now` is by the proxy's own clock, `latest` never
    /// runs back.
    fn merge(
        &self,
        release: &Release,
        store: &mut RollbackStore,
        (now, latest): (Time, Time),
        default_holds: bool,
    ) -> Option<MergeResult> {
        let seen = self.unshared.iter().any(|seen| *seen != Observations::default());
        if seen && store.state(&release.name, self.identity).is_none() {
            store.begin(&release.name, ReleaseState::new(release, self.identity, latest));
        }
        let state = store.state(&release.name, self.identity)?;
        let findings = if seen {
            state.on_observations(release, now, &self.unshared, default_holds)
        } else {
            Vec::new()
        };
        let begun = release.schedule.steps_begun(latest) as u64;
        let new = state.steps_begun + 1..=begun;
        state.steps_begun = state.steps_begun.max(begun);
        Some(MergeResult { rolled_back: state.rolled_back(), begun: new, findings })
    }
}

/// Returns the time, which never runs back for this proxy: a clock that is set back must not undo a step.
fn advance(proxy: &impl Proxy, clock: &str, now: Time) -> Time {
    let latest = store::update(proxy, clock, |known: Option<Time>| {
        let known = known.unwrap_or_default();
        (known.max(now), (now > known).then_some(now))
    });
    latest.unwrap_or(now)
}
