use std::borrow::Cow;
use std::collections::BTreeSet;

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

/// The release `reviews` with these fields beside its name.
fn with(fields: &str) -> Release {
    let text = format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews",{fields}}}]}}"#
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
    choose(release, &mut Headers::new(request), &mut Split::new(release, NOW, NOW, &[], 0), &[], || NOW)
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

    /// v1 80, v2 20 and v3 0. By their buckets, jane, carol and erin have v2, alice and bob v1.
    fn release_with_lists(extra: &str) -> Release {
        with(&format!(
            r#""steer":{{"header":"x-v"}},"hashOn":[{{"httpHeaderName":"x-user"}},{{"httpCookie":{{"name":"id"}}}}],"versions":[
            {{"name":"v1","upstream":"a","weight":80,"default":true,"allow":["erin"]}},
            {{"name":"v2","upstream":"a","weight":20,"match":[{{"headers":{{"x-tester":{{}}}}}}],
            "deny":["jane.doe@example.com","alice","bob"]}},
            {{"name":"v3","upstream":"a","weight":0,"allow":["bob","692d6720-0000000000000001"],"deny":["carol"]}}]{extra}"#
        ))
    }

    #[test]
    fn an_allowed_key_comes_next_whatever_the_weight() {
        let release = release_with_lists("");
        assert_eq!(told(&release, &[("x-user", b"bob")]), ("v3".into(), "allowed"));
        assert_eq!(told(&release, &[("x-user", b"erin")]), ("v1".into(), "allowed"));
        assert_eq!(told(&release, &[("x-user", b"bob"), ("x-tester", b"")]), ("v2".into(), "match"));
        let trusting = release_with_lists(r#","trustIncoming":true"#);
        assert_eq!(told(&trusting, &[("x-user", b"bob"), ("x-v", b"v1")]), ("v1".into(), "incoming"));
    }

    #[test]
    fn a_list_has_keys_as_they_are_written() {
        let release = release_with_lists("");
        for other in [&b"Bob"[..], b"bob ", b"bo", b"bob\xff", b"\xff"] {
            assert_ne!(told(&release, &[("x-user", other)]).1, "allowed", "{other:?}");
        }
    }

    #[test]
    fn a_denied_key_gets_the_default_where_its_bucket_is_that_versions() {
        let release = release_with_lists("");
        assert_eq!(told(&release, &[("x-user", b"jane.doe@example.com")]), ("v1".into(), "denied"));
        assert_eq!(told(&release, &[("x-user", b"alice")]), ("v1".into(), "sticky"));
        assert_eq!(told(&release, &[("x-user", b"carol")]), ("v2".into(), "sticky"));
        let tester: [(&str, &[u8]); 2] = [("x-user", b"jane.doe@example.com"), ("x-tester", b"")];
        assert_eq!(told(&release, &tester), ("v2".into(), "match"));
        let choice = chosen(&release, &[("x-user", b"jane.doe@example.com")]);
        assert_eq!(hash::bucket(choice.key.unwrap().1), 1839);
    }

    /// [`NOW`], when the key `692d6720-…` is issued.
    const STARTS_NOW: &str = r#","startsAt":"2025-12-01T10:00:00Z""#;

    #[test]
    fn a_cookie_that_was_issued_before_the_start_stays_on_the_default() {
        let release = release_with_lists(STARTS_NOW);
        let mut versions = BTreeSet::new();
        for id in 2..100 {
            let (before, after) = (format!("692d671f-{id:016x}"), format!("692d6720-{id:016x}"));
            let cookie = format!("id={before}");
            assert_eq!(
                told(&release, &[("cookie", cookie.as_bytes())]),
                ("v1".into(), "existing-session"),
                "{cookie}"
            );
            assert_eq!(told(&release, &[("x-user", before.as_bytes())]).1, "sticky");
            let (version, reason) = told(&release, &[("cookie", format!("id={after}").as_bytes())]);
            assert_eq!(reason, "sticky");
            versions.insert(version);
        }
        assert_eq!(versions.len(), 2);
    }

    #[test]
    fn an_allowed_key_comes_before_an_existing_session_and_that_before_its_bucket() {
        let release = release_with_lists(r#","startsAt":"2025-12-01T10:00:01Z""#);
        let told = |second: u64, cookie: &str| {
            let mut split = Split::new(
                &release,
                Time::from_millis(second * 1_000),
                Time::from_millis(second * 1_000),
                &[],
                0,
            );
            let request = Get(vec![("cookie", format!("id={cookie}").into_bytes())]);
            choose(&release, &mut Headers::new(&request), &mut split, &[], || NOW).reason.code()
        };
        let (before, after) = (1_764_583_200, 1_764_583_201);
        assert_eq!(told(after, "692d6720-0000000000000001"), "allowed");
        assert_eq!(told(after, "692d6720-0000000000000002"), "existing-session");
        assert_eq!(told(after, "jane.doe@example.com"), "denied");
        assert_eq!(told(before, "692d6720-0000000000000001"), "allowed");
        assert_eq!(told(before, "jane.doe@example.com"), "sticky");
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

    /// Chi-square over all buckets has 9,999 degrees of freedom, so a standard deviation of 141.4; five of them
    /// are 707. More even than that would be no chance either.
    #[test]
    fn fall_on_all_buckets_as_evenly_as_chance_would_have_it() {
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

mod an_issued_key {
    use std::collections::HashSet;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// v1 50, v2 30, v3 20, with a header for a key and a cookie that is issued.
    fn issuing(extra: &str) -> Release {
        let version = |name: &str, weight: u32| {
            format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{}}}"#, name == "v1")
        };
        let versions = [version("v1", 50), version("v2", 30), version("v3", 20)].join(",");
        let steer = if extra.contains("steer") { "" } else { r#""steer":{"header":"x-v"},"# };
        with(&format!(
            r#"{steer}"hashOn":[{{"httpHeaderName":"x-user"}},{{"httpCookie":{{"name":"id","ttl":"1h"}}}}],
            "versions":[{versions}]{extra}"#
        ))
    }

    /// As `split` has it, with keys that other releases have issued.
    fn choice<'r>(
        release: &'r Release,
        split: &mut Split,
        cookie: &str,
        issued: &[Issued<'r>],
    ) -> Choice<'r> {
        let request = Get(vec![("cookie", cookie.as_bytes().to_vec())]);
        choose(release, &mut Headers::new(&request), split, issued, || NOW)
    }

    fn split(release: &Release) -> Split {
        Split::new(release, NOW, NOW, &[], 7)
    }

    #[test]
    fn belongs_to_the_version_whose_turn_it_is() {
        for extra in ["", r#","steer":{"randomValueHeader":"x-r"}"#] {
            let release = issuing(extra);
            let (mut split, mut counts) = (split(&release), [0; 3]);
            for _ in 0..1_000 {
                let first = choice(&release, &mut split, "", &[]);
                assert_eq!((first.reason, first.key), (Reason::Rotation, None));
                counts[first.version] += 1;
                let key = first.issued.unwrap().key;
                let next = choice(&release, &mut split, &format!("id={key}"), &[]);
                assert_eq!((next.version, next.reason), (first.version, Reason::Sticky));
                assert_eq!((next.number, next.issued), (first.number, None));
            }
            assert_eq!(counts, [500, 300, 200]);
        }
    }

    #[test]
    fn is_nobody_elses_and_tells_when_it_was_issued() {
        let release = issuing("");
        let mut keys = HashSet::new();
        for random in [0, 1 << 32, u64::MAX - 1_000] {
            let mut split = Split::new(&release, NOW, NOW, &[], random);
            for _ in 0..200 {
                let issued = choice(&release, &mut split, "", &[]).issued.unwrap();
                assert_eq!(cookie::issued(issued.key.as_bytes()), Some(NOW));
                assert!(keys.insert(issued.key));
            }
        }
    }

    #[test]
    fn is_for_those_who_have_none() {
        let release = issuing("");
        let mut split = split(&release);
        for (cookie, issues) in
            [("id=", true), ("xid=alice", true), ("id=alice", false), ("a=b; id=x", false)]
        {
            assert_eq!(choice(&release, &mut split, cookie, &[]).issued.is_some(), issues, "{cookie}");
        }
        assert_eq!(chosen(&release, &[("x-user", b"alice")]).issued, None);
    }

    #[test]
    fn before_the_start_is_the_default_versions() {
        let release = issuing(r#","startsAt":"2025-12-01T10:00:01Z""#);
        let mut split = split(&release);
        for _ in 0..100 {
            let choice = choice(&release, &mut split, "", &[]);
            assert_eq!((choice.version, choice.issued.is_some()), (0, true));
        }
    }

    #[test]
    fn is_none_once_the_release_has_ended() {
        let schedule = r#","schedule":[{"at":"2025-12-01T10:00:00Z","weights":{"v1":0,"v2":1,"v3":0}}]"#;
        let release = issuing(schedule);
        assert_eq!(choice(&release, &mut split(&release), "", &[]).issued, None);
        let mut before = Split::new(&release, Time::from_millis(NOW.as_millis() - 1), NOW, &[], 7);
        assert!(choice(&release, &mut before, "", &[]).issued.is_some());
    }

    #[test]
    fn of_a_version_that_is_rolled_back_is_the_default_versions() {
        let release = issuing(r#","rollback":{"failurePercent":5}"#);
        let mut split = Split::new(&release, NOW, NOW, &[None, Some(NOW), Some(NOW)], 7);
        let first = choice(&release, &mut split, "", &[]);
        assert_eq!((first.version, first.issued.is_some()), (0, true));
    }

    #[test]
    fn that_another_release_has_issued_counts_as_if_it_were_sent() {
        let (first, second) = (
            issuing(""),
            with(
                r#""steer":{"header":"x-w"},"hashOn":[{"httpCookie":{"name":"id"}}],
            "versions":[{"name":"v1","upstream":"a","weight":1,"default":true},{"name":"v2","upstream":"a","weight":1}]"#,
            ),
        );
        let issued = choice(&first, &mut split(&first), "", &[]).issued.unwrap();
        let sent = choice(&second, &mut split(&second), &format!("id={}", issued.key), &[]);
        let counted = choice(&second, &mut split(&second), "", core::slice::from_ref(&issued));
        assert_eq!(sent.reason, Reason::Sticky);
        assert_eq!(counted, sent);
        let third = keyed(r#"{"httpCookie":{"name":"other"}}"#);
        assert_eq!(choice(&third, &mut split(&third), "", &[issued]).reason, Reason::Rotation);
    }
}

mod a_number {
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
    fn of_a_key_is_its_hash_and_the_version_the_one_that_the_route_picks() {
        for versions in [VERSIONS, ""] {
            let release = random(versions);
            for number in 0..200 {
                let user = format!("user-{number}");
                let choice = chosen(&release, &[("x-user", user.as_bytes())]);
                assert_eq!(choice.number, hash::key(release.seed, user.as_bytes()));
                let on_v2 = !versions.is_empty() && choice.number % 100 >= 90;
                assert_eq!((choice.version, choice.reason), (usize::from(on_v2), Reason::Sticky));
            }
        }
    }

    #[test]
    fn of_a_turn_leads_to_its_version_exactly_by_weight() {
        let release = random(VERSIONS);
        let mut split = Split::new(&release, NOW, NOW, &[], 12_345);
        for _ in 0..5 {
            let mut counts = [0; 2];
            for _ in 0..100 {
                let request = Get(Vec::new());
                let choice = choose(&release, &mut Headers::new(&request), &mut split, &[], || NOW);
                assert_eq!(number::pick(&release.versions, choice.number), Some(choice.version));
                counts[choice.version] += 1;
            }
            assert_eq!(counts, [90, 10]);
        }
    }

    #[test]
    fn of_a_turn_without_versions_goes_through_all_remainders() {
        let release = random("");
        let mut split = Split::new(&release, NOW, NOW, &[], 12_345);
        let mut on_v2 = 0;
        for _ in 0..1_000 {
            let request = Get(Vec::new());
            let choice = choose(&release, &mut Headers::new(&request), &mut split, &[], || NOW);
            on_v2 += u32::from(choice.number % 100 >= 90);
        }
        assert_eq!(on_v2, 100);
    }
}

/// Computed with the reference implementation of the hash (PyPI `xxhash`) and the rules in words, not with this
/// code: on any target, in any build, a user has the same version.
mod golden_vectors {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The keys of the hash's golden vectors, each with its bucket and the versions it has by 90/10, by 50/30/20,
    /// and by the step from there to 60/30/10.
    const GOLDEN: &[(&[u8], u16, [usize; 3])] = &[
        (b"", 5836, [1, 1, 1]),
        (b"a", 2959, [1, 2, 2]),
        (b"alice", 6405, [1, 1, 1]),
        (b"user-12345", 2823, [1, 2, 2]),
        (b"1000000007", 4724, [1, 2, 2]),
        (b"550e8400-e29b-41d4-a716-446655440000", 2520, [1, 2, 2]),
        (b"jane.doe@example.com", 1839, [1, 3, 1]),
        ("Zoë Müller".as_bytes(), 6458, [1, 1, 1]),
        ("用户-42".as_bytes(), 4662, [1, 2, 2]),
        (b"\xff\xfe\x00\x80", 6397, [1, 1, 1]),
        (&[0; 32], 3263, [1, 2, 2]),
        (b"0123456789abcdef0123456789abcde", 8396, [1, 1, 1]),
        (&[b'a'; 64 * 1024], 4713, [1, 2, 2]),
    ];

    #[test]
    fn of_keys() {
        let three = layout::Layout::of(&[50, 30, 20]);
        let layouts = [layout::Layout::of(&[90, 10]), three.clone(), three.stepped(&[60, 30, 10])];
        for (key, bucket, versions) in GOLDEN {
            assert_eq!(hash::bucket(hash::key(hash::seed("reviews"), key)), *bucket, "{key:?}");
            let holders = layouts.each_ref().map(|layout| layout.holder(*bucket).unwrap() + 1);
            assert_eq!(holders, *versions, "{key:?}");
        }
    }

    /// The hash of the places of the versions of 10,000 users, one byte each.
    fn digest(release: &Release, split: &mut Split) -> u64 {
        let versions: Vec<u8> = (0..10_000)
            .map(|number| {
                let request = Get(vec![("x-user", format!("user-{number}").into_bytes())]);
                choose(release, &mut Headers::new(&request), split, &[], || NOW).version as u8
            })
            .collect();
        hash::key(0, &versions)
    }

    #[test]
    fn of_all_users_by_weights() {
        for (weights, expected) in [
            (&[90, 10][..], 0x1382_0B4E_84A1_403F),
            (&[50, 30, 20], 0xB7C7_6CC8_C733_8CC5),
            (&[1, 1, 1], 0xE798_E556_6577_CF2F),
            (&[80, 10, 10], 0x4308_3627_08E8_E973),
        ] {
            let release = release(weights);
            assert_eq!(
                digest(&release, &mut Split::new(&release, NOW, NOW, &[], 0)),
                expected,
                "{weights:?}"
            );
        }
    }

    #[test]
    fn of_all_users_by_a_schedule() {
        let version = |name: &str, weight: u32| {
            format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{}}}"#, name == "v1")
        };
        let versions = [version("v1", 50), version("v2", 30), version("v3", 20)].join(",");
        let release = with(&format!(
            r#""steer":{{"header":"x-v"}},"hashOn":[{{"httpHeaderName":"x-user"}}],"versions":[{versions}],"schedule":[
            {{"at":"1970-01-01T00:01:40Z","weights":{{"v1":60,"v2":30,"v3":10}}}},
            {{"at":"1970-01-01T00:03:20Z","over":"300s","weights":{{"v1":20,"v2":50,"v3":30}}}}]"#
        ));
        let mut split = Split::new(&release, Time::default(), Time::default(), &[], 0);
        for (second, expected) in [
            (0, 0xB7C7_6CC8_C733_8CC5),
            (100, 0x676A_4189_5E2F_7A73),
            (200, 0x676A_4189_5E2F_7A73),
            (301, 0xB8B0_331C_9A0F_CF4B),
            (400, 0x70BA_3FEC_AD8B_35FF),
            (500, 0x9486_E00B_30B0_1CF9),
        ] {
            split.update(&release, Time::from_millis(second * 1_000), Time::from_millis(second * 1_000), &[]);
            assert_eq!(digest(&release, &mut split), expected, "{second}");
        }
    }
}
