//! Releases: which version a request gets, and why.
//!
//! The order of precedence, stated here once:
//!
//! 1. **incoming**: the version that the steer header already names, where the release trusts it;
//! 2. **match**: the first version, in the document's order, whose own `match` the request meets, whatever
//!    its weight;
//! 3. **sticky**: the version that holds the bucket of the request's key;
//! 4. **rotation**: with no key, each worker deals the versions out in turn, exactly by weight.
//!
//! A version whose upstream is not Ready is then replaced by the default one: **fallback**.

use crate::hash;
use crate::policy::release::{Key, Release};
use crate::request::{self, Headers, Request};

/// Why a request got its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It carried the version from a trusted hop.
    Incoming,
    /// It met the version's own `match`.
    Match,
    /// By the bucket of its key.
    Sticky,
    /// It has no key.
    Rotation,
    /// The version it should have had is not Ready.
    Fallback,
}

impl Reason {
    /// All reasons, for those who count by reason.
    pub const ALL: [Reason; 5] =
        [Reason::Incoming, Reason::Match, Reason::Sticky, Reason::Rotation, Reason::Fallback];

    /// The word in metrics and explanations.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Incoming => "incoming",
            Reason::Match => "match",
            Reason::Sticky => "sticky",
            Reason::Rotation => "rotation",
            Reason::Fallback => "fallback",
        }
    }
}

/// The version that a request should have, by its place in [`Release::versions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'p> {
    /// The version.
    pub version: usize,
    /// Why.
    pub reason: Reason,
    /// For a sticky choice: where the key was found, and its bucket.
    pub bucket: Option<(&'p Key, u16)>,
}

/// Chooses the version for a request that the release is for.
pub fn choose<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    request: &mut Headers<'r, R>,
    rotation: &mut Rotation,
) -> Choice<'p> {
    let by = |version, reason| Choice { version, reason, bucket: None };
    if release.trust_incoming
        && let Some(incoming) = request.get(&release.steer_header)
        && let Some(place) = release.versions.iter().position(|version| version.name.as_bytes() == incoming)
    {
        return by(place, Reason::Incoming);
    }
    if let Some(place) = release.versions.iter().position(|version| version.overrides.any(request)) {
        return by(place, Reason::Match);
    }
    for key in &release.keys {
        if let Some(bucket) = bucket(release, key, request) {
            let version = holder(release, bucket);
            return Choice { version, reason: Reason::Sticky, bucket: Some((key, bucket)) };
        }
    }
    by(rotation.next(release), Reason::Rotation)
}

/// The bucket of the key, if the request has it. An empty key is none: it would put all who have it together.
fn bucket<'r, R: Request>(release: &Release, key: &'r Key, request: &mut Headers<'r, R>) -> Option<u16> {
    let source;
    let value = match key {
        Key::Header(name) => request.get(name),
        Key::Cookie(name) => request.get("cookie").and_then(|header| request::cookie(header, name)),
        Key::QueryParameter(name) => {
            request.get(":path").and_then(|target| request::query_values(target, name).next())
        }
        Key::SourceIp => {
            source = request.source()?.ip().to_string();
            Some(source.as_bytes())
        }
    };
    value.filter(|value| !value.is_empty()).map(|value| hash::bucket(release.seed, value))
}

/// The version that holds a bucket.
fn holder(release: &Release, bucket: u16) -> usize {
    let found = release.bounds.iter().find(|(bound, _)| bucket < *bound);
    found.map_or(release.default, |(_, place)| *place)
}

/// Deals versions out in turn, by smooth weighted round robin: after any number of turns each version is
/// within a turn or so of its exact share, and after as many turns as the weights' total exactly on it.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    credits: Vec<i64>,
}

impl Rotation {
    /// Starts at a place in the cycle that `random` picks. If all started at the same place, the first
    /// requests of every worker of every proxy would all go to the same version.
    pub fn new(release: &Release, random: u64) -> Self {
        let mut rotation = Rotation { credits: vec![0; release.versions.len()] };
        let total: u64 = release.versions.iter().map(|version| u64::from(version.weight)).sum();
        for _ in 0..random % total.clamp(1, u64::from(hash::BUCKETS)) {
            rotation.next(release);
        }
        rotation
    }

    /// The version whose turn it is.
    pub fn next(&mut self, release: &Release) -> usize {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (place, (credit, version)) in self.credits.iter_mut().zip(&release.versions).enumerate() {
            let weight = i64::from(version.weight);
            *credit += weight;
            total += weight;
            // A version of weight 0 never has credit, and so never a turn.
            if weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((place, *credit));
            }
        }
        let place = best.map_or(release.default, |(place, _)| place);
        if let Some(credit) = self.credits.get_mut(place) {
            *credit -= total;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::policy::Policy;

    /// A request from a path and a source.
    struct From<'t>(&'t str, &'t str);

    impl Request for From<'_> {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == ":path").then_some(Cow::Borrowed(self.0.as_bytes()))
        }

        fn source(&self) -> Option<Cow<'_, [u8]>> {
            Some(Cow::Borrowed(self.1.as_bytes()))
        }
    }

    /// The release `reviews` with this one key.
    fn keyed(key: &str) -> Release {
        let text = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews","steer":{{"header":"x-v"}},
            "hashOn":[{key}],"versions":[{{"name":"v1","upstream":"a","weight":1,"default":true}}]}}]}}"#
        );
        Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
    }

    fn bucket_of(release: &Release, path: &str, source: &str) -> Option<u16> {
        let request = From(path, source);
        let choice = choose(release, &mut Headers::new(&request), &mut Rotation::new(release, 0));
        choice.bucket.map(|(_, bucket)| bucket)
    }

    struct Get(Vec<(&'static str, Vec<u8>)>);

    impl Request for Get {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_slice()))
        }
    }

    /// The release `reviews` with versions v1, v2 … of these weights, v1 the default.
    fn release(weights: &[u32]) -> Release {
        let version = |(place, weight): (usize, &u32)| {
            let (number, default) = (place + 1, place == 0);
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

    /// A release whose versions v2 and v3 are for testers and beta testers.
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
        let request = Get(headers.iter().map(|(name, value)| (*name, value.to_vec())).collect());
        choose(release, &mut Headers::new(&request), &mut Rotation::new(release, 0))
    }

    /// The version's name and the reason.
    fn told(release: &Release, headers: &[(&'static str, &[u8])]) -> (String, &'static str) {
        let choice = chosen(release, headers);
        (release.versions[choice.version].name.clone(), choice.reason.code())
    }

    fn version_of(release: &Release, key: &[u8]) -> usize {
        let choice = chosen(release, &[("x-user", key)]);
        assert_eq!(choice.reason, Reason::Sticky);
        choice.version
    }

    mod precedence {
        use super::*;
        #[cfg(target_arch = "wasm32")]
        use wasm_bindgen_test::wasm_bindgen_test as test;

        #[test]
        fn a_trusted_incoming_version_comes_first() {
            let release = release_with_overrides();
            let headers: [(&str, &[u8]); 3] = [("x-v", b"v1"), ("x-beta", b"1"), ("x-user", b"alice")];
            assert_eq!(told(&release, &headers), ("v1".into(), "incoming"));
        }

        #[test]
        fn an_incoming_version_that_does_not_exist_counts_for_nothing() {
            let release = release_with_overrides();
            for incoming in [&b"v9"[..], b"", b"V1", b"v1 ", b"v1,v1", b"\xff"] {
                assert_eq!(told(&release, &[("x-v", incoming), ("x-beta", b"1")]), ("v3".into(), "match"));
            }
        }

        #[test]
        fn an_incoming_version_that_is_not_trusted_counts_for_nothing() {
            let untrusting = release(&[80, 20]);
            assert_eq!(told(&untrusting, &[("x-v", b"v2"), ("x-user", b"alice")]), ("v1".into(), "sticky"));
        }

        #[test]
        fn a_versions_own_match_comes_next_whatever_its_weight() {
            let release = release_with_overrides();
            assert_eq!(told(&release, &[("x-beta", b""), ("x-user", b"alice")]), ("v3".into(), "match"));
        }

        #[test]
        fn of_two_matches_the_first_version_in_the_document_counts() {
            let release = release_with_overrides();
            assert_eq!(told(&release, &[("x-tester", b"beta")]), ("v2".into(), "match"));
        }

        #[test]
        fn the_sticky_key_comes_next_and_tells_its_bucket() {
            let release = release(&[80, 20]);
            let choice = chosen(&release, &[("x-user", b"jane.doe@example.com")]);
            assert_eq!((choice.version, choice.reason), (1, Reason::Sticky));
            assert_eq!(choice.bucket, Some((&Key::Header("x-user".into()), 1839)));
        }

        #[test]
        fn the_first_key_present_wins_and_an_empty_one_is_not_present() {
            let release = release(&[80, 20]);
            let bucket = |headers: &[(&'static str, &[u8])]| {
                chosen(&release, headers).bucket.map(|(_, bucket)| bucket)
            };
            let (alice, jane) = (Some(6405), Some(1839));
            assert_eq!(bucket(&[("x-user", b"alice"), ("cookie", b"id=jane.doe@example.com")]), alice);
            assert_eq!(bucket(&[("x-user", b""), ("cookie", b"a=b; id=jane.doe@example.com")]), jane);
            assert_eq!(bucket(&[("cookie", b"id=")]), None);
            assert_eq!(bucket(&[("cookie", b"xid=alice; ID=alice")]), None);
        }

        #[test]
        fn a_key_and_its_header_hash_the_same_wherever_they_come_from() {
            let release = release(&[80, 20]);
            let header = chosen(&release, &[("x-user", b"\xff\xfe\x00\x80")]).bucket.unwrap().1;
            let cookie = chosen(&release, &[("cookie", b"id=\xff\xfe\x00\x80")]).bucket.unwrap().1;
            assert_eq!((header, cookie), (6397, 6397));
        }

        #[test]
        fn a_key_may_be_a_query_parameter_as_it_is_written() {
            let release = keyed(r#"{"httpQueryParameterName":"uid"}"#);
            let bucket = |path: &str| bucket_of(&release, path, "");
            assert_eq!(bucket("/a?x=1&uid=alice"), Some(6405));
            assert_eq!(bucket("/a?uid=alice&uid=bob"), Some(6405));
            assert_ne!(bucket("/a?uid=%61lice"), Some(6405));
            for none in ["/a", "/a?uid=", "/a?uid", "/a?UID=alice", "/uid=alice"] {
                assert_eq!(bucket(none), None, "{none}");
            }
        }

        #[test]
        fn a_key_may_be_the_source_address_without_its_port() {
            let release = keyed(r#"{"useSourceIp":true}"#);
            let bucket = |source: &str| bucket_of(&release, "/", source);
            let one = bucket("10.1.2.3:4567");
            assert!(one.is_some());
            // A port of 0 is that of an address which the proxy took from a header: the client's own.
            for same in ["10.1.2.3:80", "10.1.2.3:0", "[::ffff:10.1.2.3]:80"] {
                assert_eq!(bucket(same), one, "{same}");
            }
            assert_eq!(bucket("[2001:db8:0:0::1]:80"), bucket("[2001:DB8::1]:443"));
            assert_ne!(bucket("10.1.2.4:80"), one);
            for none in ["", "10.1.2.3", "/run/envoy.sock", "\u{fffd}"] {
                assert_eq!(bucket(none), None, "{none}");
            }
        }

        #[test]
        fn rotation_is_for_those_with_no_key() {
            let (version, reason) = told(&release(&[1, 0]), &[("x-other", b"alice")]);
            assert_eq!((version.as_str(), reason), ("v1", "rotation"));
        }
    }

    mod shares {
        use super::*;
        #[cfg(target_arch = "wasm32")]
        use wasm_bindgen_test::wasm_bindgen_test as test;

        /// A number that looks random, for keys that look like UUIDs.
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
        fn follow_the_weights_within_half_a_point_whatever_the_keys_look_like() {
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
                        assert!(off.abs() <= 50, "{weights:?} {}: {counts:?}", make(7));
                    }
                }
            }
        }

        /// How many buckets each version holds.
        fn held(weights: &[u32]) -> Vec<u64> {
            let release = release(weights);
            let mut counts = vec![0; weights.len()];
            for bucket in 0..hash::BUCKETS {
                counts[holder(&release, bucket)] += 1;
            }
            counts
        }

        #[test]
        fn are_exact_to_one_bucket() {
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
        fn of_two_versions_move_exactly_by_what_the_weights_say() {
            let mut before: Option<(u32, Release)> = None;
            for weight in 0..=100 {
                let after = release(&[100 - weight, weight]);
                if let Some((lower, before)) = &before {
                    let moved: Vec<_> = (0..hash::BUCKETS)
                        .filter(|bucket| holder(before, *bucket) != holder(&after, *bucket))
                        .collect();
                    assert_eq!(moved.len() as u32, (weight - lower) * 100);
                    assert!(moved.iter().all(|bucket| holder(&after, *bucket) == 1));
                }
                before = Some((weight, after));
            }
        }

        #[test]
        fn of_another_release_fall_on_other_users() {
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

    mod rotation {
        use super::*;
        #[cfg(target_arch = "wasm32")]
        use wasm_bindgen_test::wasm_bindgen_test as test;

        fn dealt(weights: &[u32], random: u64, turns: u32) -> Vec<u32> {
            let release = release(weights);
            let mut rotation = Rotation::new(&release, random);
            let mut counts = vec![0; weights.len()];
            for _ in 0..turns {
                counts[rotation.next(&release)] += 1;
            }
            counts
        }

        #[test]
        fn gives_exactly_the_weights_over_a_round_from_any_place_in_it() {
            for weights in [&[90, 10][..], &[1], &[3, 0, 2], &[5, 1, 1], &[0, 7]] {
                let total: u32 = weights.iter().sum();
                for random in 0..=u64::from(total) {
                    assert_eq!(dealt(weights, random, total), weights, "{weights:?} from {random}");
                }
                assert_eq!(dealt(weights, u64::MAX, total), weights);
            }
        }

        #[test]
        fn spreads_a_small_share_evenly() {
            for tens in 1..10 {
                assert_eq!(dealt(&[90, 10], 0, tens * 10), [tens * 9, tens]);
            }
        }

        #[test]
        fn starts_at_different_places() {
            let first = |random| {
                let release = release(&[90, 10]);
                Rotation::new(&release, random).next(&release)
            };
            let on_v2 = (0..100).filter(|random| first(*random) == 1).count();
            assert_eq!(on_v2, 10);
        }

        #[test]
        fn takes_the_largest_weights() {
            assert_eq!(dealt(&[u32::MAX, u32::MAX], u64::MAX, 1_000), [500, 500]);
            assert_eq!(dealt(&[u32::MAX, 0], u64::MAX, 1_000), [1_000, 0]);
        }
    }
}
