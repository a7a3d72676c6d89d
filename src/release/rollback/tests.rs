use super::*;
use crate::policy::Policy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NONE: Tally = Tally { responses: 0, failures: 0, slow: 0, checks: 0, failed_checks: 0 };

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

fn seen(responses: u64, failures: u64) -> Tally {
    Tally { responses, failures, ..NONE }
}

/// A record that takes counts of v1 and v2, second by second.
struct Watch {
    release: Release,
    record: Record,
    second: u64,
}

impl Watch {
    fn new(release: Release) -> Self {
        let record = Record::new(&release, 7, at(0));
        Watch { release, record, second: 0 }
    }

    /// What follows from these counts, after so many seconds.
    fn after(&mut self, seconds: u64, v1: Tally, v2: Tally) -> Option<Finding> {
        self.second += seconds;
        let findings = self.record.observed(&self.release, at(self.second), &[v1, v2]);
        assert!(findings.len() <= 1);
        findings.into_iter().next()
    }
}

#[test]
fn a_version_that_fails_is_rolled_back_once_there_are_enough() {
    let mut watch = Watch::new(failures());
    assert_eq!(watch.after(1, seen(441, 0), seen(49, 49)), None);
    let finding = watch.after(1, seen(9, 0), seen(1, 1)).unwrap();
    assert_eq!((finding.version, finding.cause), (1, Cause::Failures));
    assert_eq!(finding.words(&watch.release), "failures 100.0 % of 50 requests, above 5 %; v1 0.0 % of 450");
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
fn where_the_default_has_hardly_any_the_threshold_stands_for_it() {
    let mut watch = Watch::new(failures());
    assert_eq!(watch.after(1, NONE, seen(100, 15)), None);
    assert!(watch.after(1, NONE, seen(100, 15)).is_some());

    let mut both = Watch::new(failures());
    assert_eq!(both.after(1, seen(10, 5), seen(500, 250)), None);
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
    let slow = |responses, slow| Tally { responses, slow, ..NONE };
    let finding = watch.after(1, slow(900, 10), slow(100, 40)).unwrap();
    assert_eq!(
        finding.words(&watch.release),
        "slower than 300ms 40.0 % of 100 requests, above 10 %; v1 1.1 % of 900"
    );
}

#[test]
fn a_version_is_judged_by_the_checks_of_its_upstream() {
    let mut watch = Watch::new(release(r#"{"checks":{"failurePercent":50}}"#));
    let checks = |checks, failed_checks| Tally { checks, failed_checks, ..NONE };
    let found = (1..=20).find_map(|_| watch.after(1, checks(1, 0), checks(1, 1)));
    let words = found.unwrap().words(&watch.release);
    assert_eq!(words, "failed checks 100.0 % of 9 checks, above 50 %; v1 0.0 % of 9");
}

#[test]
fn another_records_shape_is_the_same_once_it_was_stored() {
    let mut watch = Watch::new(failures());
    watch.after(1, seen(30, 1), seen(20, 19));
    let bytes = postcard::to_allocvec(&watch.record).unwrap();
    assert_eq!(postcard::from_bytes::<Record>(&bytes).unwrap(), watch.record);
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
    let mut alarms = Vec::new();
    for failing in [0.001, 0.01, 0.05, 0.2] {
        let (busy, quiet) = (false_alarms(failing, 10, 45, 5), false_alarms(failing, 60, 9, 1));
        alarms.push((failing, busy, quiet, false_alarms(failing, 20, 10, 10)));
    }
    // Twelve thousand hours, so fewer than twelve are allowed, and there is no reason for more than one.
    let count: u64 = alarms.iter().map(|(_, busy, quiet, even)| busy + quiet + even).sum();
    assert!(count <= 1, "share of failures, alarms while busy, while quiet, half and half: {alarms:?}");
}

/// After how many requests a version is rolled back that fails at this rate, a tenth of all requests its own.
fn detected_after(chance: &mut Chance, v1: f64, v2: f64) -> u64 {
    let mut watch = Watch::new(failures());
    (1..).find(|_| watch.after(1, seen(9, chance.of(9, v1)), seen(1, chance.of(1, v2))).is_some()).unwrap()
}

#[test]
fn a_version_at_three_times_the_threshold_goes_within_twice_the_minimum() {
    let mut chance = Chance(1);
    let mut runs: Vec<u64> = (0..2_000).map(|_| detected_after(&mut chance, 0.002, 0.15)).collect();
    runs.sort_unstable();
    let (half, most) = (runs[1_000], runs[1_900]);
    assert!(half <= 55 && most <= 100, "half within {half}, 19 of 20 within {most} requests");
}
