//! One worker's view of the releases: how they divide requests, and the observations that it has not shared yet.

use core::ops::RangeInclusive;

use super::event::Event;
use super::store;
use crate::decision::release::split::Split;
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Proxy, StoreVersion};
use crate::rollback::{Observations, ReleaseState, RollbackFinding, RollbackStore};
use crate::value::date::Date;
use crate::value::hash;
use crate::value::time::Time;

/// All releases of a policy.
pub struct ReleaseTable {
    /// How each release divides its requests now, in the policy's order.
    splits: Vec<Split>,
    /// The releases with a schedule or a rollback. Only those change while the policy stays the same.
    entries: Vec<ReleaseEntry>,
    /// The time at which this worker got the policy.
    configured: Time,
    /// The latest date that any worker has shared, as this worker last read it. It never goes back.
    latest: Date,
    /// The key of the releases' shared state.
    key: String,
    /// The version of that state when this worker last found it unchanged after a merge.
    merged: Option<StoreVersion>,
    /// The key of the latest date that any worker has seen.
    clock: String,
    /// Whether shares have changed since this worker last showed them.
    has_unshown: bool,
}

/// One release with a schedule or a rollback.
struct ReleaseEntry {
    /// The index of the release in the policy.
    release: usize,
    /// A hash of the release and of the policy's mode. Shared state with another hash belongs to another policy.
    identity: u64,
    /// What this worker has seen of each version and not shared.
    unshared: Vec<Observations>,
    /// The time at which each version was rolled back.
    rolled_back: Vec<Option<Time>>,
    /// The number of steps of the schedule whose beginning is recorded.
    steps_begun: u64,
}

/// The result of merging one release into the shared state.
struct MergeResult {
    rolled_back: Vec<Option<Time>>,
    /// The numbers of the steps of the schedule that have begun. They are several if the wall clock was set ahead.
    begun: RangeInclusive<u64>,
    /// The rollbacks that this worker's observations caused.
    findings: Vec<RollbackFinding>,
}

impl ReleaseTable {
    /// Creates the table at `now` with the state that the other workers share.
    pub fn new(proxy: &impl Proxy, policy: &Policy, now: Time) -> Self {
        let key_of = |name: &str| format!("graygate/{}/{name}/{}", policy.name, store::LAYOUT);
        let key = key_of("releases");
        let clock = key_of("clock");
        store::seed(proxy, &key, &RollbackStore::default());
        let changes = policy.releases.iter().any(Release::changes);
        let date = proxy.date();
        let latest = if changes { advance(proxy, &clock, date) } else { date };
        let mut known: RollbackStore = store::get(proxy, &key).unwrap_or_default();
        let changing = policy.releases.iter().enumerate().filter(|(_, release)| release.changes());
        let entries = changing.map(|(index, release)| {
            // A rollback in mode `shadow` must not take effect once the policy is enforced, so the mode is part of it.
            let identity = hash::digest(0, &(release, policy.mode));
            let state = known.state(&release.name, identity);
            let rolled_back = state.map(|state| state.rolled_back()).unwrap_or_default();
            let unshared = vec![Observations::default(); release.versions.len()];
            ReleaseEntry { release: index, identity, unshared, rolled_back, steps_begun: 0 }
        });
        let entries: Vec<ReleaseEntry> = entries.collect();
        let splits = policy.releases.iter().enumerate().map(|(index, release)| {
            let entry = entries.iter().find(|entry| entry.release == index);
            let rolled_back = entry.map_or(&[][..], |entry| &entry.rolled_back);
            Split::new(release, latest, now, rolled_back, proxy.random())
        });
        let splits = splits.collect();
        ReleaseTable {
            splits,
            entries,
            configured: now,
            latest,
            key,
            merged: None,
            clock,
            has_unshown: false,
        }
    }

    /// Returns how each release divides its requests now, in the policy's order.
    pub fn splits_mut(&mut self) -> &mut [Split] {
        &mut self.splits
    }

    /// Returns the shares that the versions of a release hold, in hundredths of a percent.
    pub fn shares_of(&self, release: usize) -> &[u32] {
        self.splits.get(release).map_or(&[], Split::shares)
    }

    /// Returns the date by which the schedules go.
    pub fn latest(&self) -> Date {
        self.latest
    }

    /// Returns when each version of a release was rolled back, as this worker last read it.
    pub fn rolled_back(&self, release: usize) -> &[Option<Time>] {
        let entry = self.entries.iter().find(|entry| entry.release == release);
        entry.map_or(&[], |entry| &entry.rolled_back)
    }

    /// Returns the states of the releases as the workers share them now.
    pub fn shared(&self, proxy: &impl Proxy) -> RollbackStore {
        if self.entries.is_empty() {
            return RollbackStore::default();
        }
        store::get(proxy, &self.key).unwrap_or_default()
    }

    /// Returns the state of one release in what [`ReleaseTable::shared`] returned.
    pub fn state_in<'s>(
        &self,
        shared: &'s mut RollbackStore,
        index: usize,
        release: &Release,
    ) -> Option<&'s mut ReleaseState> {
        let entry = self.entries.iter().find(|entry| entry.release == index)?;
        shared.state(&release.name, entry.identity)
    }

    /// Returns this worker's unshared observations of a version. `None` if its release cannot change.
    pub fn observations_mut(&mut self, release: usize, version: usize) -> Option<&mut Observations> {
        let entry = self.entries.iter_mut().find(|entry| entry.release == release);
        entry.and_then(|entry| entry.unshared.get_mut(version))
    }

    /// Counts the result of a check for each version that has this upstream, in releases whose rollback uses checks.
    pub fn on_check(&mut self, policy: &Policy, id: UpstreamId, passed: bool) {
        let judged = |release: &Release| {
            release.judging_rollback().is_some_and(|rollback| rollback.check_failure_percent.is_some())
        };
        for (index, release) in policy.releases.iter().enumerate().filter(|(_, release)| judged(release)) {
            let served = release.versions.iter().enumerate().filter(|(_, version)| version.upstream == id);
            for (version, _) in served {
                if let Some(seen) = self.observations_mut(index, version) {
                    seen.add_check(!passed);
                }
            }
        }
    }

    /// Replaces the shared state by that of this policy. A release that is the same as before keeps its state. Any other
    /// loses it, with its rollbacks. Returns `false` if that could not be written.
    ///
    /// Called on the first tick, because before that the proxy may still refuse the policy. A policy without such releases
    /// does it too. Otherwise a release that was removed and then added again would have its old state.
    pub fn adopt(&self, proxy: &impl Proxy, policy: &Policy) -> bool {
        let now = proxy.now();
        let written = store::update(proxy, &self.key, |known: Option<RollbackStore>| {
            let own = self.entries.iter().filter_map(|entry| {
                let release = policy.releases.get(entry.release)?;
                Some((release.name.clone(), ReleaseState::new(release, entry.identity, now, self.latest)))
            });
            let known = known.unwrap_or_default();
            let adopted = known.adopted_by(self.configured, own.collect());
            ((), adopted.filter(|adopted| *adopted != known))
        });
        written.is_some()
    }

    /// Iterates over the shares that the versions of each release hold, in hundredths of a percent.
    pub fn shares(&self) -> impl Iterator<Item = &[u32]> {
        self.splits.iter().map(Split::shares)
    }

    /// Returns whether shares have changed since [`ReleaseTable::are_shown`].
    pub fn has_unshown(&self) -> bool {
        self.has_unshown
    }

    /// Records that the gauges show the shares that this worker knows.
    pub fn are_shown(&mut self) {
        self.has_unshown = false;
    }

    /// Shares this worker's observations of the versions, and applies what the other workers and the schedule have
    /// changed. Returns the events that this worker was the first to find.
    pub fn refresh<'p>(&mut self, proxy: &impl Proxy, policy: &'p Policy, now: Time) -> Vec<Event<'p>> {
        let mut events = Vec::new();
        if self.entries.is_empty() {
            return events;
        }
        self.latest = advance(proxy, &self.clock, proxy.date()).max(self.latest);
        let date = self.latest;
        // To read the state of many releases takes milliseconds, so it is read only if there is something to merge.
        let version = proxy.load(&self.key).version;
        if version.is_none() || version != self.merged || self.has_news(policy) {
            self.merged = version;
            self.merge(proxy, policy, now, &mut events);
        }
        for entry in &self.entries {
            let index = entry.release;
            if let (Some(release), Some(split)) = (policy.releases.get(index), self.splits.get_mut(index)) {
                self.has_unshown |= split.update(release, date, now, &entry.rolled_back);
            }
        }
        events
    }

    /// Returns whether this worker has something to share: observations, or a step of a schedule that has begun.
    fn has_news(&self, policy: &Policy) -> bool {
        self.entries.iter().any(|entry| {
            let release = policy.releases.get(entry.release);
            let begun = release.map_or(0, |release| release.schedule.steps_begun(self.latest) as u64);
            entry.has_unshared() || begun > entry.steps_begun
        })
    }

    /// Merges this worker's observations into the shared state. If that cannot be written, the next tick merges them.
    fn merge<'p>(&mut self, proxy: &impl Proxy, policy: &'p Policy, now: Time, events: &mut Vec<Event<'p>>) {
        let ReleaseTable { splits, entries, latest, key, merged: seen, .. } = self;
        let date = *latest;
        let merged = store::update(proxy, key, |known: Option<RollbackStore>| {
            let before = known.unwrap_or_default();
            let mut store = before.clone();
            let merge = |entry: &ReleaseEntry| {
                let release = policy.releases.get(entry.release)?;
                let shares = splits.get(entry.release)?.shares();
                let default_holds = shares.get(release.default).is_some_and(|share| *share > 0);
                entry.merge(release, &mut store, (now, date), default_holds)
            };
            let merged: Vec<Option<MergeResult>> = entries.iter().map(merge).collect();
            (merged, (store != before).then_some(store))
        });
        let Some(merged) = merged else {
            *seen = None;
            return;
        };
        for (entry, merged) in entries.iter_mut().zip(merged) {
            let index = entry.release;
            entry.unshared.fill(Observations::default());
            let Some(MergeResult { rolled_back, begun, findings }) = merged else {
                continue;
            };
            entry.rolled_back = rolled_back;
            entry.steps_begun = *begun.end();
            events.extend(begun.map(|begun| Event::ScheduleStep { policy, release: index, begun }));
            let rolled_back = |finding| Event::RolledBack { policy, release: index, finding };
            events.extend(findings.into_iter().map(rolled_back));
        }
    }
}

impl ReleaseEntry {
    fn has_unshared(&self) -> bool {
        self.unshared.iter().any(|seen| *seen != Observations::default())
    }

    /// Adds this worker's observations to the shared state. Returns `None` if the state belongs to another policy. The
    /// worker then keeps what it knew, for the requests that it still serves.
    ///
    /// `latest` is the shared date, which never goes back.
    fn merge(
        &self,
        release: &Release,
        store: &mut RollbackStore,
        (now, latest): (Time, Date),
        default_holds: bool,
    ) -> Option<MergeResult> {
        let seen = self.has_unshared();
        if seen && store.state(&release.name, self.identity).is_none() {
            store.begin(&release.name, ReleaseState::new(release, self.identity, now, latest));
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

/// Shares the date and returns the latest date that any worker has shared. It never goes back, because a wall clock that
/// is set back must not undo a step.
fn advance(proxy: &impl Proxy, clock: &str, date: Date) -> Date {
    let latest = store::update(proxy, clock, |known: Option<Date>| {
        let known = known.unwrap_or_default();
        (known.max(date), (date > known).then_some(date))
    });
    latest.unwrap_or(date)
}
