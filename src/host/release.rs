//! What one VM holds of the releases: how they divide their requests right now, and what it saw of their
//! versions since it last shared it.

use std::cell::{Cell, RefCell};

use super::{abi, store};
use crate::decision::release::split::Split;
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::upstream::UpstreamId;
use crate::rollback::{Observations, ReleaseState, RollbackFinding, RollbackStore};
use crate::value::hash;
use crate::value::time::Time;

/// All releases of a policy, as one VM has them.
pub struct Releases {
    splits: RefCell<Vec<Split>>,
    slots: RefCell<Vec<Slot>>,
    /// When this VM was given the policy.
    configured: Time,
    /// The latest time that it has seen.
    latest: Cell<Time>,
    /// The store's keys: for the book of the policy's name, and for the latest time that any VM has seen.
    book: String,
    clock: String,
}

/// One release that changes while the policy stays.
struct Slot {
    /// Its place in the policy.
    release: usize,
    /// What the policy says of it, as a digest.
    subject: u64,
    seen: Vec<Observations>,
    /// Since when each version is rolled back.
    rolled_back: Vec<Option<Time>>,
}

/// What is to be made known of a release, by this VM and no other.
pub enum News {
    /// So many changes of its schedule have begun.
    Begun(u64),
    /// A version is rolled back.
    RolledBack(RollbackFinding),
}

impl Releases {
    /// As they are at `now`, with what the other VMs know already.
    pub fn new(policy: &Policy, now: Time) -> Self {
        let key = |what: &str| format!("graygate/{}/{what}/{}", policy.name, store::LAYOUT);
        let (book, clock) = (key("releases"), key("clock"));
        store::seed(&book, &RollbackStore::default());
        let latest = match policy.releases.iter().any(Release::changes) {
            true => forward(&clock, now),
            false => now,
        };
        let mut known: RollbackStore = store::get(&book).unwrap_or_default();
        let changing = policy.releases.iter().enumerate().filter(|(_, release)| release.changes());
        let slots = changing.map(|(place, release)| {
            // What is only tried out, in shadow, is not to be found true when it is meant.
            let subject = hash::digest(0, &(release, policy.mode));
            let record = known.record(&release.name, subject);
            let rolled_back = record.map(|record| record.rolled_back()).unwrap_or_default();
            let seen = vec![Observations::default(); release.versions.len()];
            Slot { release: place, subject, seen, rolled_back }
        });
        let slots: Vec<Slot> = slots.collect();
        let splits = policy.releases.iter().enumerate().map(|(place, release)| {
            let slot = slots.iter().find(|slot| slot.release == place);
            let rolled_back = slot.map_or(&[][..], |slot| &slot.rolled_back);
            Split::new(release, latest, now, rolled_back, abi::random())
        });
        Releases {
            splits: RefCell::new(splits.collect()),
            slots: RefCell::new(slots),
            configured: now,
            latest: Cell::new(latest),
            book,
            clock,
        }
    }

    /// How each release divides its requests right now.
    pub fn splits(&self) -> &RefCell<Vec<Split>> {
        &self.splits
    }

    /// Notes something of a version.
    pub fn note(&self, release: usize, version: usize, note: impl FnOnce(&mut Observations)) {
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
            let served = release.versions.iter().enumerate().filter(|(_, version)| version.upstream == id);
            for (version, _) in served {
                self.note(place, version, |tally| {
                    tally.checks += 1;
                    tally.failed_checks += u64::from(!passed);
                });
            }
        }
    }

    /// Makes the book this policy's: what is known of a release stays where the policy has not changed it, and
    /// goes otherwise, rollbacks and all. Once, when the policy has come into use: before that, the proxy may
    /// still refuse it. A policy with no such releases does so as well, or one that went would come back as it was.
    pub fn take_over(&self, policy: &Policy) {
        let Ok(slots) = self.slots.try_borrow() else {
            return;
        };
        store::update(&self.book, |known: Option<RollbackStore>| {
            let own = slots.iter().filter_map(|slot| {
                let release = policy.releases.get(slot.release)?;
                Some((release.name.clone(), ReleaseState::new(release, slot.subject, self.latest.get())))
            });
            let known = known.unwrap_or_default();
            let taken = known.adopted_by(self.configured, own.collect());
            ((), taken.filter(|taken| *taken != known))
        });
    }

    /// Shares what this VM saw, and takes a look at what follows: from the others, and from time. `share` is told
    /// of each release, by its place, that divides its requests otherwise now; `news` of what happened.
    pub fn refresh(
        &self,
        policy: &Policy,
        now: Time,
        mut share: impl FnMut(usize, &Split),
        mut news: impl FnMut(usize, News),
    ) {
        let (Ok(mut slots), Ok(mut splits)) = (self.slots.try_borrow_mut(), self.splits.try_borrow_mut())
        else {
            return;
        };
        if slots.is_empty() {
            return;
        }
        let latest = forward(&self.clock, now).max(self.latest.get());
        self.latest.set(latest);
        let shared = store::update(&self.book, |known: Option<RollbackStore>| {
            let before = known.unwrap_or_default();
            let mut book = before.clone();
            let learn = |slot: &Slot| {
                let release = policy.releases.get(slot.release)?;
                let shares = splits.get(slot.release)?.shares();
                let default_holds = shares.get(release.default).is_some_and(|share| *share > 0);
                slot.learn(release, &mut book, (now, latest), default_holds)
            };
            let learnt: Vec<Option<Learnt>> = slots.iter().map(learn).collect();
            (learnt, (book != before).then_some(book))
        });
        // What could not be shared now, to too many others, is with the next.
        let Some(learnt) = shared else {
            return;
        };
        for (slot, learnt) in slots.iter_mut().zip(learnt) {
            let (Some(release), Some(split)) =
                (policy.releases.get(slot.release), splits.get_mut(slot.release))
            else {
                continue;
            };
            slot.seen.fill(Observations::default());
            let own = learnt.is_some();
            let (rolled_back, all_news) = learnt.unwrap_or_else(|| (slot.rolled_back.clone(), Vec::new()));
            slot.rolled_back = rolled_back;
            if split.update(release, latest, now, &slot.rolled_back) && own {
                share(slot.release, split);
            }
            for event in all_news {
                news(slot.release, event);
            }
        }
    }
}

/// What a look at the book tells of a release: since when each version is rolled back, and what is new.
type Learnt = (Vec<Option<Time>>, Vec<News>);

impl Slot {
    /// Writes what this VM saw into the book, and gives what follows. Nothing where the book is another policy's:
    /// what this one knew stands for the requests that it still serves. `now` is by the proxy's own clock, `latest`
    /// never runs back.
    fn learn(
        &self,
        release: &Release,
        book: &mut RollbackStore,
        (now, latest): (Time, Time),
        default_holds: bool,
    ) -> Option<Learnt> {
        let seen = self.seen.iter().any(|tally| *tally != Observations::default());
        if seen && book.record(&release.name, self.subject).is_none() {
            book.begin(&release.name, ReleaseState::new(release, self.subject, latest));
        }
        let record = book.record(&release.name, self.subject)?;
        let findings = match seen {
            true => record.on_observations(release, now, &self.seen, default_holds),
            false => Vec::new(),
        };
        let begun = release.schedule.begun(latest) as u64;
        let begins = (begun > record.begun).then_some(News::Begun(begun));
        record.begun = record.begun.max(begun);
        let news = begins.into_iter().chain(findings.into_iter().map(News::RolledBack));
        Some((record.rolled_back(), news.collect()))
    }
}

/// The time, which never runs back for this proxy: a clock that is set back must not undo a step.
fn forward(clock: &str, now: Time) -> Time {
    let latest = store::update(clock, |known: Option<Time>| {
        let known = known.unwrap_or_default();
        (known.max(now), (now > known).then_some(now))
    });
    latest.unwrap_or(now)
}
