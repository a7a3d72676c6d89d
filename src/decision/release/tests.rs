use std::borrow::Cow;
use std::collections::BTreeSet;

use super::*;
use crate::policy::Policy;
use crate::value::time::Time;
use crate::weights::layout::Layout;

mod golden_vectors;
mod issued_key;
mod precedence;

/// A request with a path and a source.
struct PathAndSource<'t>(&'t str, &'t str);

impl Request for PathAndSource<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == ":path").then_some(Cow::Borrowed(self.0.as_bytes()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.1.as_bytes()))
    }
}

/// Returns the release `reviews` with this one key.
fn keyed(key: &str) -> Release {
    let text = format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews","steer":{{"header":"x-v"}},
        "hashOn":[{key}],"versions":[{{"name":"v1","upstream":"a","weight":1,"default":true}}]}}]}}"#
    );
    Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
}

/// Returns the release `reviews` with these fields besides its name.
fn with(fields: &str) -> Release {
    let text = format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews",{fields}}}]}}"#
    );
    Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
}

fn bucket_of(release: &Release, path: &str, source: &str) -> Option<u16> {
    let request = PathAndSource(path, source);
    choose_for(release, &request).key.map(|(_, hash)| hash::bucket(hash))
}

struct WithHeaders(Vec<(&'static str, Vec<u8>)>);

impl Request for WithHeaders {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_slice()))
    }
}

/// Returns the release `reviews` with versions v1, v2 and so on of these weights. v1 is the default.
fn release(weights: &[u32]) -> Release {
    let version = |(index, weight): (usize, &u32)| {
        let (number, default) = (index + 1, index == 0);
        format!(r#"{{"name":"v{number}","upstream":"a","weight":{weight},"default":{default}}}"#)
    };
    let versions: Vec<_> = weights.iter().enumerate().map(version).collect();
    let text = format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews",
        "steer":{{"header":"x-v"}},"hashOn":[{{"httpHeaderName":"x-user"}},{{"httpCookie":{{"name":"id"}}}}],
        "versions":[{}]}}]}}"#,
        versions.join(",")
    );
    Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
}

/// Returns a release whose versions v2 and v3 match testers and beta testers.
fn release_with_overrides() -> Release {
    let text = br#"{"name":"p","upstreams":{"a":{"cluster":"a"}},"releases":[{"name":"reviews",
        "steer":{"header":"x-v"},"trustIncoming":true,"hashOn":[{"httpHeaderName":"x-user"}],"versions":[
        {"name":"v1","upstream":"a","weight":100,"default":true},
        {"name":"v2","upstream":"a","weight":0,"match":[{"headers":{"x-tester":{}}}]},
        {"name":"v3","upstream":"a","weight":0,"match":[{"headers":{"x-tester":{"exact":"beta"}}},{"headers":{"x-beta":{}}}]}
        ]}]}"#;
    Policy::from_json(text).unwrap().releases.remove(0)
}

fn chosen<'r>(release: &'r Release, headers: &[(&'static str, &[u8])]) -> Choice<'r> {
    let request = WithHeaders(headers.iter().map(|(name, value)| (*name, value.to_vec())).collect());
    choose_for(release, &request)
}

const TODAY: Date = Date::from_millis(1_764_583_200_000);
const NOW: Time = Time::from_millis(60_000);

fn choose_for<'r>(release: &'r Release, request: &impl Request) -> Choice<'r> {
    choose(
        release,
        &mut Headers::new(request, &[]),
        &mut Split::new(release, TODAY, NOW, &[], 0),
        &[],
        || TODAY,
    )
}

/// Returns the version's name and the reason.
fn version_and_reason(release: &Release, headers: &[(&'static str, &[u8])]) -> (String, &'static str) {
    let choice = chosen(release, headers);
    (release.versions[choice.version].name.clone(), choice.reason.code())
}

fn version_of(release: &Release, key: &[u8]) -> usize {
    let choice = chosen(release, &[("x-user", key)]);
    assert_eq!(choice.reason, AssignmentReason::Sticky);
    choice.version
}

mod shares {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Returns a number that looks random, for keys that look like UUIDs.
    fn scrambled(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    fn uuid(number: u64) -> String {
        let (high, low) = (scrambled(number + 1), scrambled(number + 1_000_003));
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }

    fn email(number: u64) -> String {
        format!(
            "{}.{}@{}",
            ["ann", "bob", "eve"][number as usize % 3],
            number / 3,
            ["example.com", "mail.test"][number as usize % 2]
        )
    }

    #[test]
    fn shares_follow_the_weights_within_a_point_for_any_form_of_key() {
        let makers: [fn(u64) -> String; 3] = [|number| number.to_string(), uuid, email];
        for weights in [&[90, 10][..], &[99, 1], &[50, 30, 20]] {
            let release = release(weights);
            for make in makers {
                let mut counts = vec![0i64; weights.len()];
                for number in 0..10_000 {
                    counts[version_of(&release, make(number).as_bytes())] += 1;
                }
                for (count, weight) in counts.iter().zip(weights) {
                    let off = count - i64::from(*weight) * 100;
                    // Two standard deviations of a share of a half.
                    assert!(off.abs() <= 100, "{weights:?} {}: {counts:?}", make(7));
                }
            }
        }
    }

    /// Chi-square over all buckets has 9,999 degrees of freedom, so a standard deviation of 141.4. The limit
    /// is five of them, 707. A more even spread would not be chance either.
    #[test]
    fn keys_are_spread_over_buckets_as_evenly_as_chance() {
        const KEYS: u64 = 200_000;
        let makers: [fn(u64) -> String; 3] = [|number| number.to_string(), uuid, email];
        for make in makers {
            let mut counts = vec![0u64; usize::from(hash::BUCKETS)];
            for number in 0..KEYS {
                let hash = hash::key(hash::seed("reviews"), make(number).as_bytes());
                counts[usize::from(hash::bucket(hash))] += 1;
            }
            let expected = KEYS / u64::from(hash::BUCKETS);
            let squares: u64 = counts.iter().map(|count| count.abs_diff(expected).pow(2)).sum();
            let chi_square = squares / expected;
            assert!(chi_square.abs_diff(9_999) <= 707, "{}: {chi_square}", make(7));
        }
    }

    /// Returns the number of buckets that each version holds.
    fn held(weights: &[u32]) -> Vec<u64> {
        Layout::of(weights, 0).shares(weights.len()).into_iter().map(u64::from).collect()
    }

    #[test]
    fn shares_are_exact_to_one_bucket() {
        assert_eq!(held(&[90, 10]), [9_000, 1_000]);
        assert_eq!(held(&[9_999, 1]), [9_999, 1]);
        assert_eq!(held(&[1, 1, 1]).iter().sum::<u64>(), 10_000);
        for weights in [
            &[1, 1, 1][..],
            &[7, 0, 11, 13],
            &[u32::MAX, 1 << 20],
            &[1 << 20, u32::MAX, u32::MAX],
            &[0, 0, 5, 0],
        ] {
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (held, weight) in held(weights).into_iter().zip(weights) {
                let exact = u64::from(*weight) * 10_000;
                assert!((held * total).abs_diff(exact) <= total, "{weights:?}: {held}");
                assert!(*weight > 0 || held == 0, "{weights:?}: {held}");
            }
        }
    }

    #[test]
    fn raising_one_of_two_weights_moves_exactly_that_many_buckets() {
        let mut before: Option<(u32, Layout)> = None;
        for weight in 0..=100 {
            let after = Layout::of(&[100 - weight, weight], 0);
            if let Some((lower, before)) = &before {
                let moved: Vec<_> = (0..hash::BUCKETS)
                    .filter(|bucket| before.holder(*bucket) != after.holder(*bucket))
                    .collect();
                assert_eq!(moved.len() as u32, (weight - lower) * 100);
                assert!(moved.iter().all(|bucket| after.holder(*bucket) == Some(1)));
            }
            before = Some((weight, after));
        }
    }

    #[test]
    fn two_releases_pick_different_users() {
        let (one, mut other) = (release(&[90, 10]), release(&[90, 10]));
        other.seed = hash::seed("ratings");
        let both = (0..10_000).filter(|number: &u64| {
            let key = number.to_string();
            version_of(&one, key.as_bytes()) == 1 && version_of(&other, key.as_bytes()) == 1
        });
        let both = both.count();
        assert!((60..140).contains(&both), "{both}");
    }
}

mod numbers {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const VERSIONS: &str = r#","versions":[{"name":"v1","upstream":"a","weight":90,"default":true,"allow":["bob"]},
        {"name":"v2","upstream":"a","weight":10,"deny":["carol"]}]"#;

    fn random(versions: &str) -> Release {
        with(&format!(
            r#""steer":{{"randomValueHeader":"x-r"}},"hashOn":[{{"httpHeaderName":"x-user"}}]{versions}"#
        ))
    }

    #[test]
    fn the_number_of_a_key_is_its_hash_and_picks_the_version() {
        for versions in [VERSIONS, ""] {
            let release = random(versions);
            for number in 0..200 {
                let user = format!("user-{number}");
                let choice = chosen(&release, &[("x-user", user.as_bytes())]);
                assert_eq!(choice.number, hash::key(release.seed, user.as_bytes()));
                let on_v2 = !versions.is_empty() && choice.number % 100 >= 90;
                assert_eq!((choice.version, choice.reason), (usize::from(on_v2), AssignmentReason::Sticky));
            }
        }
    }

    #[test]
    fn the_number_of_a_turn_picks_its_version_exactly_by_weight() {
        let release = random(VERSIONS);
        let mut split = Split::new(&release, TODAY, NOW, &[], 12_345);
        for _ in 0..5 {
            let mut counts = [0; 2];
            for _ in 0..100 {
                let request = WithHeaders(Vec::new());
                let choice = choose(&release, &mut Headers::new(&request, &[]), &mut split, &[], || TODAY);
                assert_eq!(number::pick(split.weights(), choice.number), Some(choice.version));
                counts[choice.version] += 1;
            }
            assert_eq!(counts, [90, 10]);
        }
    }

    #[test]
    fn without_versions_the_numbers_pass_through_every_remainder() {
        let release = random("");
        let mut split = Split::new(&release, TODAY, NOW, &[], 12_345);
        let mut on_v2 = 0;
        for _ in 0..1_000 {
            let request = WithHeaders(Vec::new());
            let choice = choose(&release, &mut Headers::new(&request, &[]), &mut split, &[], || TODAY);
            on_v2 += u32::from(choice.number % 100 >= 90);
        }
        assert_eq!(on_v2, 100);
    }
}
