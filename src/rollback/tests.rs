use super::*;
use crate::policy::Policy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NONE: Observations = Observations { responses: 0, failures: 0, slow: 0, checks: 0, failed_checks: 0 };

/// v1 90 and the default, v2 10, with this `rollback`.
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

fn seen(responses: u64, failures: u64) -> Observations {
    Observations { responses, failures, ..NONE }
}

/// A record that takes counts of v1 and v2, second by second.
struct Watch {
    release: Release,
    record: ReleaseState,
    second: u64,
    default_holds: bool,
}

impl Watch {
    fn new(release: Release) -> Self {
        let record = ReleaseState::new(&release, 7, at(0));
        Watch { release, record, second: 0, default_holds: true }
    }

    /// What follows from these counts, after so many seconds.
    fn after(&mut self, seconds: u64, v1: Observations, v2: Observations) -> Option<RollbackFinding> {
        self.second += seconds;
        let findings =
            self.record.on_observations(&self.release, at(self.second), &[v1, v2], self.default_holds);
        assert!(findings.len() <= 1);
        findings.into_iter().next()
    }
}

#[test]
fn a_version_that_fails_is_rolled_back_once_there_are_enough() {
    let mut watch = Watch::new(failures());
    assert_eq!(watch.after(1, seen(441, 0), seen(49, 49)), None);
    let finding = watch.after(1, seen(9, 0), seen(1, 1)).unwrap();
    assert_eq!((finding.version, finding.cause), (1, RollbackCause::Failures));
    assert_eq!(
        finding.describe(&watch.release),
        "failures 100.0 % of 50 requests, above 5 %; v1 0.0 % of 450"
    );
    assert_eq!(watch.record.rolled_back(), [None, Some(at(2))]);
}

#[test]
fn it_stays_so_and_is_judged_no_more() {
    let mut watch = Watch::new(failures());
    assert!(watch.after(1, seen(900, 0), seen(100, 100)).is_some());
    assert_eq!(watch.after(60, seen(900, 0), seen(100, 100)), None);
    assert_eq!(watch.after(3_600, seen(900, 0), seen(1_000, 0)), None);
    assert_eq!(watch.record.rolled_back(), [None, Some(at(1))]);
}

#[test]
fn what_both_versions_suffer_from_is_nobodys_fault() {
    let mut watch = Watch::new(failures());
    for _ in 0..1_000 {
        assert_eq!(watch.after(1, seen(9, 9), seen(1, 1)), None);
    }
    for _ in 0..1_000 {
        assert_eq!(watch.after(1, seen(1, 1), seen(9, 9)), None);
    }
}

#[test]
fn a_share_that_is_allowed_is_no_reason() {
    let mut watch = Watch::new(failures());
    for _ in 0..1_000 {
        assert_eq!(watch.after(20, seen(900, 0), seen(100, 4)), None);
    }
}

#[test]
fn where_the_default_holds_nothing_the_limit_stands_for_it() {
    let mut watch = Watch { default_holds: false, ..Watch::new(failures()) };
    assert_eq!(watch.after(1, NONE, seen(100, 15)), None);
    assert!(watch.after(1, NONE, seen(100, 15)).is_some());
}

#[test]
fn a_few_good_ones_of_the_default_prove_nothing() {
    let mut watch = Watch::new(failures());
    assert_eq!(watch.after(1, seen(3, 0), seen(100, 30)), None);
}

#[test]
fn the_defaults_past_counts_where_it_has_little_left() {
    let mut watch = Watch::new(failures());
    for _ in 0..20 {
        assert_eq!(watch.after(60, seen(90, 0), seen(10, 0)), None);
    }
    assert_eq!(watch.after(1, seen(2, 0), seen(40, 8)), None);
    assert!(watch.after(1, seen(2, 0), seen(40, 8)).is_some());
}

#[test]
fn a_default_that_is_beyond_the_limit_now_is_no_measure_by_its_past() {
    let mut watch = Watch::new(failures());
    for _ in 0..20 {
        assert_eq!(watch.after(60, seen(90, 0), seen(10, 0)), None);
    }
    assert_eq!(watch.after(1, seen(90, 20), seen(100, 22)), None);
}

#[test]
fn a_sudden_failure_is_not_thinned_out_by_a_good_time_before() {
    let mut watch = Watch::new(release(r#"{"failurePercent":5,"window":"1h"}"#));
    for _ in 0..100 {
        assert_eq!(watch.after(1, seen(900, 0), seen(100, 0)), None);
    }
    assert!(watch.after(1, seen(900, 0), seen(100, 15)).is_some());
}

#[test]
fn little_traffic_is_judged_by_all_it_has() {
    let mut watch = Watch::new(failures());
    let found = (0..100).find_map(|request| watch.after(600, seen(9, 0), seen(1, 1)).map(|_| request));
    assert_eq!(found, Some(49));
}

#[test]
fn while_a_version_has_nothing_the_default_ones_past_is_forgotten() {
    let mut watch = Watch::new(failures());
    for _ in 0..100 {
        assert_eq!(watch.after(60, seen(1_000, 0), NONE), None);
    }
    // From one moment on everything fails, everywhere.
    assert_eq!(watch.after(1, seen(500, 500), seen(60, 60)), None);
}

#[test]
fn a_version_is_judged_by_how_many_of_its_responses_are_slow() {
    let mut watch = Watch::new(release(r#"{"latency":{"percentile":90,"above":"300ms"}}"#));
    let slow = |responses, slow| Observations { responses, slow, ..NONE };
    let finding = watch.after(1, slow(900, 10), slow(100, 40)).unwrap();
    assert_eq!(
        finding.describe(&watch.release),
        "slower than 300ms 40.0 % of 100 requests, above 10 %; v1 1.1 % of 900"
    );
}

#[test]
fn a_version_is_judged_by_the_checks_of_its_upstream() {
    let mut watch = Watch::new(release(r#"{"checks":{"failurePercent":50}}"#));
    let checks = |checks, failed_checks| Observations { checks, failed_checks, ..NONE };
    let found = (1..=20).find_map(|_| watch.after(1, checks(1, 0), checks(1, 1)));
    let words = found.unwrap().describe(&watch.release);
    assert_eq!(words, "failed checks 100.0 % of 9 checks, above 50 %; v1 0.0 % of 9");
}

#[test]
fn another_records_shape_is_the_same_once_it_was_stored() {
    let mut watch = Watch::new(failures());
    watch.after(1, seen(30, 1), seen(20, 19));
    let bytes = postcard::to_allocvec(&watch.record).unwrap();
    assert_eq!(postcard::from_bytes::<ReleaseState>(&bytes).unwrap(), watch.record);
}

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    /// How many of `all` happen that each do with this probability.
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

/// In how many of 1,000 simulated hours a version is rolled back that fails as often as the default one. Each
/// step is so many seconds, with so many requests of v1 and of v2.
fn false_alarms(failing: f64, seconds: u64, v1: u64, v2: u64) -> u64 {
    let (mut chance, mut alarms, mut watch) = (Chance(v1 + v2), 0, Watch::new(failures()));
    for _ in 0..1_000 * 3_600 / seconds {
        let default = seen(v1, chance.of(v1, failing));
        let version = seen(v2, chance.of(v2, failing));
        if watch.after(seconds, default, version).is_some() {
            alarms += 1;
            watch = Watch::new(failures());
        }
    }
    alarms
}

#[test]
fn a_version_that_is_no_worse_keeps_its_place_for_a_thousand_hours() {
    let (mut hours, mut alarms) = (0, Vec::new());
    for failing in [0.001, 0.01, 0.05, 0.2] {
        // Busy and quiet; a tenth, half and nearly all of the requests its own.
        for (seconds, v1, v2) in [(10, 45, 5), (60, 9, 1), (20, 10, 10), (20, 2, 18), (60, 1, 19)] {
            hours += 1_000;
            alarms.push((failing, v1, v2, false_alarms(failing, seconds, v1, v2)));
        }
    }
    // Fewer than one in a thousand hours are allowed, and there is no reason for more than a few.
    let count: u64 = alarms.iter().map(|(.., count)| count).sum();
    assert!(count <= 3, "{count} in {hours} hours: {alarms:?}");
}

/// After how many requests a version is rolled back that fails at this rate, a tenth of all requests its own.
fn detected_after(chance: &mut Chance, limit: u32, v1: f64, v2: f64) -> u64 {
    let mut watch = Watch::new(release(&format!(r#"{{"failurePercent":{limit},"window":"60s"}}"#)));
    (1..).find(|_| watch.after(1, seen(9, chance.of(9, v1)), seen(1, chance.of(1, v2))).is_some()).unwrap()
}

#[test]
fn a_version_at_three_times_the_limit_goes_within_twice_the_minimum() {
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
fn a_version_that_always_fails_beside_one_that_never_does_is_found_whatever_the_settings() {
    for window in ["1s", "30s", "60s", "1h"] {
        for minimum in [1, 2, 5, 50] {
            let settings = format!(
                r#"{{"failurePercent":50,"checks":{{"failurePercent":50}},"minimumRequests":{minimum},"window":"{window}"}}"#
            );
            for seconds in [1, 10, 60] {
                let mut watch = Watch::new(release(&settings));
                let found = (0..100).any(|_| watch.after(seconds, seen(1, 0), seen(1, 1)).is_some());
                assert!(found, "responses, {settings}, one in {seconds} s");

                let checks = |failed_checks| Observations { checks: 1, failed_checks, ..NONE };
                let mut watch = Watch::new(release(&settings));
                let found = (0..100).any(|_| watch.after(seconds, checks(0), checks(1)).is_some());
                assert!(found, "checks, {settings}, one in {seconds} s");
            }
        }
    }
}

mod a_book {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rolled_back() -> ReleaseState {
        let mut watch = Watch::new(failures());
        assert!(watch.after(1, seen(900, 0), seen(100, 100)).is_some());
        watch.record
    }

    fn fresh(subject: u64) -> Vec<(String, ReleaseState)> {
        vec![("reviews".to_owned(), ReleaseState::new(&failures(), subject, at(9)))]
    }

    fn book() -> RollbackStore {
        RollbackStore { configured: at(1), records: vec![("reviews".to_owned(), rolled_back())] }
    }

    #[test]
    fn keeps_what_has_not_changed() {
        let taken = book().adopted_by(at(2), fresh(7)).unwrap();
        assert_eq!(taken.records, book().records);
        assert_eq!(taken.configured, at(2));
    }

    #[test]
    fn begins_anew_with_what_has() {
        assert_eq!(book().adopted_by(at(2), fresh(8)).unwrap().records, fresh(8));
    }

    #[test]
    fn forgets_what_is_gone_so_that_it_does_not_come_back_as_it_was() {
        let without = book().adopted_by(at(2), Vec::new()).unwrap();
        assert_eq!(without.adopted_by(at(3), fresh(7)).unwrap().records, fresh(7));
    }

    #[test]
    fn is_not_taken_by_an_older_policy() {
        assert_eq!(book().adopted_by(at(0), fresh(8)), None);
    }

    #[test]
    fn begins_with_a_policy_that_is_back_and_keeps_few_of_each_release() {
        let mut book = book();
        for subject in 10..20 {
            book.begin("reviews", ReleaseState::new(&failures(), subject, at(9)));
        }
        book.begin("ratings", ReleaseState::new(&failures(), 7, at(9)));
        let subjects: Vec<u64> = book.records.iter().map(|(_, record)| record.subject).collect();
        assert_eq!(subjects, [16, 17, 18, 19, 7]);
        assert_eq!(book.record("reviews", 19).map(|record| record.rolled_back()), Some(vec![None, None]));
    }

    #[test]
    fn has_a_record_for_those_alone_who_mean_the_same() {
        assert!(book().record("reviews", 7).is_some());
        assert!(book().record("reviews", 8).is_none());
        assert!(book().record("ratings", 7).is_none());
    }
}
