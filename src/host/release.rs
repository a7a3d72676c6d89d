//! What one VM holds of the releases: how they divide their requests right now, and what it saw of their
//! versions since it last shared it.

use std::cell::{Cell, RefCell};

use super::worker::LAYOUT;
use super::{abi, store};
use crate::hash;
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::upstream::UpstreamId;
use crate::release::rollback::{Finding, Record, Tally};
use crate::release::split::Split;
use crate::time::Time;

/// All releases of a policy, as one VM has them.
pub struct Releases {
    splits: RefCell<Vec<Split>>,
    slots: RefCell<Vec<Slot>>,
    /// The latest time that a VM of this proxy has seen.
    latest: Cell<Time>,
    clock: String,
}

/// One release that changes while the policy stays.
struct Slot {
    /// Its place in the policy.
    release: usize,
    key: String,
    /// What the policy says of it, as a hash.
    subject: u64,
    seen: Vec<Tally>,
    /// Since when each version is rolled back.
    rolled_back: Vec<Option<Time>>,
}

/// What is to be made known of a release, by this VM and no other.
pub enum News {
    /// Its schedule has come to this step, counted from 1.
    Step(u64),
    /// A version is rolled back.
    RolledBack(Finding),
}

/// By how much time must have gone on to be shared again, in milliseconds.
const GRAIN: u64 = 500;

impl Releases {
    /// As they are at `now`, with what the other VMs know already.
    pub fn new(policy: &Policy, now: Time) -> Self {
        let clock = format!("graygate/{}/clock", policy.name);
        let latest = match policy.releases.iter().any(Release::changes) {
            true => forward(&clock, now),
            false => now,
        };
        let changing = policy.releases.iter().enumerate().filter(|(_, release)| release.changes());
        let slots = changing.map(|(place, release)| {
            let key = format!("graygate/{}/release/{LAYOUT}/{}", policy.name, release.name);
            let subject = hash::digest(0, release);
            store::seed(&key, &Record::new(release, subject, latest));
            let record = store::get(&key).filter(|record: &Record| record.subject == subject);
            let rolled_back = record.map(|record| record.rolled_back()).unwrap_or_default();
            Slot {
                release: place,
                key,
                subject,
                seen: vec![Tally::default(); release.versions.len()],
                rolled_back,
            }
        });
        let slots: Vec<Slot> = slots.collect();
        let splits = policy.releases.iter().enumerate().map(|(place, release)| {
            let slot = slots.iter().find(|slot| slot.release == place);
            let rolled_back = slot.map_or(&[][..], |slot| &slot.rolled_back);
            Split::new(release, latest, rolled_back, abi::random())
        });
        let splits = RefCell::new(splits.collect());
        Releases { splits, slots: RefCell::new(slots), latest: Cell::new(latest), clock }
    }

    /// How each release divides its requests right now.
    pub fn splits(&self) -> &RefCell<Vec<Split>> {
        &self.splits
    }

    /// Notes something of a version.
    pub fn note(&self, release: usize, version: usize, note: impl FnOnce(&mut Tally)) {
        let Ok(mut slots) = self.slots.try_borrow_mut() else {
            return;
        };
        let slot = slots.iter_mut().find(|slot| slot.release == release);
        if let Some(tally) = slot.and_then(|slot| slot.seen.get_mut(version)) {
            note(tally);
        }
    }

    /// Notes the result of a check for each version that the upstream serves and that checks judge.
    pub fn checked(&self, policy: &Policy, id: UpstreamId, passed: bool) {
        let judged = |release: &Release| {
            release.rollback.as_ref().is_some_and(|rollback| rollback.check_failure_percent.is_some())
        };
        for (place, release) in policy.releases.iter().enumerate().filter(|(_, release)| judged(release)) {
            for (version, _) in
                release.versions.iter().enumerate().filter(|(_, version)| version.upstream == id)
            {
                self.note(place, version, |tally| {
                    tally.checks += 1;
                    tally.failed_checks += u64::from(!passed);
                });
            }
        }
    }

    /// Begins anew with each release that this policy has changed, rollbacks and all. Once, when the policy has
    /// come into use: before that, the proxy may still refuse it.
    pub fn take_over(&self, policy: &Policy) {
        let Ok(slots) = self.slots.try_borrow() else {
            return;
        };
        for slot in slots.iter() {
            if let Some(release) = policy.releases.get(slot.release) {
                store::update(&slot.key, |known: Option<Record>| {
                    let other = known.is_none_or(|record| record.subject != slot.subject);
                    ((), other.then(|| Record::new(release, slot.subject, self.latest.get())))
                });
            }
        }
    }

    /// Shares what this VM saw, and takes a look at what follows: from the others, and from time. `share` is told
    /// of each release, by its place, that divides its requests otherwise now; `news` of what happened.
    pub fn refresh(
        &self,
        policy: &Policy,
        now: Time,
        mut share: impl FnMut(usize, &Split),
        mut news: impl FnMut(usize, &Release, News),
    ) {
        let (Ok(mut slots), Ok(mut splits)) = (self.slots.try_borrow_mut(), self.splits.try_borrow_mut())
        else {
            return;
        };
        if slots.is_empty() {
            return;
        }
        let now = forward(&self.clock, now).max(self.latest.get());
        self.latest.set(now);
        for slot in slots.iter_mut() {
            let (Some(release), Some(split)) =
                (policy.releases.get(slot.release), splits.get_mut(slot.release))
            else {
                continue;
            };
            let begun = release.schedule.begun(now) as u64;
            let seen = slot.seen.iter().any(|tally| *tally != Tally::default());
            let shared = store::update(&slot.key, |known: Option<Record>| {
                let before = known.unwrap_or_else(|| Record::new(release, slot.subject, now));
                // A newer policy's. What this one knew stands for the requests that it still serves.
                if before.subject != slot.subject {
                    return ((slot.rolled_back.clone(), Vec::new(), None), None);
                }
                let mut record = before.clone();
                let findings = if seen { record.observed(release, now, &slot.seen) } else { Vec::new() };
                let step = (begun > record.steps).then_some(begun);
                record.steps = record.steps.max(begun);
                let changed = record != before;
                ((record.rolled_back(), findings, step), changed.then_some(record))
            });
            // What could not be shared now, to too many others, is with the next.
            let Some((rolled_back, findings, step)) = shared else {
                continue;
            };
            slot.seen.fill(Tally::default());
            slot.rolled_back = rolled_back;
            if split.update(release, now, &slot.rolled_back) {
                share(slot.release, split);
            }
            let step = step.map(News::Step);
            for event in step.into_iter().chain(findings.into_iter().map(News::RolledBack)) {
                news(slot.release, release, event);
            }
        }
    }
}

/// The time, which never runs back for this proxy: a clock that is set back must not undo a step.
fn forward(clock: &str, now: Time) -> Time {
    let latest = store::update(clock, |known: Option<Time>| {
        let known = known.unwrap_or_default();
        let ahead = now.as_millis() >= known.as_millis().saturating_add(GRAIN);
        (known.max(now), ahead.then_some(now))
    });
    latest.unwrap_or(now)
}
