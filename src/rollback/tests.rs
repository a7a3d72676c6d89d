use super::*;
use crate::policy::Policy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns what a worker sees without any traffic.
fn none() -> Observations {
    Observations::default()
}

/// Returns a release with this `rollback`, the default version v1 with weight 90, and v2 with weight 10.
fn release(rollback: &str) -> Release {
    let text = format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a","readinessProbe":{{"httpGet":{{}}}}}}}},"releases":[{{
        "name":"reviews","steer":{{"header":"x-v"}},"rollback":{rollback},"versions":[
        {{"name":"v1","upstream":"a","weight":90,"default":true}},{{"name":"v2","upstream":"a","weight":10}}]}}]}}"#
    );
    Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
}

fn failures() -> Release {
    release(r#"{"failurePercent":5,"minimumRequests":50,"window":"60s"}"#)
}

fn at(second: u64) -> Time {
    Time::from_millis(1_000_000 + second * 1_000)
}

/// Returns these counts of responses. Each is of another user.
fn seen(responses: u64, failures: u64) -> Observations {
    let mut seen = none();
    (0..responses).for_each(|number| seen.add_response(None, number < failures, false));
    seen
}

/// Returns these counts of responses, each of another user, of which so many are slow.
fn slow(responses: u64, slow: u64) -> Observations {
    let mut seen = none();
    (0..responses).for_each(|number| seen.add_response(None, false, number < slow));
    seen
}

fn checks(checks: u64, failed: u64) -> Observations {
    let mut seen = none();
    (0..checks).for_each(|number| seen.add_check(number < failed));
    seen
}

/// Returns these counts of responses of each of these users.
fn of_users(users: impl IntoIterator<Item = u64>, responses: u64, failures: u64) -> Observations {
    let mut seen = none();
    for user in users {
        add_user(&mut seen, user, responses, failures);
    }
    seen
}

fn add_user(seen: &mut Observations, user: u64, responses: u64, failures: u64) {
    let user = Some(UserId::new(user << 43));
    (0..responses).for_each(|number| seen.add_response(user, number < failures, false));
}

/// A rollback state and a clock that the test moves.
struct Bench {
    release: Release,
    state: ReleaseState,
    second: u64,
    default_holds: bool,
}

impl Bench {
    fn new(release: Release) -> Self {
        let state = ReleaseState::new(&release, 7, at(0), Date::default());
        Bench { release, state, second: 0, default_holds: true }
    }

    /// Takes these counts after this many seconds, and returns the rollback if there is one.
    fn after(&mut self, seconds: u64, v1: Observations, v2: Observations) -> Option<RollbackFinding> {
        self.second += seconds;
        let findings =
            self.state.on_observations(&self.release, at(self.second), &[v1, v2], self.default_holds);
        assert!(findings.len() <= 1);
        findings.into_iter().next()
    }
}

#[test]
fn a_failing_version_is_rolled_back_once_it_has_the_minimum() {
    let mut bench = Bench::new(failures());
    assert_eq!(bench.after(1, seen(441, 0), seen(49, 49)), None);
    let finding = bench.after(1, seen(9, 0), seen(1, 1)).unwrap();
    assert_eq!((finding.version, finding.cause), (1, RollbackCause::Failures));
    assert_eq!(
        finding.describe(&bench.release),
        "failures 100.0 % of 50 requests, above 5 %; v1 0.0 % of 450"
    );
    assert_eq!(bench.state.rolled_back(), [None, Some(at(2))]);
}

#[test]
fn a_rollback_is_permanent_and_the_version_is_no_longer_judged() {
    let mut bench = Bench::new(failures());
    assert!(bench.after(1, seen(900, 0), seen(100, 100)).is_some());
    assert_eq!(bench.after(60, seen(900, 0), seen(100, 100)), None);
    assert_eq!(bench.after(3_600, seen(900, 0), seen(1_000, 0)), None);
    assert_eq!(bench.state.rolled_back(), [None, Some(at(1))]);
}

#[test]
fn a_problem_of_both_versions_rolls_nothing_back() {
    let mut bench = Bench::new(failures());
    for _ in 0..1_000 {
        assert_eq!(bench.after(1, seen(9, 9), seen(1, 1)), None);
    }
    for _ in 0..1_000 {
        assert_eq!(bench.after(1, seen(1, 1), seen(9, 9)), None);
    }
}

#[test]
fn a_share_within_the_limit_rolls_nothing_back() {
    let mut bench = Bench::new(failures());
    for _ in 0..1_000 {
        assert_eq!(bench.after(20, seen(900, 0), seen(100, 4)), None);
    }
}

#[test]
fn without_a_share_of_the_default_version_the_limit_is_the_comparison() {
    let mut bench = Bench { default_holds: false, ..Bench::new(failures()) };
    assert_eq!(bench.after(1, none(), seen(100, 15)), None);
    assert!(bench.after(1, none(), seen(100, 15)).is_some());
}

#[test]
fn a_few_good_responses_of_the_default_version_are_not_enough() {
    let mut bench = Bench::new(failures());
    assert_eq!(bench.after(1, seen(3, 0), seen(100, 30)), None);
}

#[test]
fn the_default_versions_past_counts_if_it_has_little_traffic_left() {
    let mut bench = Bench::new(failures());
    for _ in 0..20 {
        assert_eq!(bench.after(60, seen(90, 0), seen(10, 0)), None);
    }
    assert_eq!(bench.after(1, seen(2, 0), seen(40, 8)), None);
    assert!(bench.after(1, seen(2, 0), seen(40, 8)).is_some());
}

#[test]
fn the_default_versions_past_does_not_count_while_it_is_above_the_limit() {
    let mut bench = Bench::new(failures());
    for _ in 0..20 {
        assert_eq!(bench.after(60, seen(90, 0), seen(10, 0)), None);
    }
    assert_eq!(bench.after(1, seen(90, 20), seen(100, 22)), None);
}

#[test]
fn a_sudden_failure_is_not_diluted_by_a_good_time_before_it() {
    let mut bench = Bench::new(release(r#"{"failurePercent":5,"window":"1h"}"#));
    for _ in 0..100 {
        assert_eq!(bench.after(1, seen(900, 0), seen(100, 0)), None);
    }
    assert!(bench.after(1, seen(900, 0), seen(100, 15)).is_some());
}

#[test]
fn sparse_traffic_is_judged_by_all_of_it() {
    let mut bench = Bench::new(failures());
    let judged_after = (0..100).find_map(|request| bench.after(600, seen(9, 0), seen(1, 1)).map(|_| request));
    assert_eq!(judged_after, Some(49));
}

#[test]
fn counts_of_the_default_version_expire_while_the_version_has_no_traffic() {
    let mut bench = Bench::new(failures());
    for _ in 0..100 {
        assert_eq!(bench.after(60, seen(1_000, 0), none()), None);
    }
    // From now on everything fails.
    assert_eq!(bench.after(1, seen(500, 500), seen(60, 60)), None);
}

#[test]
fn a_version_is_judged_by_its_share_of_slow_responses() {
    let mut bench = Bench::new(release(r#"{"latency":{"percentile":90,"above":"300ms"}}"#));
    let finding = bench.after(1, slow(900, 10), slow(100, 40)).unwrap();
    assert_eq!(
        finding.describe(&bench.release),
        "slower than 300ms 40.0 % of 100 requests, above 10 %; v1 1.1 % of 900"
    );
}

#[test]
fn a_version_is_judged_by_its_upstreams_checks() {
    let mut bench = Bench::new(release(r#"{"checks":{"failurePercent":50}}"#));
    let finding = (1..=20).find_map(|_| bench.after(1, checks(1, 0), checks(1, 1)));
    let description = finding.unwrap().describe(&bench.release);
    assert_eq!(description, "failed checks 100.0 % of 9 checks, above 50 %; v1 0.0 % of 9");
}

#[test]
fn a_state_survives_serialization() {
    let mut bench = Bench::new(failures());
    bench.after(1, seen(30, 1), seen(20, 19));
    let bytes = postcard::to_allocvec(&bench.state).unwrap();
    assert_eq!(postcard::from_bytes::<ReleaseState>(&bytes).unwrap(), bench.state);
}

/// A random sequence that is the same in every run.
struct Chance(u64);

impl Chance {
    /// Returns how many of `all` events happen, each with this probability.
    fn of(&mut self, all: u64, probability: f64) -> u64 {
        (0..all).filter(|_| self.next() < probability).count() as u64
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Returns in how many of 1,000 simulated hours a version is rolled back that fails as often as the default
/// version. Each step takes this many seconds and has this many requests of v1 and v2.
fn false_alarms(failing: f64, seconds: u64, v1: u64, v2: u64) -> u64 {
    let (mut chance, mut alarms, mut bench) = (Chance(v1 + v2), 0, Bench::new(failures()));
    for _ in 0..1_000 * 3_600 / seconds {
        let default = seen(v1, chance.of(v1, failing));
        let version = seen(v2, chance.of(v2, failing));
        if bench.after(seconds, default, version).is_some() {
            alarms += 1;
            bench = Bench::new(failures());
        }
    }
    alarms
}

#[test]
fn a_version_that_is_no_worse_is_not_rolled_back_in_a_thousand_hours() {
    let (mut hours, mut alarms) = (0, Vec::new());
    for failing in [0.001, 0.01, 0.05, 0.2] {
        // Busy and quiet. The version has a tenth, half or nearly all of the requests.
        for (seconds, v1, v2) in [(10, 45, 5), (60, 9, 1), (20, 10, 10), (20, 2, 18), (60, 1, 19)] {
            hours += 1_000;
            alarms.push((failing, v1, v2, false_alarms(failing, seconds, v1, v2)));
        }
    }
    // At most one in a thousand hours is allowed, and more than a few would be a fault.
    let count: u64 = alarms.iter().map(|(.., count)| count).sum();
    assert!(count <= 3, "{count} in {hours} hours: {alarms:?}");
}

/// Returns after how many of its requests a version is rolled back that fails at this rate. It has a tenth of
/// all requests.
fn detected_after(chance: &mut Chance, limit: u32, v1: f64, v2: f64) -> u64 {
    let mut bench = Bench::new(release(&format!(r#"{{"failurePercent":{limit},"window":"60s"}}"#)));
    (1..).find(|_| bench.after(1, seen(9, chance.of(9, v1)), seen(1, chance.of(1, v2))).is_some()).unwrap()
}

#[test]
fn a_version_at_three_times_the_limit_is_rolled_back_within_twice_the_minimum() {
    let mut chance = Chance(1);
    for (limit, minimum) in [(1, 290), (2, 140), (5, 50), (10, 50), (30, 50)] {
        let (share, runs) = (f64::from(limit) / 100.0, 1_000);
        let mut after: Vec<u64> =
            (0..runs).map(|_| detected_after(&mut chance, limit, share / 25.0, share * 3.0)).collect();
        after.sort_unstable();
        let (half, most) = (after[runs / 2], after[runs * 19 / 20]);
        assert!(
            half <= minimum * 5 / 4 && most <= minimum * 2,
            "limit {limit} %: half within {half}, 19 of 20 within {most} requests"
        );
    }
}

#[test]
fn a_version_that_always_fails_is_rolled_back_whatever_the_settings() {
    for window in ["1s", "30s", "60s", "1h"] {
        for minimum in [1, 2, 5, 50] {
            let settings = format!(
                r#"{{"failurePercent":50,"checks":{{"failurePercent":50}},"minimumRequests":{minimum},"window":"{window}"}}"#
            );
            for seconds in [1, 10, 60] {
                let mut bench = Bench::new(release(&settings));
                let is_rolled_back = (0..100).any(|_| bench.after(seconds, seen(1, 0), seen(1, 1)).is_some());
                assert!(is_rolled_back, "responses, {settings}, one in {seconds} s");

                let mut bench = Bench::new(release(&settings));
                let is_rolled_back =
                    (0..100).any(|_| bench.after(seconds, checks(1, 0), checks(1, 1)).is_some());
                assert!(is_rolled_back, "checks, {settings}, one in {seconds} s");
            }
        }
    }
}

/// The ids of many users of the default version.
const OTHERS: core::ops::Range<u64> = 1_000..1_100;

#[test]
fn one_user_rolls_no_version_back_however_many_responses_are_bad() {
    for (others, bad) in [(0, 100), (0, 10_000), (5, 100), (60, 100), (400, 10_000)] {
        let mut bench = Bench::new(failures());
        for _ in 0..100 {
            let mut v2 = of_users(0..others, 1, 0);
            add_user(&mut v2, 500, bad, bad);
            assert_eq!(bench.after(1, of_users(OTHERS, 10, 0), v2), None, "{others}, {bad}");
        }
    }
}

#[test]
fn two_users_roll_no_version_back_but_three_do() {
    for (users, rolled_back) in [(1, false), (2, false), (3, true), (10, true)] {
        let mut bench = Bench::new(failures());
        let found =
            (0..20).any(|_| bench.after(1, of_users(OTHERS, 1, 0), of_users(0..users, 30, 30)).is_some());
        assert_eq!(found, rolled_back, "{users}");
    }
}

#[test]
fn users_with_many_bad_responses_count_for_as_many_as_the_third() {
    let mut bench = Bench::new(failures());
    let mut v2 = of_users(0..60, 1, 0);
    for (user, bad) in [(100, 500), (101, 200), (102, 4), (103, 1)] {
        add_user(&mut v2, user, bad, bad);
    }
    let finding = bench.after(1, of_users(OTHERS, 2, 0), v2).unwrap();
    assert_eq!(finding.counts, BadCount { all: 73, bad: 13 });
}

#[test]
fn one_user_hides_no_bad_version() {
    for good in [0, 1, 100, 10_000] {
        let mut bench = Bench::new(failures());
        let found = (0..20).find(|_| {
            let mut v2 = of_users(0..10, 2, 1);
            add_user(&mut v2, 500, good, 0);
            bench.after(1, of_users(OTHERS, 1, 0), v2).is_some()
        });
        assert!(found.is_some_and(|second| second <= 4), "{good}: {found:?}");
    }
}

#[test]
fn one_user_of_the_default_version_does_not_change_the_comparison() {
    // The version is bad, and one user of the default version has as many failures.
    let mut bench = Bench::new(failures());
    let mut v1 = of_users(OTHERS, 1, 0);
    add_user(&mut v1, 500, 500, 500);
    assert!(bench.after(1, v1, of_users(0..50, 2, 1)).is_some());
    // Both versions are bad, and one user of the default version has many successes.
    let mut bench = Bench::new(failures());
    let mut v1 = of_users(OTHERS, 2, 1);
    add_user(&mut v1, 500, 100_000, 0);
    assert_eq!(bench.after(1, v1, of_users(0..50, 2, 1)), None);
}

#[test]
fn a_version_that_fails_for_the_only_users_there_are_is_rolled_back_after_the_window() {
    for users in [1, 2] {
        // The default version has no share, or no traffic, or the same users.
        for (default_holds, v1) in [(false, 0), (true, 0), (true, 30)] {
            let mut bench = Bench { default_holds, ..Bench::new(failures()) };
            let after = (1..100)
                .find(|_| bench.after(1, of_users(0..users, v1, 0), of_users(0..users, 30, 30)).is_some());
            assert_eq!(after, Some(60), "{users}, {default_holds}, {v1}");
        }
    }
}

#[test]
fn the_first_user_rolls_no_version_back_before_others_come() {
    let mut bench = Bench { default_holds: false, ..Bench::new(failures()) };
    for _ in 0..59 {
        assert_eq!(bench.after(1, none(), of_users([1], 30, 30)), None);
    }
    let mut both = of_users([2, 3], 1, 0);
    add_user(&mut both, 1, 30, 30);
    assert_eq!(bench.after(1, none(), both), None);
    assert_eq!(bench.after(600, none(), of_users([1], 30, 30)), None);
}

#[test]
fn one_user_with_a_third_of_the_failures_causes_no_false_alarm_in_a_thousand_hours() {
    let (mut chance, mut bench) = (Chance(9), Bench::new(failures()));
    for hour in 0..1_000 {
        for _ in 0..120 {
            let failing = chance.of(30, 0.02);
            let mut v2 = seen(30, failing);
            add_user(&mut v2, 7, 3, 3);
            let v1 = seen(270, chance.of(270, 0.02));
            assert_eq!(bench.after(30, v1, v2), None, "hour {hour}");
        }
    }
}

#[test]
fn a_state_stays_small_with_many_users() {
    let mut bench = Bench::new(release(r#"{"failurePercent":99,"latency":{"percentile":99,"above":"1h"}}"#));
    for second in 0..100 {
        let users = second * 50..second * 50 + 200;
        bench.after(1, of_users(users.clone(), 20, 10), of_users(users, 20, 10));
    }
    let size = postcard::to_allocvec(&bench.state).unwrap().len();
    assert!(size < 1_000, "{size} bytes");
}

mod store {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rolled_back() -> ReleaseState {
        let mut bench = Bench::new(failures());
        assert!(bench.after(1, seen(900, 0), seen(100, 100)).is_some());
        bench.state
    }

    fn fresh(identity: u64) -> Vec<(String, ReleaseState)> {
        vec![("reviews".to_owned(), ReleaseState::new(&failures(), identity, at(9), Date::default()))]
    }

    fn store() -> RollbackStore {
        RollbackStore { configured: at(1), states: vec![("reviews".to_owned(), rolled_back())] }
    }

    #[test]
    fn an_unchanged_release_keeps_its_state() {
        let taken = store().adopted_by(at(2), fresh(7)).unwrap();
        assert_eq!(taken.states, store().states);
        assert_eq!(taken.configured, at(2));
    }

    #[test]
    fn a_changed_release_gets_a_new_state() {
        assert_eq!(store().adopted_by(at(2), fresh(8)).unwrap().states, fresh(8));
    }

    #[test]
    fn a_removed_release_loses_its_state() {
        let without = store().adopted_by(at(2), Vec::new()).unwrap();
        assert_eq!(without.adopted_by(at(3), fresh(7)).unwrap().states, fresh(7));
    }

    #[test]
    fn an_older_policy_does_not_adopt_the_store() {
        assert_eq!(store().adopted_by(at(0), fresh(8)), None);
    }

    #[test]
    fn a_policy_that_came_back_adds_its_state_and_the_oldest_is_dropped() {
        let mut store = store();
        for identity in 10..20 {
            store.begin("reviews", ReleaseState::new(&failures(), identity, at(9), Date::default()));
        }
        store.begin("ratings", ReleaseState::new(&failures(), 7, at(9), Date::default()));
        let subjects: Vec<u64> = store.states.iter().map(|(_, state)| state.identity).collect();
        assert_eq!(subjects, [16, 17, 18, 19, 7]);
        assert_eq!(store.state("reviews", 19).map(|state| state.rolled_back()), Some(vec![None, None]));
    }

    #[test]
    fn a_state_is_found_by_its_release_and_subject() {
        assert!(store().state("reviews", 7).is_some());
        assert!(store().state("reviews", 8).is_none());
        assert!(store().state("ratings", 7).is_none());
    }
}
