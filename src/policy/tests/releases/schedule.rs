//! Tests of `schedule`.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn each_step_takes_effect_at_its_time() {
    let later = r#"{"at":"2026-12-01T11:00:00Z","over":"2h","weights":{"v2":100,"v1":0}}"#;
    let policy = compile(&with_steps(&format!("{},{later}", step(r#""v1":70,"v2":30"#, ""))));
    let shares = |after: u64| policy.releases[0].schedule.at(TEN + Duration::from_secs(after)).shares(2);
    assert_eq!(policy.releases[0].schedule.at(Date::from_millis(0)), Layout::of(&[90, 10], 0));
    assert_eq!([shares(0), shares(3_599)], [[7_000, 3_000]; 2]);
    assert_eq!(shares(7_200), [3_500, 6_500]);
    assert_eq!(shares(10_800), [0, 10_000]);
}

#[test]
fn each_step_needs_a_time_and_weights() {
    assert_problem_of_release(&[
        (
            with(r#""schedule":{}"#),
            "schedule: an object of 0 fields is not allowed; allowed: a list such as [{at: 2026-12-01T10:00:00Z, weights: {v1: 70, v2: 30}}]",
        ),
        (
            with_steps("1"),
            "schedule[0]: 1 is not allowed; allowed: an object such as {at: 2026-12-01T10:00:00Z, weights: {v1: 70, v2: 30}}",
        ),
        (
            with_steps(r#"{"weights":{"v1":1,"v2":1}}"#),
            "schedule[0].at: missing; add a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z",
        ),
        (with_steps(r#"{"at":"2026-12-01T10:00:00Z"}"#), "schedule[0].weights: missing; add an object"),
        (
            with_steps(&step(r#""v1":1,"v2":1"#, r#","ovr":"1h""#)),
            r#"schedule[0].ovr: unknown field; did you mean "over"?"#,
        ),
    ]);
}

#[test]
fn a_step_must_end_by_the_year_9999() {
    let last = |over: &str| {
        let steps = format!(
            r#"{{"at":"9999-12-31T00:00:00Z","over":"{over}","weights":{{"v1":70,"v2":30}}}},{}"#,
            step(r#""v1":1,"v2":1"#, "")
        );
        with_steps(&steps)
    };
    let late = "schedule[0].over: the step begins at 9999-12-31T00:00:00.000Z and would end after the year 9999. \
                Use an earlier at, or a shorter over.";
    assert_problem_of_release(&[
        (last("48h"), late),
        (last("24h"), late),
        (
            last("23h"),
            "schedule[1]: 2026-12-01T10:00:00.000Z is before the step above has ended. Use at least 9999-12-31T23:00:00.000Z.",
        ),
    ]);
}

#[test]
fn a_step_may_only_name_versions_of_its_release() {
    let stranger = "not a version of this release; allowed: v1, v2";
    assert_problem_of_release(&[
        (with_steps(&step(r#""v1":1,"v3":1"#, "")), &format!("schedule[0].weights.v3: {stranger}")),
        (
            with_steps(&step(r#""v1":1,"v2":1,"v 3":0"#, "")),
            &format!(r#"schedule[0].weights["v 3"]: {stranger}"#),
        ),
        (
            with_steps(&step(r#""v1":1,"v1":2,"v2":1"#, "")),
            "schedule[0].weights.v1: given twice; keep one of them",
        ),
    ]);
}

#[test]
fn a_step_must_name_every_version_that_has_weight_until_then() {
    let missing = |name: &str| {
        format!(
            "weights: {name} is missing, but has weight until then. List every version, with 0 for no weight."
        )
    };
    let gone = step(r#""v1":100,"v2":0"#, "");
    let next = |weights: &str| format!(r#"{{"at":"2026-12-02T10:00:00Z","weights":{{{weights}}}}}"#);
    assert_problem_of_release(&[
        (with_steps(&step(r#""v1":70"#, "")), &format!("schedule[0].{}", missing("v2"))),
        (with_steps(&step("", "")), &format!("schedule[0].{}", missing("v1"))),
        (with_steps(&format!("{gone},{}", next(r#""v2":1"#))), &format!("schedule[1].{}", missing("v1"))),
    ]);
    compile(&with_steps(&format!("{gone},{}", next(r#""v1":1"#))));
}

#[test]
fn the_weights_of_a_step_follow_the_rules_of_versions() {
    let range = "is not allowed; allowed: a whole number from 0 to 4294967295";
    assert_problem_of_release(&[
        (with_steps(&step(r#""v1":-1,"v2":1"#, "")), &format!("schedule[0].weights.v1: -1 {range}")),
        (
            with_steps(&step(r#""v1":"7","v2":1"#, "")),
            r#"schedule[0].weights.v1: "7" is a string. Write it without quotes: 7"#,
        ),
        (with_steps(&step(r#""v1":0.5,"v2":1"#, "")), &format!("schedule[0].weights.v1: 0.5 {range}")),
        (
            with_steps(&step(r#""v1":0,"v2":0"#, "")),
            "schedule[0].weights: the weights are all 0; make at least one larger",
        ),
        (
            with_steps(&step(r#""v1":99996,"v2":4"#, "")),
            "schedule[0].weights.v2: weight 4 is less than 0.01 % of all weights, so it would act as 0. Use 0, or at least that share.",
        ),
    ]);
}

#[test]
fn steps_are_in_order_and_do_not_overlap() {
    let (first, ramp) = (step(r#""v1":70,"v2":30"#, ""), step(r#""v1":70,"v2":30"#, r#","over":"2h""#));
    let at = |time: &str| format!(r#"{{"at":"{time}","weights":{{"v1":1,"v2":1}}}}"#);
    for (above, time, allowed) in [
        (&first, "2026-12-01T09:59:59.999Z", "a time after 2026-12-01T10:00:00.000Z"),
        (&first, "2026-12-01T10:00:00.000Z", "a time after 2026-12-01T10:00:00.000Z"),
        (&ramp, "2026-12-01T10:00:00.000Z", "at least 2026-12-01T12:00:00.000Z"),
        (&ramp, "2026-12-01T11:59:59.999Z", "at least 2026-12-01T12:00:00.000Z"),
    ] {
        assert_problem_of_release(&[(
            with_steps(&format!("{above},{}", at(time))),
            &format!("schedule[1]: {time} is before the step above has ended. Use {allowed}."),
        )]);
    }
    assert_compiles(&[
        with_steps(&format!("{first},{}", at("2026-12-01T10:00:00.001Z"))),
        with_steps(&format!("{ramp},{}", at("2026-12-01T12:00:00Z"))),
    ]);
}

#[test]
fn a_step_before_starts_at_is_refused() {
    let started =
        |at: &str| with(&format!(r#""startsAt":"{at}","schedule":[{}]"#, step(r#""v1":1,"v2":1"#, "")));
    compile(&started("2026-12-01T10:00:00Z"));
    assert_problem_of_release(&[(
        started("2026-12-01T10:00:01Z"),
        "schedule[0]: 2026-12-01T10:00:00.000Z is before startsAt, and until then all requests get the default version. Use 2026-12-01T10:00:01.000Z or later.",
    )]);
}

#[test]
fn steps_take_at_most_a_leap_year_and_there_are_at_most_100() {
    let over = |over: &str| with_steps(&step(r#""v1":1,"v2":1"#, &format!(r#","over":{over}"#)));
    assert_compiles(&[over(r#""0s""#), over(r#""8784h""#)]);
    assert_problem_of_release(&[(over("5"), r#"schedule[0].over: 5 has no unit. Write "5s" for seconds."#)]);
    for bad in [r#""8784h1ms""#, r#""-1s""#] {
        assert_problem_of_release(&[(
            over(bad),
            &format!(
                r#"schedule[0].over: {bad} is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 0s to 8784h"#
            ),
        )]);
    }
    let steps = |count: u32| {
        let step =
            |n: u32| format!(r#"{{"at":"2026-12-01T10:{:02}:00Z","weights":{{"v1":1,"v2":1}}}}"#, n % 60);
        let hour = |n: u32| step(n).replace("T10", &format!("T{}", 10 + n / 60));
        (0..count).map(hour).collect::<Vec<_>>().join(",")
    };
    compile(&with_steps(&steps(100)));
    assert_problem_of_release(&[(
        with_steps(&steps(101)),
        "schedule: 101 entries; allowed: at most 100. List fewer, or cover several by one.",
    )]);
}

#[test]
fn invalid_versions_cause_no_further_problem_with_the_schedule() {
    let schedule = format!(r#""schedule":[{}]"#, step(r#""v1":70,"v2":30"#, ""));
    assert_problem_of_release(&[(
        with_release(&format!(r#"{STEER},"versions":[],{schedule}"#)),
        "versions: empty; add at least one entry",
    )]);
}
