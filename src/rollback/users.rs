//! How much of a version's responses each user has had.
//!
//! Each user counts for at most as many bad responses as the user with the third-most of them, and at least for one. The
//! same holds for good responses. So one user can neither roll a version back nor hide that it is bad.
//!
//! If the release has had fewer users, its last one takes the place of the third. A version that fails for the only user
//! there is can then be rolled back.
//!
//! A user is a key of `hashOn`. A request without a key that `match` selects counts for its client's address. Any other
//! request without a key is a user of its own. Requests without a key are dealt out in turn, so the default version gets
//! the same ones.
//!
//! Only the users with the most responses are known, each with a count that is never too high (Misra and Gries, 1982).
//! A user with more than a ninth of the responses is always among them.

use serde::{Deserialize, Serialize};

use super::count::BadCount;

/// The number of users whose bad responses are enough for a rollback. It is the number of clients that a row of
/// failures needs.
pub const ENOUGH_USERS: usize = 3;

/// The maximum number of users that are known for one count.
const MAX_HEAVY: usize = 8;

/// A user, as a part of the hash of its key. The part is small because each worker writes it on its tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserId(u32);

impl UserId {
    /// Returns the user whose key has this hash. The lower bits of the hash select the version, so they tell users of
    /// one version apart less well.
    pub fn new(hash: u64) -> Self {
        UserId((hash >> 43) as u32)
    }
}

/// The users that a release has had, as far as their number matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownUsers {
    ids: Vec<UserId>,
    /// Whether it has had requests that are users of their own.
    has_others: bool,
}

impl KnownUsers {
    /// Adds the user of a request, or `None` if the request is a user of its own.
    pub fn add(&mut self, user: Option<UserId>) {
        match user {
            None => self.has_others = true,
            Some(user) if self.ids.len() < ENOUGH_USERS && !self.ids.contains(&user) => self.ids.push(user),
            Some(_) => {}
        }
    }

    /// Adds the users that a worker has seen.
    pub fn merge(&mut self, other: &KnownUsers) {
        self.has_others |= other.has_others;
        other.ids.iter().for_each(|user| self.add(Some(*user)));
    }

    /// Returns the number of users, at most [`ENOUGH_USERS`]. One request that is a user of its own stands for enough.
    pub fn count(&self) -> usize {
        if self.has_others { ENOUGH_USERS } else { self.ids.len() }
    }
}

/// The users with the most responses of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct HeavyUsers(Vec<(UserId, u64)>);

impl HeavyUsers {
    fn merge(&mut self, more: impl IntoIterator<Item = (UserId, u64)>) {
        for (user, count) in more {
            match self.0.iter_mut().find(|(known, _)| *known == user) {
                Some((_, known)) => *known += count,
                None => self.0.push((user, count)),
            }
        }
        if self.0.len() > MAX_HEAVY {
            self.0.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
            let dropped = self.0.get(MAX_HEAVY).map_or(0, |(_, count)| *count);
            self.0.truncate(MAX_HEAVY);
            self.0.iter_mut().for_each(|(_, count)| *count -= dropped);
            self.0.retain(|(_, count)| *count > 0);
        }
    }

    fn halve(&mut self) {
        self.0.iter_mut().for_each(|(_, count)| *count /= 2);
        self.0.retain(|(_, count)| *count > 0);
    }

    /// Returns how many responses do not count, in a release with so many users.
    fn excess(&self, users: usize) -> u64 {
        let mut counts: Vec<u64> = self.0.iter().map(|(_, count)| *count).collect();
        counts.sort_unstable_by_key(|count| core::cmp::Reverse(*count));
        let last = users.clamp(1, ENOUGH_USERS) - 1;
        let most = counts.get(last).copied().unwrap_or_default().max(1);
        counts.iter().map(|count| count.saturating_sub(most)).sum()
    }
}

/// The responses or checks of a version, and who had them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    count: BadCount,
    good: HeavyUsers,
    bad: HeavyUsers,
}

impl Tally {
    /// Adds a response of this user, or a check.
    pub fn add(&mut self, user: Option<UserId>, bad: bool) {
        self.count.all += 1;
        if bad {
            self.turn_bad(user);
        } else {
            self.good.merge(user.map(|user| (user, 1)));
        }
    }

    /// Makes a response that has counted as good a bad one. The user may keep a good one too many, because the response
    /// may have been shared before.
    pub fn turn_bad(&mut self, user: Option<UserId>) {
        self.count.bad += 1;
        self.bad.merge(user.map(|user| (user, 1)));
    }

    /// Adds what a worker has seen.
    pub fn merge(&mut self, more: &Tally) {
        self.count.add(more.count);
        self.good.merge(more.good.0.iter().copied());
        self.bad.merge(more.bad.0.iter().copied());
    }

    /// Halves all counts.
    pub fn halve(&mut self) {
        self.count = BadCount { all: self.count.all / 2, bad: self.count.bad / 2 };
        self.good.halve();
        self.bad.halve();
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count.all == 0
    }

    /// Returns the responses that count, in a release with so many users.
    pub fn counted(&self, users: usize) -> BadCount {
        let good = self.count.all.saturating_sub(self.count.bad).saturating_sub(self.good.excess(users));
        let bad = self.count.bad.saturating_sub(self.bad.excess(users));
        BadCount { all: good + bad, bad }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn user(number: u32) -> Option<UserId> {
        Some(UserId(number))
    }

    fn heavy(counts: &[(u32, u64)]) -> HeavyUsers {
        let mut users = HeavyUsers::default();
        users.merge(counts.iter().map(|(user, count)| (UserId(*user), *count)));
        users
    }

    #[test]
    fn no_user_counts_for_more_than_the_third() {
        assert_eq!(heavy(&[(1, 90), (2, 50), (3, 20), (4, 10)]).excess(3), 70 + 30);
        assert_eq!(heavy(&[(1, 20), (2, 20), (3, 20)]).excess(3), 0);
        assert_eq!(heavy(&[(1, 90), (2, 50)]).excess(3), 89 + 49);
    }

    #[test]
    fn with_fewer_users_the_last_one_takes_the_place_of_the_third() {
        assert_eq!(heavy(&[(1, 90), (2, 50)]).excess(2), 40);
        assert_eq!(heavy(&[(1, 90)]).excess(2), 89);
        assert_eq!(heavy(&[(1, 90)]).excess(1), 0);
    }

    #[test]
    fn each_user_counts_at_least_once() {
        let mut tally = Tally::default();
        (0..500).for_each(|number| tally.add(user(number), number % 2 == 0));
        for users in 1..=3 {
            assert_eq!(tally.counted(users), BadCount { all: 500, bad: 250 });
        }
    }

    #[test]
    fn requests_that_are_users_of_their_own_all_count() {
        let mut tally = Tally::default();
        (0..500).for_each(|number| tally.add(None, number % 2 == 0));
        assert_eq!(tally.counted(3), BadCount { all: 500, bad: 250 });
    }

    #[test]
    fn a_user_with_much_is_known_among_thousands_and_counts_for_little() {
        for merges in [1, 10, 1_000] {
            let mut tally = Tally::default();
            for part in 0..merges {
                let mut seen = Tally::default();
                for number in 0..4_000 / merges {
                    seen.add(user(10 + part * 4_000 / merges + number), true);
                    seen.add(user(7), true);
                }
                tally.merge(&seen);
            }
            let counted = tally.counted(3).bad;
            assert!((4_001..4_600).contains(&counted), "{counted} after {merges} merges");
        }
    }

    #[test]
    fn a_response_that_breaks_off_is_bad_instead_of_good() {
        let mut tally = Tally::default();
        tally.add(user(1), false);
        tally.turn_bad(user(1));
        assert_eq!(tally.counted(3), BadCount { all: 1, bad: 1 });
        // The beginnings may have been shared before, so nobody knows whose good responses were too many.
        (0..9).for_each(|_| tally.add(user(1), false));
        (0..9).for_each(|_| tally.turn_bad(user(1)));
        assert_eq!(tally.counted(1), BadCount { all: 10, bad: 10 });
    }

    #[test]
    fn users_are_counted_up_to_three() {
        let mut known = KnownUsers::default();
        let counts = [1, 1, 2, 2, 9, 10].map(|number| {
            known.add(user(number));
            known.count()
        });
        assert_eq!(counts, [1, 1, 2, 2, 3, 3]);
        let mut other = KnownUsers::default();
        other.add(None);
        assert_eq!(other.count(), ENOUGH_USERS);
        let mut merged = KnownUsers::default();
        merged.merge(&known);
        assert_eq!(merged, known);
        merged.merge(&other);
        assert!(merged.has_others);
    }
}
