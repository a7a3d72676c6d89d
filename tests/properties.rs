//! Property tests of rules of the core that hold for any input.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use graygate::decision::action::Action;
use graygate::decision::probe::health::call::{HealthCall, HealthResponse};
use graygate::decision::release::split::Split;
use graygate::decision::release::{self, AssignmentReason, cookie};
use graygate::decision::{self, Assignment};
use graygate::policy::Policy;
use graygate::policy::release::Release;
use graygate::policy::upstream::UpstreamId;
use graygate::readiness::check::CheckStep;
use graygate::readiness::check::grpc::{self, GrpcResponse};
use graygate::readiness::check::redirect::{self, CheckTarget};
use graygate::readiness::{self, Admission, Permit, Readiness, UpstreamStatus};
use graygate::value::date::Date;
use graygate::value::lifecycle::Lifecycle;
use graygate::value::request::{Headers, Request};
use graygate::value::time::Time;
use graygate::weights::layout::Layout;
use graygate::weights::rotation::Rotation;
use graygate::weights::schedule::{Schedule, WeightChange};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

/// A document with every key there is.
const FULL: &str = include_str!("data/full-policy.json");

mod documents {
    use super::*;

    #[derive(Clone, Debug)]
    enum Mutation {
        Drop,
        Replace(&'static str),
        Rename(&'static str),
        /// Writes the field or the item twice.
        Repeat,
    }

    fn mutation() -> impl Strategy<Value = (Index, Mutation)> {
        let values = select(vec![
            "null",
            "true",
            "0",
            "-1",
            "1",
            "0.5",
            "1e308",
            "18446744073709551616",
            "-9223372036854775808",
            r#""""#,
            r#""\u0000""#,
            r#""\n""#,
            r#""é""#,
            r#""app""#,
            r#""5xx""#,
            r#""9999999999h""#,
            r#""8784h""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""9999-12-31T23:59:60Z""#,
            "[]",
            "[[]]",
            "{}",
            r#"{"":{}}"#,
            r#"{"a":1,"a":2}"#,
            r#"[null,{},"",0]"#,
        ]);
        let keys = select(vec![
            "",
            "name",
            "wieght",
            "match",
            "\u{0}",
            "a.b[0]",
            "é",
            "a rather long key that is far from any known one, by all means",
        ]);
        let mutation = prop_oneof![
            Just(Mutation::Drop),
            values.prop_map(Mutation::Replace),
            keys.prop_map(Mutation::Rename),
            Just(Mutation::Repeat),
        ];
        (any::<Index>(), mutation)
    }

    /// Returns the number of fields and items below a value.
    fn size(value: &Value) -> usize {
        match value {
            Value::Object(fields) => fields.values().map(|value| 1 + size(value)).sum(),
            Value::Array(items) => items.iter().map(|value| 1 + size(value)).sum(),
            _ => 0,
        }
    }

    /// Returns the document's text with the field or item number `at` mutated. A tree could not hold a key
    /// twice, so this writes text.
    fn mutated(value: &Value, at: &mut usize, mutation: &Mutation) -> String {
        let mut parts = Vec::new();
        let (keys, values): (Vec<Option<&String>>, Vec<&Value>) = match value {
            Value::Object(fields) => fields.iter().map(|(key, value)| (Some(key), value)).unzip(),
            Value::Array(items) => items.iter().map(|value| (None, value)).unzip(),
            _ => return value.to_string(),
        };
        for (key, value) in keys.iter().zip(values) {
            let here = *at == 0;
            *at = at.wrapping_sub(1);
            let field = |key: Option<&str>, value: String| match key {
                Some(key) => format!("{}:{value}", Value::from(key)),
                None => value,
            };
            let key = key.map(String::as_str);
            match mutation {
                _ if !here => parts.push(field(key, mutated(value, at, mutation))),
                Mutation::Drop => {}
                Mutation::Replace(text) => parts.push(field(key, (*text).to_owned())),
                Mutation::Rename(name) => parts.push(field(key.map(|_| *name), value.to_string())),
                Mutation::Repeat => {
                    parts.extend([field(key, value.to_string()), field(key, value.to_string())])
                }
            }
        }
        match value {
            Value::Object(_) => format!("{{{}}}", parts.join(",")),
            _ => format!("[{}]", parts.join(",")),
        }
    }

    /// A request that has every header.
    struct AnyHeaders;

    impl Request for AnyHeaders {
        fn header(&self, _: &str) -> Option<Cow<'_, [u8]>> {
            Some(Cow::Borrowed(b"/api"))
        }
    }

    /// No upstream is ready, and no permit is available.
    pub struct NothingReady;

    impl Readiness for NothingReady {
        fn admission(&mut self, upstream: UpstreamId) -> Admission {
            self.status(upstream).admission
        }

        fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
            None
        }

        fn status(&self, upstream: UpstreamId) -> UpstreamStatus {
            let reason = readiness::UpstreamReason::TrialFailed;
            let even = upstream.0.is_multiple_of(2);
            let held_back_since = Some(Time::from_millis(upstream.0 as u64));
            UpstreamStatus {
                admission: if even { Admission::NotReady(reason) } else { Admission::Trial(reason) },
                held_back_since,
                verified: false,
                ..UpstreamStatus::unknown()
            }
        }

        fn lifecycle(&self) -> Lifecycle {
            Lifecycle::default()
        }

        fn now(&self) -> Time {
            Time::default()
        }

        fn date(&self) -> Date {
            Date::default()
        }

        fn random(&mut self) -> u64 {
            0
        }
    }

    /// Reads a document. Checks the problems if it is refused, and uses the policy if it is not.
    fn read(text: &[u8]) -> Result<(), TestCaseError> {
        let problems = match Policy::from_json(text) {
            Ok(policy) => {
                let splits = policy
                    .releases
                    .iter()
                    .map(|release| Split::new(release, Date::default(), Time::default(), &[], 7));
                let mut splits: Vec<_> = splits.collect();
                for _ in 0..3 {
                    decision::decide(&policy, &AnyHeaders, &mut NothingReady, &mut splits);
                }
                return Ok(());
            }
            Err(problems) => problems,
        };
        prop_assert!(problems.iter().count() > 0);
        for problem in problems.iter() {
            prop_assert!(!problem.message.is_empty());
            prop_assert_ne!(&problem.message, "the policy could not be compiled");
            prop_assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
        }
        Ok(())
    }

    proptest! {
        /// Clients may send any bytes to the health service.
        #[test]
        fn any_request_to_the_health_service_gets_a_response(
            start in select(vec![&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x20\x1f\x8b\x08\0\0\0\0\0\0\0"]),
            rest in vec(any::<u8>(), 0..64),
        ) {
            let policy = Policy::from_json(br#"{"name":"p","probes":{"grpc":{"services":[""]}}}"#).unwrap();
            let mut bytes = [start, &rest].concat();
            let mut call = HealthCall::new(true, Some(b"gzip"));
            // The rest is a compressed message of the right length.
            if let (Some(length), Ok(size)) = (bytes.get_mut(1..5), u32::try_from(start.len() + rest.len()))
                && start.len() > 5
            {
                length.copy_from_slice(&(size - 5).to_be_bytes());
            }
            call.receive(&bytes, true);
            prop_assert_ne!(call.outcome(&policy, true), HealthResponse::NoHop);
        }

        /// Another server may send any bytes in response to a check.
        #[test]
        fn any_response_to_a_check_is_judged(
            message in vec(any::<u8>(), 0..64), location in vec(any::<u8>(), 0..64), path in "/[!-~]{0,20}",
        ) {
            let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &message].concat();
            for (compressed, message) in [(0, &message), (1, &message), (1, &gzip)] {
                let length = u8::try_from(message.len()).unwrap();
                let framed = [&[compressed, 0, 0, 0, length][..], message].concat();
                for body in [message, &framed] {
                    let _ = grpc::judge(&GrpcResponse {
                        content_type: b"application/grpc",
                        status: Some(200),
                        from_upstream: true,
                        grpc_status: Some(0),
                        grpc_message: b"",
                        encoding: b"gzip",
                        body,
                    });
                }
            }
            let _ = grpc::requested_service(&message);
            let target = CheckTarget {
                method: "GET",
                scheme: "http".into(),
                authority: "app:80".into(),
                host: None,
                path,
                user: None,
                referer: None,
            };
            let near_valid = [&b"http://app/"[..], &location].concat();
            for location in [&location, &near_valid] {
                if let CheckStep::Follow(next) = redirect::follow("app", &target, 0, 302, location) {
                    prop_assert!(next.path.starts_with('/'), "{next:?}");
                    let sent = [&next.path, &next.authority, next.referer.as_ref().unwrap()];
                    let is_clean = |text: &&String| text.bytes().all(|byte| byte.is_ascii_graphic());
                    prop_assert!(sent.iter().all(is_clean), "{next:?}");
                }
            }
        }
    }

    /// The first and last days of the calendar, days around a leap day, and any other.
    fn date() -> impl Strategy<Value = String> {
        let year = prop_oneof![Just(1969), Just(1970), Just(2100), Just(9999), Just(10_000), 1970..=9999_u32];
        let month = prop_oneof![Just(1), Just(2), Just(12), 0..=13_u32];
        let day = prop_oneof![Just(1), 28..=32_u32];
        let rest = select(vec!["00:00:00Z", "23:59:59.999Z", "23:59:60Z", "12:00:00+00:00", "24:00:00Z"]);
        (year, month, day, rest)
            .prop_map(|(year, month, day, rest)| format!("{year:04}-{month:02}-{day:02}T{rest}"))
    }

    fn span() -> impl Strategy<Value = String> {
        let unit = select(vec!["ms", "s", "m", "h", "d", ""]);
        (prop_oneof![0..=9_000_u64, any::<u64>()], unit).prop_map(|(count, unit)| format!("{count}{unit}"))
    }

    proptest! {
        #[test]
        fn any_dates_and_spans_of_a_schedule_are_read_or_refused_with_a_message(
            start in proptest::option::of(date()), steps in vec((date(), span()), 0..4), today in any::<u64>(),
        ) {
            let steps = steps.iter().map(|(at, over)| {
                serde_json::json!({"at": at, "over": over, "weights": {"v1": 1, "v2": 1}})
            });
            let mut document: Value = serde_json::json!({
                "name": "shop",
                "upstreams": {"one": {"cluster": "one"}, "two": {"cluster": "two"}},
                "releases": [{
                    "name": "web",
                    "steer": {"header": "x-v"},
                    "hashOn": [{"httpHeaderName": "x-user"}],
                    "versions": [
                        {"name": "v1", "upstream": "one", "weight": 1, "default": true},
                        {"name": "v2", "upstream": "two", "weight": 1},
                    ],
                    "schedule": steps.collect::<Vec<_>>(),
                }],
            });
            if let Some(start) = start {
                document["releases"][0]["startsAt"] = start.into();
            }
            let text = document.to_string();
            read(text.as_bytes())?;
            if let Ok(policy) = Policy::from_json(text.as_bytes()) {
                let schedule = &policy.releases[0].schedule;
                for date in [today, 0, Date::LAST.as_millis(), u64::MAX].map(Date::from_millis) {
                    prop_assert_eq!(schedule.at(date).shares(2).iter().sum::<u32>(), 10_000);
                    prop_assert!(!schedule.name(schedule.steps_begun(date)).is_empty());
                    prop_assert!(!date.to_string().is_empty());
                }
                prop_assert!(!schedule.has_pending_changes(Date::LAST));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]

        #[test]
        fn mutated_documents_are_read_or_refused_with_a_message((first, mutation) in mutation(), (second, again) in mutation()) {
            let document: Value = serde_json::from_str(FULL).unwrap();
            let once = mutated(&document, &mut first.index(size(&document)), &mutation);
            read(once.as_bytes())?;
            if let Ok(document @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(&once)
                && size(&document) > 0
            {
                read(mutated(&document, &mut second.index(size(&document)), &again).as_bytes())?;
            }
        }

        #[test]
        fn truncated_or_corrupted_documents_are_read_or_refused_with_a_message(at in any::<Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut text = FULL.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            if cut {
                text.truncate(at);
            }
            read(&text)?;
        }
    }
}

mod releases {
    use proptest::collection::SizeRange;

    use super::documents::NothingReady;
    use super::*;

    struct User(Vec<u8>);

    impl Request for User {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == "x-user").then_some(Cow::Borrowed(&self.0))
        }
    }

    fn release(weights: &[u32]) -> Release {
        let version = |(index, weight): (usize, &u32)| serde_json::json!({"name": format!("v{index}"), "upstream": "a", "weight": weight, "default": index == 0});
        let versions: Vec<_> = weights.iter().enumerate().map(version).collect();
        let document = serde_json::json!({"name": "p", "upstreams": {"a": {"cluster": "a"}}, "releases": [
            {"name": "reviews", "steer": {"header": "x-v"}, "hashOn": [{"httpHeaderName": "x-user"}], "versions": versions}
        ]});
        Policy::from_json(document.to_string().as_bytes()).unwrap().releases.remove(0)
    }

    /// Returns the version of a user, whichever turn it is.
    fn version(release: &Release, key: &[u8]) -> usize {
        let user = User(key.to_vec());
        let mut split = Split::new(release, Date::default(), Time::default(), &[], 0);
        let choice = release::choose(release, &mut Headers::new(&user, &[]), &mut split, &[], Date::default);
        assert_eq!(choice.reason, AssignmentReason::Sticky);
        choice.version
    }

    fn users() -> impl Iterator<Item = Vec<u8>> {
        (0..500).map(|number| format!("user-{number}").into_bytes())
    }

    fn total(weights: &[u32]) -> u64 {
        weights.iter().map(|weight| u64::from(*weight)).sum()
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![Just(0), 1..=100u32];
        let scale = prop_oneof![Just(1), 1..=u32::MAX / 100];
        let weights = (vec(weight, 1..6), scale);
        let weights =
            weights.prop_map(|(weights, scale)| weights.iter().map(|weight| weight * scale).collect());
        weights.prop_filter("no weight at all", |weights: &Vec<u32>| total(weights) > 0)
    }

    /// Returns whether every version has a bucket or no weight, as a policy must.
    fn every_weight_has_a_bucket(weights: &[u32]) -> bool {
        weights.iter().all(|weight| *weight == 0 || u64::from(*weight) * 10_000 >= total(weights))
    }

    fn small_weights() -> impl Strategy<Value = Vec<u32>> {
        vec(0..=60u32, 1..6).prop_filter("no weight at all", |weights| total(weights) > 0)
    }

    /// Returns the version that holds each bucket.
    fn holders(layout: &Layout) -> Vec<usize> {
        layout.ranges().flat_map(|(range, version)| range.map(move |_| version)).collect()
    }

    /// Returns the moves between two layouts, as pairs of versions, bucket by bucket.
    fn moves(before: &Layout, after: &Layout) -> Vec<(usize, usize)> {
        holders(before).into_iter().zip(holders(after)).filter(|(from, to)| from != to).collect()
    }

    /// Returns how many buckets must move for this change of shares.
    fn must_move(before: &Layout, after: &Layout, versions: usize) -> usize {
        let before = before.shares(versions);
        let after = after.shares(versions);
        before.iter().zip(after).map(|(before, after)| before.abs_diff(after) as usize).sum::<usize>() / 2
    }

    /// Takes the step to these weights, and checks what must be true of any step.
    fn stepped(before: &Layout, weights: &[u32]) -> Result<Layout, TestCaseError> {
        let after = before.stepped(weights, 0);
        prop_assert_eq!(after.shares(weights.len()), Layout::of(weights, 0).shares(weights.len()));
        let moves = moves(before, &after);
        prop_assert_eq!(moves.len(), must_move(before, &after, weights.len()));
        let (lose, gain): (BTreeSet<_>, BTreeSet<_>) = moves.into_iter().unzip();
        prop_assert!(lose.is_disjoint(&gain), "{lose:?} {gain:?}");
        Ok(after)
    }

    /// Generates weights for this number of versions.
    fn weights_of(versions: usize) -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![2 => Just(0), 5 => 1..=100u32, 1 => any::<u32>()];
        vec(weight, versions).prop_filter("no weight at all", |weights| total(weights) > 0)
    }

    /// Generates successive weights for the same versions.
    fn successive(count: impl Into<SizeRange> + Clone) -> impl Strategy<Value = Vec<Vec<u32>>> {
        (1..8usize).prop_flat_map(move |versions| vec(weights_of(versions), count.clone()))
    }

    /// Generates weights before and after a part moves between the default version and another, and the indexes of
    /// these two.
    fn shift_to_or_from_the_default(
        versions: core::ops::Range<usize>,
    ) -> impl Strategy<Value = (Vec<u32>, Vec<u32>, usize, usize)> {
        let parts = versions.prop_flat_map(weights_of);
        (parts, any::<(Index, Index, Index)>(), any::<bool>()).prop_filter_map(
            "nothing to move",
            |(before, (default, other, part), gains)| {
                let (default, other) = (default.index(before.len()), other.index(before.len()));
                let (from, to) = if gains { (default, other) } else { (other, default) };
                let most = before[from].min(u32::MAX - before[to]);
                let part = part.index(most as usize + 1) as u32;
                let mut after = before.clone();
                after[from] -= part;
                after[to] += part;
                (part > 0 && from != to).then_some((before, after, default, other))
            },
        )
    }

    /// Generates changes in order, each some time after the end of the one before.
    fn changes(versions: usize) -> impl Strategy<Value = Vec<WeightChange>> {
        let over = prop_oneof![Just(0), 1..100_000u64];
        vec((0..50_000u64, over, weights_of(versions)), 0..4).prop_map(|changes| {
            let mut end = Date::default();
            let change = |(wait, over, weights)| {
                let at = end + Duration::from_millis(wait);
                let over = Duration::from_millis(over);
                end = at + over;
                WeightChange { at, over, weights }
            };
            changes.into_iter().map(change).collect()
        })
    }

    proptest! {
        /// The total may change.
        #[test]
        fn raising_a_weight_moves_nobody_of_that_version(
            mut weights in weights(), which in any::<Index>(), raise in prop_oneof![0..=100u32, any::<u32>()],
        ) {
            prop_assume!(weights.len() <= 3);
            let before = release(&weights);
            let raised = which.index(weights.len());
            weights[raised] = weights[raised].saturating_add(raise);
            prop_assume!(every_weight_has_a_bucket(&weights));
            let after = release(&weights);
            for user in users() {
                prop_assert!(version(&before, &user) != raised || version(&after, &user) == raised);
            }
        }

        #[test]
        fn a_user_gets_the_same_version_on_any_worker_at_any_time(weights in weights(), key in vec(any::<u8>(), 1..100)) {
            let first = version(&release(&weights), &key);
            prop_assert_eq!(version(&release(&weights), &key), first);
            prop_assert!(weights[first] > 0);
        }

        #[test]
        fn shares_are_exact_to_one_bucket(weights in weights()) {
            let shares = Layout::of(&weights, 0).shares(weights.len());
            for (held, weight) in shares.iter().zip(&weights) {
                let exact = u64::from(*weight) * 10_000;
                prop_assert!((u64::from(*held) * total(&weights)).abs_diff(exact) <= total(&weights));
            }
            prop_assert_eq!(shares.iter().sum::<u32>(), 10_000);
        }

        #[test]
        fn any_window_of_a_rotation_is_exact_by_weight(
            weights in small_weights(), factor in 1..=u32::MAX / 60, start in 0..1_000usize, random in any::<u64>(),
        ) {
            let mut rotation = Rotation::new(random);
            // Only the proportions count.
            rotation.set_weights(&weights.iter().map(|weight| weight * factor).collect::<Vec<_>>());
            for _ in 0..start {
                rotation.take();
            }
            let mut counts = vec![0; weights.len()];
            for _ in 0..total(&weights) {
                counts[rotation.take().unwrap()] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }

        /// Weights of up to 2^32 each have rounds that nobody sees the end of. Their turns are even all the same.
        #[test]
        fn turns_are_even_whatever_the_weights(weights in vec(any::<u32>(), 1..60), random in any::<u64>()) {
            prop_assume!(total(&weights) > 0);
            let mut rotation = Rotation::new(random);
            rotation.set_weights(&weights);
            let mut counts = vec![0u64; weights.len()];
            for turn in 1..=2_000u64 {
                counts[rotation.take().unwrap()] += 1;
                if turn % 500 == 0 {
                    for (count, weight) in counts.iter().zip(&weights) {
                        let off = (u128::from(*count) * u128::from(total(&weights))).abs_diff(u128::from(turn) * u128::from(*weight));
                        prop_assert!(off <= 8 * u128::from(total(&weights)), "{count} of {turn}");
                    }
                }
            }
        }

        #[test]
        fn a_step_moves_only_what_must_move_and_no_version_loses_and_gains(weights in successive(2)) {
            stepped(&Layout::of(&weights[0], 0), &weights[1])?;
        }

        #[test]
        fn successive_steps_move_only_what_must_move_while_versions_come_and_go(weights in successive(2..10)) {
            let mut layout = Layout::of(&weights[0], 0);
            for weights in &weights {
                layout = stepped(&layout, weights)?;
            }
            for (version, weight) in weights.last().unwrap().iter().enumerate() {
                prop_assert!(*weight > 0 || !holders(&layout).contains(&version));
            }
        }

        #[test]
        fn two_versions_move_only_what_must_move_without_a_schedule(before in weights_of(2), after in weights_of(2)) {
            for default in [0, 1] {
                let layouts = (Layout::of(&before, default), Layout::of(&after, default));
                prop_assert_eq!(&layouts.1, &Layout::of(&after, 0));
                prop_assert_eq!(moves(&layouts.0, &layouts.1).len(), must_move(&layouts.0, &layouts.1, 2));
                prop_assert_eq!(layouts.0.stepped(&layouts.1.shares(2), default), layouts.1);
            }
        }

        #[test]
        fn a_last_version_of_weight_0_changes_no_bucket(weights in (1..8usize).prop_flat_map(weights_of), default in any::<Index>()) {
            let default = default.index(weights.len());
            let mut with_0 = weights.clone();
            with_0.push(0);
            prop_assert_eq!(holders(&Layout::of(&weights, default)), holders(&Layout::of(&with_0, default)));
        }

        #[test]
        fn a_change_between_the_default_version_and_another_of_three_moves_only_what_must_move(
            (before, after, default, _) in shift_to_or_from_the_default(2..4),
        ) {
            let versions = before.len();
            let (before, after) = (Layout::of(&before, default), Layout::of(&after, default));
            prop_assert_eq!(moves(&before, &after).len(), must_move(&before, &after, versions));
        }

        #[test]
        fn a_change_between_the_default_version_and_the_last_moves_only_what_must_move(
            (before, after, default, other) in shift_to_or_from_the_default(2..8),
        ) {
            let versions = before.len();
            prop_assume!(default + 1 < versions && other + 1 == versions);
            let (before, after) = (Layout::of(&before, default), Layout::of(&after, default));
            prop_assert_eq!(moves(&before, &after).len(), must_move(&before, &after, versions));
        }

        /// The total changes, so all other shares do.
        #[test]
        fn a_raised_weight_of_three_versions_takes_no_user_from_its_version(
            weights in (2..4usize).prop_flat_map(weights_of), which in any::<(Index, Index)>(), raise in any::<u32>(),
        ) {
            let (default, version) = (which.0.index(weights.len()), which.1.index(weights.len()));
            let mut raised = weights.clone();
            raised[version] = raised[version].saturating_add(raise);
            let moves = moves(&Layout::of(&weights, default), &Layout::of(&raised, default));
            prop_assert!(moves.iter().all(|(from, _)| *from != version), "{moves:?}");
        }

        #[test]
        fn a_change_without_a_schedule_moves_at_most_the_minimum_for_each_other_version(
            (before, after, default, _) in shift_to_or_from_the_default(2..8),
        ) {
            let versions = before.len();
            let (before, after) = (Layout::of(&before, default), Layout::of(&after, default));
            let (moved, must) = (moves(&before, &after).len(), must_move(&before, &after, versions));
            prop_assert!(moved >= must && moved <= must * (versions - 1), "{moved} of {must}");
        }

        #[test]
        fn a_ramp_never_moves_a_user_twice(weights in successive(2), whole in 1..1_000u64, mut parts in vec(0..1_000u64, 1..6)) {
            let before = Layout::of(&weights[0], 0);
            let shifts = before.shifts(&weights[1], 0);
            let end = holders(&before.stepped(&weights[1], 0));
            let first = holders(&before);
            let mut last = first.clone();
            parts.retain(|part| *part <= whole);
            parts.sort_unstable();
            for done in parts.into_iter().chain([whole]) {
                let now = holders(&before.shifted(&shifts, done, whole));
                let is_allowed = |bucket: usize| {
                    let has_moved = last[bucket] != first[bucket];
                    if has_moved {
                        now[bucket] == last[bucket]
                    } else {
                        now[bucket] == first[bucket] || now[bucket] == end[bucket]
                    }
                };
                prop_assert!((0..now.len()).all(is_allowed));
                prop_assert!(done < whole || now == end);
                last = now;
            }
        }

        /// The weight must rise by at least a bucket, because any share may be off by one.
        #[test]
        fn a_step_takes_no_bucket_from_a_version_whose_share_rises(
            weights in small_weights(), version in any::<Index>(), raise in 1..=100u32,
        ) {
            let mut raised = weights.clone();
            let version = version.index(weights.len());
            raised[version] += raise;
            let layout = Layout::of(&weights, 0);
            let moves = moves(&layout, &layout.stepped(&raised, 0));
            prop_assert!(moves.iter().all(|(from, _)| *from != version));
        }

        #[test]
        fn shares_follow_the_straight_line_of_a_schedule_at_any_time(
            (first, changes) in (1..6usize).prop_flat_map(|versions| (weights_of(versions), changes(versions))),
            times in vec(0..400_000u64, 1..20),
        ) {
            let schedule = Schedule::new(&first, 0, None, changes.clone());
            prop_assert_eq!(&schedule, &Schedule::new(&first, 0, None, changes.clone()));
            for time in times.into_iter().map(Date::from_millis) {
                let begun = changes.iter().filter(|change| change.at <= time).count();
                let (done, under_way) = changes.split_at(begun.saturating_sub(1));
                let before = done.last().map_or(&first, |change| &change.weights);
                let (now, part) = match under_way.first().filter(|change| change.at <= time) {
                    Some(change) => (&change.weights, match change.over {
                        Duration::ZERO => 1.0,
                        over => (time.since(change.at).as_secs_f64() / over.as_secs_f64()).min(1.0),
                    }),
                    None => (before, 1.0),
                };
                let [before, now] = [before, now].map(|weights| Layout::of(weights, 0).shares(first.len()));
                let shares = schedule.at(time).shares(first.len());
                for (share, (before, now)) in shares.iter().zip(before.iter().zip(&now)) {
                    let line = f64::from(*before) * (1.0 - part) + f64::from(*now) * part;
                    prop_assert!((f64::from(*share) - line).abs() <= 0.5 * (first.len() - 1) as f64 + 1e-6);
                }
                prop_assert_eq!(shares.iter().sum::<u32>(), 10_000);
                prop_assert_eq!(schedule.steps_begun(time), begun);
                prop_assert!(schedule.has_pending_changes(time) || schedule.at(time) == schedule.at(Date::from_millis(u64::MAX)));
            }
        }

        #[test]
        fn buckets_that_are_given_back_go_to_the_heir_only(
            weights in successive(2), version in any::<Index>(), heir in any::<Index>(), whole in 0..1_000u64, parts in vec(0..1_100u64, 2),
        ) {
            let versions = weights[0].len();
            let (version, heir) = (version.index(versions), heir.index(versions));
            let layout = Layout::of(&weights[0], 0).stepped(&weights[1], 0);
            let (less, more) = (parts[0].min(parts[1]), parts[0].max(parts[1]));
            let [less, more, all] = [less, more, whole].map(|done| layout.given_back(version, heir, done, whole));
            for after in [&less, &more, &all] {
                prop_assert!(moves(&layout, after).iter().all(|moved| *moved == (version, heir)));
            }
            prop_assert!(moves(&less, &more).iter().all(|moved| *moved == (version, heir)));
            prop_assert!(version == heir || !holders(&all).contains(&version));
        }
    }

    /// A request with these headers and this path.
    #[derive(Clone, Debug)]
    struct RequestWithHeaders(Vec<(&'static str, Vec<u8>)>);

    impl Request for RequestWithHeaders {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_slice()))
        }
    }

    fn any_request() -> impl Strategy<Value = RequestWithHeaders> {
        let name = select(vec![":path", "cookie", "x-user", "x-v", "x-c", "x-r", "x-tester"]);
        let text = select(vec![
            "id=",
            "692d6720-0000000000009f86",
            "; ",
            "other=",
            "/api",
            "?uid=",
            "v1",
            "v2",
            "\"",
            ",",
        ]);
        let part =
            prop_oneof![3 => text.prop_map(|text| text.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..30)];
        let value = vec(part, 0..6).prop_map(|parts| parts.concat());
        vec((name, value), 0..8).prop_map(RequestWithHeaders)
    }

    /// Returns releases that issue cookies, one for each way to steer.
    fn issuing(weights: &[u32], trusts: bool) -> Policy {
        let version = |(index, weight): (usize, &u32)| serde_json::json!({"name": format!("v{index}"), "upstream": format!("u{index}"), "weight": weight, "default": index == 0});
        let versions: Vec<_> = weights.iter().enumerate().map(version).collect();
        let cluster = |index| (format!("u{index}"), serde_json::json!({"cluster": format!("u{index}")}));
        let upstreams: serde_json::Map<_, _> = (0..weights.len()).map(cluster).collect();
        let steers = [
            ("header", "x-v"),
            ("clusterHeader", "x-c"),
            ("randomValueHeader", "x-r"),
            ("filterState", "envoy.string"),
        ];
        let release = |(index, (way, value)): (usize, (&str, &str))| {
            let cookie =
                serde_json::json!({"name": if index % 2 == 0 { "id" } else { "other" }, "ttl": "1h"});
            let trusts = trusts && way.ends_with("eader") && way != "randomValueHeader";
            serde_json::json!({"name": format!("r{index}"), "steer": {way: value}, "trustIncoming": trusts,
                "hashOn": [{"httpHeaderName": "x-user"}, {"httpQueryParameterName": "uid"}, {"httpCookie": cookie}], "versions": versions})
        };
        let releases: Vec<_> = steers.into_iter().enumerate().map(release).collect();
        let document = serde_json::json!({"name": "p", "upstreams": upstreams, "releases": releases});
        Policy::from_json(document.to_string().as_bytes()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_round_is_exact_on_any_worker(weights in small_weights(), random in any::<u64>()) {
            prop_assume!(every_weight_has_a_bucket(&weights));
            let release = release(&weights);
            let mut split = Split::new(&release, Date::default(), Time::default(), &[], random);
            for _ in 0..3 {
                let mut counts = vec![0; weights.len()];
                for _ in 0..total(&weights) {
                    counts[split.turn().unwrap()] += 1;
                }
                prop_assert_eq!(&counts, &weights);
            }
            prop_assert_eq!(split.layout(), &Layout::of(&weights, 0));
        }

        #[test]
        fn releases_that_issue_cookies_accept_any_request(
            weights in vec(20..=60u32, 1..5), trusts in any::<bool>(), random in any::<u64>(), requests in vec(any_request(), 1..30),
        ) {
            let policy = issuing(&weights, trusts);
            let split = |release| Split::new(release, Date::default(), Time::default(), &[], random);
            let mut splits: Vec<_> = policy.releases.iter().map(split).collect();
            for request in requests {
                let decision = decision::decide(&policy, &request, &mut NothingReady, &mut splits);
                let Action::Forward(edits) = decision.action else {
                    return Err(TestCaseError::fail("not forwarded"));
                };
                let cookies = edits.response.iter().filter(|edit| edit.header == "set-cookie").count();
                prop_assert!(cookies <= 2, "{edits:?}");
                prop_assert_eq!(decision.assignments.len(), policy.releases.len());
                for Assignment { choice, .. } in &decision.assignments {
                    let issued = choice.issued.as_ref().map(|issued| issued.key.as_bytes());
                    prop_assert!(issued.is_none_or(|key| cookie::issued_at(key).is_some()));
                    prop_assert!(choice.issued.is_none() || choice.reason == AssignmentReason::Rotation);
                    prop_assert_eq!(choice.key.is_some(), choice.reason == AssignmentReason::Sticky);
                }
            }
        }
    }
}

mod gates {
    use super::*;

    /// One gated upstream, as three values:
    ///
    /// - the time since which it has not been ready, if it is not;
    /// - whether `force` makes it not ready;
    /// - whether its gate fails open when all gated upstreams are not ready.
    type Gated = (Option<u64>, bool, bool);

    struct GatedReadiness(Vec<Gated>);

    impl Readiness for GatedReadiness {
        fn admission(&mut self, upstream: UpstreamId) -> Admission {
            self.status(upstream).admission
        }

        fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
            None
        }

        fn status(&self, upstream: UpstreamId) -> UpstreamStatus {
            let held_back_since = self.0[upstream.0].0.map(Time::from_millis);
            UpstreamStatus {
                admission: match self.0[upstream.0] {
                    (None, false, _) => Admission::Ready,
                    _ => Admission::NotReady(readiness::UpstreamReason::TrialFailed),
                },
                held_back_since,
                ..UpstreamStatus::unknown()
            }
        }

        fn lifecycle(&self) -> Lifecycle {
            Lifecycle::default()
        }

        fn now(&self) -> Time {
            Time::default()
        }

        fn date(&self) -> Date {
            Date::default()
        }

        fn random(&mut self) -> u64 {
            0
        }
    }

    struct Path(String);

    impl Request for Path {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == ":path").then_some(Cow::Borrowed(self.0.as_bytes()))
        }
    }

    /// Returns which upstreams are gated.
    fn gated(percent: u32, upstreams: &[Gated]) -> Vec<bool> {
        let each = |entry: fn(usize, &Gated) -> Value| {
            upstreams.iter().enumerate().map(move |(index, gated)| entry(index, gated))
        };
        let named = each(|index, (_, forced, _)| {
            let force = if *forced { "notReady" } else { "none" };
            serde_json::json!({format!("u{index}"): {"cluster": "c", "force": force}})
        });
        let named: serde_json::Map<_, _> =
            named.flat_map(|value| value.as_object().unwrap().clone()).collect();
        let gates: Vec<_> = each(|index, (.., forward)| {
            let way = if *forward { "forward" } else { "reply" };
            serde_json::json!({"upstream": format!("u{index}"), "whenAllNotReady": way,
                "match": [{"uri": {"exact": format!("/{index}")}}]})
        })
        .collect();
        let document =
            serde_json::json!({"name": "p", "upstreams": named, "gates": gates, "maxGatedPercent": percent});
        let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
        let mut known = GatedReadiness(upstreams.to_vec());
        let mut is_gated = |index: usize| {
            let decision = decision::decide(&policy, &Path(format!("/{index}")), &mut known, &mut []);
            let replied = matches!(decision.action, Action::Reply(_));
            // A closed gate that does not reply records a bypass.
            let closed = known.admission(UpstreamId(index)) != Admission::Ready;
            assert_eq!(decision.bypasses.len(), usize::from(closed && !replied));
            replied
        };
        (0..upstreams.len()).map(&mut is_gated).collect()
    }

    proptest! {
        #[test]
        fn gates_hold_for_at_most_the_maximum_and_only_for_closed_upstreams(
            percent in 1..=100u32,
            upstreams in vec((prop::option::of(0..100u64), prop::bool::weighted(0.1), any::<bool>()), 1..9),
        ) {
            let gated = gated(percent, &upstreams);
            let count = gated.iter().filter(|gated| **gated).count();
            let closed = upstreams.iter().filter(|(since, forced, _)| since.is_some() || *forced).count();
            let forced = upstreams.iter().filter(|(_, forced, _)| *forced).count();
            let most = (upstreams.len() * percent as usize / 100).max(1);
            prop_assert!(count <= most.max(forced));
            let mut order: Vec<_> = upstreams
                .iter()
                .enumerate()
                .filter(|(_, (since, forced, _))| since.is_some() || *forced)
                .map(|(index, (since, forced, _))| (!forced, *since, index))
                .collect();
            order.sort_unstable();
            for (rank, (free, _, index)) in order.iter().enumerate() {
                let all = closed == upstreams.len() && upstreams[*index].2;
                prop_assert_eq!(gated[*index], !*free || (!all && rank < most));
            }
            for (index, (since, forced, forward)) in upstreams.iter().enumerate() {
                prop_assert!(gated[index] || !forced);
                prop_assert!(!gated[index] || since.is_some() || *forced);
                let all = closed == upstreams.len() && *forward;
                if all && !forced {
                    prop_assert!(!gated[index]);
                } else if closed <= most {
                    prop_assert_eq!(gated[index], since.is_some() || *forced);
                }
            }
        }
    }
}

mod index {
    use super::*;

    struct RequestTo {
        path: String,
        authority: String,
    }

    impl Request for RequestTo {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            match name {
                ":path" => Some(Cow::Borrowed(self.path.as_bytes())),
                ":authority" => Some(Cow::Borrowed(self.authority.as_bytes())),
                _ => None,
            }
        }
    }

    /// Generates paths of few letters, so that many are prefixes of each other.
    fn path() -> impl Strategy<Value = String> {
        vec(select(vec!['/', 'a', 'b']), 0..5)
            .prop_map(|letters| format!("/{}", letters.into_iter().collect::<String>()))
    }

    fn alternative() -> impl Strategy<Value = Value> {
        let uri = (select(vec!["exact", "prefix", "regex", "none"]), path(), any::<bool>());
        let authority = select(vec!["a", "b", "c", "none"]);
        let hosts = vec(select(vec!["a", "b:80", "a.b", "A.b.svc", "*.b", "*"]), 0..3);
        (uri, authority, hosts).prop_map(|((kind, path, any_case), authority, hosts)| {
            let mut conditions = serde_json::json!({"ignoreUriCase": any_case});
            if !hosts.is_empty() {
                conditions["hosts"] = serde_json::json!(hosts);
            }
            if kind != "none" {
                conditions["uri"] = serde_json::json!({kind: path});
            }
            match authority {
                "c" => conditions["authority"] = serde_json::json!({"prefix": "a"}),
                "none" if kind == "none" => conditions["method"] = serde_json::json!({"exact": "GET"}),
                "none" => {}
                authority => conditions["authority"] = serde_json::json!({"exact": authority}),
            }
            conditions
        })
    }

    proptest! {
        #[test]
        fn an_index_finds_every_match_once_and_in_order(
            matches in vec(vec(alternative(), 0..3), 1..12), path in path(),
            authority in select(vec!["a", "b", "ab", "A:80", "B:80", "a.b.", "a.b.svc.cluster.local:80", "c.b"]),
        ) {
            let gates: Vec<Value> =
                matches.iter().map(|matches| serde_json::json!({"match": matches, "upstream": "u"})).collect();
            let document = serde_json::json!({"name": "p", "upstreams": {"u": {"cluster": "u"}}, "gates": gates});
            let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
            let to = RequestTo { path, authority: authority.to_owned() };
            let found = policy.gate_index.find(&mut Headers::new(&to, &[])).into_owned();
            prop_assert!(found.is_sorted_by(|one, next| one < next), "{:?}", found);
            for (index, gate) in policy.gates.iter().enumerate() {
                let holds = gate.matches.hold(&mut Headers::new(&to, &[]));
                prop_assert!(!holds || found.contains(&index), "{}: {:?}", index, found);
            }
        }
    }
}

/// The members of `baggage`.
mod members {
    use super::*;
    use graygate::value::baggage::{self, MAX_BYTES, MAX_MEMBERS};
    use graygate::value::string_match::{Pattern, StringMatch};

    /// Texts of parts from which headers are made that nearly have the member `lane`, and any bytes.
    fn header() -> impl Strategy<Value = Vec<u8>> {
        let part = select(vec![
            "lane", "lane", "=", "=", "v1", "v2", ",", ",", ";", " ", "\t", "%76", "%", "a", "\"", "\\", "ä",
        ]);
        prop_oneof![
            4 => vec(part, 0..40).prop_map(|parts| parts.concat().into_bytes()),
            1 => vec(any::<u8>(), 0..200),
            1 => (0..80usize, 0..9_000usize).prop_map(|(members, bytes)| {
                format!("{}{}", "a=b,".repeat(members), "x".repeat(bytes)).into_bytes()
            }),
        ]
    }

    /// Returns the parts between commas that do not have this key, in order.
    fn others(baggage: &[u8]) -> Vec<Vec<u8>> {
        let is_lane = |part: &&[u8]| {
            let end = part.iter().position(|byte| *byte == b'=');
            end.is_some_and(|end| part[..end].trim_ascii() == b"lane")
        };
        baggage.split(|byte| *byte == b',').filter(|part| !is_lane(part)).map(<[u8]>::to_vec).collect()
    }

    /// The same without blanks at the ends and without empty parts, as the first or last member may be gone.
    fn trimmed(parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| part.trim_ascii().to_vec()).filter(|part| !part.is_empty()).collect()
    }

    proptest! {
        #[test]
        fn a_member_is_written_once_and_read_back_and_others_stay_as_they_are(
            before in header(), value in select(vec!["v1", "v2", "v1.2_rc-3"]),
        ) {
            let Ok(after) = baggage::with(&before, "lane", value) else {
                let is_large = before.len() + "lane=v1.2_rc-3,".len() > MAX_BYTES
                    || before.split(|byte| *byte == b',').count() >= MAX_MEMBERS;
                prop_assert!(is_large || core::str::from_utf8(&before).is_err());
                return Ok(());
            };
            if others(&before) != [b" ".to_vec()] {
                prop_assert_eq!(trimmed(&others(&after)), trimmed(&others(&before)));
            }
            prop_assert_eq!(after.split(|byte| *byte == b',').count(), others(&after).len() + 1);
            let again = baggage::with(&after, "lane", value);
            prop_assert_eq!(again.as_deref(), Ok(&*after));
            if after.len() <= MAX_BYTES && after.split(|byte| *byte == b',').count() <= MAX_MEMBERS {
                let read = baggage::value(&after, "lane");
                prop_assert_eq!(read.as_deref(), Some(value.as_bytes()));
            }
            prop_assert_eq!(baggage::without(&after, &["none".to_owned()]), None);
            let keys = ["lane".to_owned()];
            let gone = baggage::without(&after, &keys).unwrap();
            prop_assert_eq!(trimmed(&others(&gone)), trimmed(&others(&before)));
            prop_assert_eq!(baggage::without(&gone, &keys), None);
        }

        #[test]
        fn the_pattern_of_a_route_holds_for_exactly_the_version_that_is_written(
            before in header(), version in select(vec!["v1", "v2", "v1.2"]),
        ) {
            let pattern = |version: &str| {
                StringMatch::Regex(Pattern::compile(&baggage::pattern("lane", version), false).unwrap())
            };
            if let Ok(after) = baggage::with(&before, "lane", version) && after.len() < 2_000 {
                for other in ["v1", "v2", "v1.2", "v1x2"] {
                    prop_assert_eq!(pattern(other).holds(Some(&after), false), other == version, "{:?}", after);
                }
            }
        }

        #[test]
        fn no_bytes_and_no_key_make_reading_or_writing_panic(before in vec(any::<u8>(), 0..300), key in "\\PC{0,5}") {
            let value = baggage::value(&before, &key);
            prop_assert!(value.is_none_or(|value| value.len() <= before.len()));
            let _ = baggage::with(&before, &key, "v1");
            let rest = baggage::without(&before, std::slice::from_ref(&key));
            prop_assert!(rest.is_none_or(|rest| rest.len() < before.len()));
        }
    }
}
