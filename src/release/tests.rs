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
    choose_for(release, &request).key.map(|(_, hash)| hash::bucket(hash))
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
    choose_for(release, &request)
}

const NOW: Time = Time::from_millis(1_764_583_200_000);

fn choose_for<'r>(release: &'r Release, request: &impl Request) -> Choice<'r> {
    choose(release, &mut Headers::new(request), &mut Split::new(release, NOW, &[], 0), &[], || NOW)
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
    fn an_incoming_version_that_does_not_exist_means_the_default() {
        let release = release_with_overrides();
        for incoming in [&b"v9"[..], b"V1", b"v1 ", b"v1,v1", b"\xff"] {
            let headers: [(&str, &[u8]); 2] = [("x-v", incoming), ("x-beta", b"1")];
            assert_eq!(told(&release, &headers), ("v1".into(), "no-such-version"));
        }
    }

    #[test]
    fn an_empty_incoming_version_is_none() {
        let release = release_with_overrides();
        assert_eq!(told(&release, &[("x-v", b""), ("x-beta", b"1")]), ("v3".into(), "match"));
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
        let (key, hash) = choice.key.unwrap();
        assert_eq!((key, hash::bucket(hash)), (&Key::Header("x-user".into()), 1839));
    }

    #[test]
    fn the_first_key_present_wins_and_an_empty_one_is_not_present() {
        let release = release(&[80, 20]);
        let bucket = |headers: &[(&'static str, &[u8])]| {
            chosen(&release, headers).key.map(|(_, hash)| hash::bucket(hash))
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
        let header = hash::bucket(chosen(&release, &[("x-user", b"\xff\xfe\x00\x80")]).key.unwrap().1);
        let cookie = hash::bucket(chosen(&release, &[("cookie", b"id=\xff\xfe\x00\x80")]).key.unwrap().1);
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
        layout::Layout::of(weights).shares(weights.len()).into_iter().map(u64::from).collect()
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
        let mut before: Option<(u32, layout::Layout)> = None;
        for weight in 0..=100 {
            let after = layout::Layout::of(&[100 - weight, weight]);
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
