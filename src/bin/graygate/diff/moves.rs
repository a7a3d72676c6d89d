//! The users who get another version by a new policy, at the time of the change and at later steps of the schedules.

use std::collections::BTreeSet;

use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::policy::{Mode, Policy};
use graygate::value::date::Date;
use graygate::value::hash;
use graygate::weights::layout::Layout;
use serde::Serialize;

use crate::progress::Progress;
use crate::wording::{describe_date, percent};

/// What happens to the users of a release.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseMoves {
    /// The release.
    pub release: String,
    /// What there is to say in words.
    pub notes: Vec<String>,
    /// The shares and moves at the time of the change, and whenever a schedule comes to rest after it.
    pub moments: Vec<ReleaseMoment>,
}

/// The shares under both policies at one time, and who moves between them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseMoment {
    /// The time.
    pub at: String,
    /// The versions of both policies.
    pub versions: Vec<VersionShares>,
    /// Who moves. `None` if users have another key under the new policy.
    pub moved: Option<Moved>,
}

/// The shares of one version.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionShares {
    /// The version.
    pub version: String,
    /// Its share of all keys under the old policy.
    pub before_percent: f64,
    /// Its share of all keys under the new policy.
    pub after_percent: f64,
}

/// The users of the sample who get another version.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// All of them.
    pub users: u64,
    /// Their share of the sample.
    pub users_percent: f64,
    /// Those who leave a version whose share does not fall.
    pub moved_back_users: u64,
    /// The least share of keys that has to move for the new shares.
    pub must_move_percent: f64,
}

impl ReleaseMoves {
    /// Returns whether a user of the sample moves back at any time.
    pub fn moves_back(&self) -> bool {
        self.moments
            .iter()
            .any(|moment| moment.moved.as_ref().is_some_and(|moved| moved.moved_back_users > 0))
    }
}

/// Returns what happens to the users of each release.
pub fn of(old: &Policy, new: &Policy, date: Date, users: u32) -> Vec<ReleaseMoves> {
    let find =
        |policy: &'_ Policy, name: &str| policy.releases.iter().position(|release| release.name == name);
    let mut found = Vec::new();
    for release in &new.releases {
        let before = find(old, &release.name).and_then(|index| old.releases.get(index));
        found.push(match before {
            Some(before) => both(before, release, date, users),
            None => alone(release, date, "New"),
        });
    }
    let removed = old.releases.iter().filter(|release| find(new, &release.name).is_none());
    for release in removed {
        let mut moves = alone(release, date, "Removed");
        let is_alike = |other: &&Release| {
            let names = |release: &Release| -> Vec<String> {
                release.versions.iter().map(|version| version.name.clone()).collect()
            };
            find(old, &other.name).is_none() && names(other) == names(release)
        };
        if let Some(other) = new.releases.iter().find(is_alike) {
            moves.notes.push(format!(
                "If {} is its new name: the name decides which users get which version, so all users are divided again",
                other.name
            ));
        }
        found.push(moves);
    }
    if old.mode != Mode::Enforce || new.mode != Mode::Enforce {
        for moves in found.iter_mut().filter(|moves| !moves.moments.is_empty()) {
            moves.notes.push(
                "The moves are between decisions. Users get the version of a decision only in mode enforce"
                    .to_owned(),
            );
        }
    }
    found.retain(|moves| !moves.notes.is_empty() || !moves.moments.is_empty());
    found
}

/// Describes a release that only one of the policies has.
fn alone(release: &Release, date: Date, fate: &str) -> ReleaseMoves {
    let layout = release.schedule.at(date);
    let shares = layout.shares(release.versions.len()).into_iter();
    let shares = release.versions.iter().zip(shares).filter(|(_, share)| *share > 0);
    let shares: Vec<String> =
        shares.map(|(version, share)| format!("{} {}", version.name, percent(share))).collect();
    let shares =
        if is_divided_by_route(release) { "as the route divides".to_owned() } else { shares.join(", ") };
    ReleaseMoves {
        release: release.name.clone(),
        notes: vec![format!("{fate} release: {shares}")],
        moments: Vec::new(),
    }
}

fn both(old: &Release, new: &Release, date: Date, users: u32) -> ReleaseMoves {
    let mut moves = ReleaseMoves { release: new.name.clone(), notes: Vec::new(), moments: Vec::new() };
    if is_divided_by_route(old) || is_divided_by_route(new) {
        if old != new {
            moves
                .notes
                .push("The weights of the route decide who moves, and they are not in the policy".to_owned());
        }
        return moves;
    }
    let is_same_key = old.keys == new.keys;
    if !is_same_key {
        moves.notes.push(
            "hashOn differs: users are told apart by another key, so most of them are divided again"
                .to_owned(),
        );
    }
    if old.versions == new.versions && old.schedule == new.schedule && is_same_key {
        return moves;
    }
    let counts = is_same_key.then(|| sample(new, users));
    let later = old.schedule.rests().chain(new.schedule.rests()).filter(|rest| *rest > date);
    let times: BTreeSet<Date> = later.chain([date]).collect();
    moves.moments = times.into_iter().map(|at| moment(old, new, at, counts.as_deref())).collect();
    moves
}

fn is_divided_by_route(release: &Release) -> bool {
    matches!(release.steer, Steer::RandomValueHeader(_))
}

/// Returns how many users of the sample are in each bucket.
fn sample(release: &Release, users: u32) -> Vec<u64> {
    let mut counts = vec![0; usize::from(hash::BUCKETS)];
    let mut progress = Progress::new("users", Some(users.into()));
    for number in 0..users {
        progress.advance();
        let bucket = hash::bucket(hash::key(release.seed, format!("user-{number}").as_bytes()));
        if let Some(count) = counts.get_mut(usize::from(bucket)) {
            *count += 1;
        }
    }
    counts
}

/// Compares the releases at one time. `counts` are the users in each bucket.
fn moment(old: &Release, new: &Release, at: Date, counts: Option<&[u64]>) -> ReleaseMoment {
    let (before, after) = (old.schedule.at(at), new.schedule.at(at));
    let shares = shares(old, &before, new, &after);
    let moved = counts.map(|counts| {
        let falls = |name: &str| shares.iter().any(|(known, before, after)| *known == name && after < before);
        let (mut users, mut moved_back_users) = (0, 0);
        for (bucket, count) in (0..hash::BUCKETS).zip(counts) {
            let (from, to) = (holder(old, &before, bucket), holder(new, &after, bucket));
            if from != to {
                users += count;
                moved_back_users += if falls(from) { 0 } else { *count };
            }
        }
        let must: u32 = shares.iter().map(|(_, before, after)| after.saturating_sub(*before)).sum();
        Moved {
            users,
            users_percent: (users as f64 * 10_000.0 / counts.iter().sum::<u64>().max(1) as f64).round()
                / 100.0,
            moved_back_users,
            must_move_percent: f64::from(must) / 100.0,
        }
    });
    let versions = shares.into_iter().map(|(version, before, after)| VersionShares {
        version: version.to_owned(),
        before_percent: f64::from(before) / 100.0,
        after_percent: f64::from(after) / 100.0,
    });
    ReleaseMoment { at: describe_date(at), versions: versions.collect(), moved }
}

fn holder<'r>(release: &'r Release, layout: &Layout, bucket: u16) -> &'r str {
    let version = layout.holder(bucket).and_then(|index| release.versions.get(index));
    version.map_or("", |version| &version.name)
}

/// Returns the versions of both releases, with their shares before and after in hundredths of a percent.
fn shares<'r>(
    old: &'r Release,
    before: &Layout,
    new: &'r Release,
    after: &Layout,
) -> Vec<(&'r str, u32, u32)> {
    let mut shares: Vec<(&str, u32, u32)> = Vec::new();
    let named = |release: &'r Release, layout: &Layout| {
        let shares = layout.shares(release.versions.len());
        release.versions.iter().map(|version| version.name.as_str()).zip(shares).collect::<Vec<_>>()
    };
    shares.extend(named(old, before).into_iter().map(|(name, share)| (name, share, 0)));
    for (name, share) in named(new, after) {
        match shares.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, _, after)) => *after = share,
            None => shares.push((name, 0, share)),
        }
    }
    shares
}
