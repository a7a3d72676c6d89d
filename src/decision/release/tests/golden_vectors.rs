//! Golden vectors, which pin the version of a user on any target and in any build.
//!
//! They were computed with the reference implementation of the hash (PyPI `xxhash`) and the documented rules,
//! not with this code.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The keys of the hash's golden vectors. Each has its bucket and its versions by 90/10, by 50/30/20, and by
/// the step from there to 60/30/10.
const GOLDEN: &[(&[u8], u16, [usize; 3])] = &[
    (b"", 5836, [1, 1, 1]),
    (b"a", 2959, [1, 2, 2]),
    (b"alice", 6405, [1, 1, 1]),
    (b"user-12345", 2823, [1, 2, 2]),
    (b"1000000007", 4724, [1, 1, 1]),
    (b"550e8400-e29b-41d4-a716-446655440000", 2520, [1, 2, 2]),
    (b"jane.doe@example.com", 1839, [1, 2, 2]),
    ("Zoë Müller".as_bytes(), 6458, [1, 1, 1]),
    ("用户-42".as_bytes(), 4662, [1, 1, 1]),
    (b"\xff\xfe\x00\x80", 6397, [1, 1, 1]),
    (&[0; 32], 3263, [1, 1, 1]),
    (b"0123456789abcdef0123456789abcde", 8396, [1, 3, 1]),
    (&[b'a'; 64 * 1024], 4713, [1, 1, 1]),
];

#[test]
fn keys_have_their_golden_buckets_and_versions() {
    let three = Layout::of(&[50, 30, 20], 0);
    let layouts = [Layout::of(&[90, 10], 0), three.clone(), three.stepped(&[60, 30, 10], 0)];
    for (key, bucket, versions) in GOLDEN {
        assert_eq!(hash::bucket(hash::key(hash::seed("reviews"), key)), *bucket, "{key:?}");
        let holders = layouts.each_ref().map(|layout| layout.holder(*bucket).unwrap() + 1);
        assert_eq!(holders, *versions, "{key:?}");
    }
}

/// Returns the hash of the versions of 10,000 users, with one byte for each index.
fn digest(release: &Release, split: &mut Split) -> u64 {
    let versions: Vec<u8> = (0..10_000)
        .map(|number| {
            let request = WithHeaders(vec![("x-user", format!("user-{number}").into_bytes())]);
            choose(release, &mut Headers::new(&request, &[]), split, &[], || TODAY).version as u8
        })
        .collect();
    hash::key(0, &versions)
}

#[test]
fn users_have_their_golden_versions_by_weights() {
    for (weights, expected) in [
        (&[90, 10][..], 0x1382_0B4E_84A1_403F),
        (&[50, 30, 20], 0x3EEA_BA75_21F5_8E1C),
        (&[1, 1, 1], 0x6C5E_B12B_826B_8688),
        (&[80, 10, 10], 0x6551_5068_3798_0B70),
    ] {
        let release = release(weights);
        assert_eq!(digest(&release, &mut Split::new(&release, TODAY, NOW, &[], 0)), expected, "{weights:?}");
    }
}

#[test]
fn users_have_their_golden_versions_by_a_schedule() {
    let version = |name: &str, weight: u32| {
        format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{}}}"#, name == "v1")
    };
    let versions = [version("v1", 50), version("v2", 30), version("v3", 20)].join(",");
    let release = with(&format!(
        r#""steer":{{"header":"x-v"}},"hashOn":[{{"httpHeaderName":"x-user"}}],"versions":[{versions}],"schedule":[
        {{"at":"1970-01-01T00:01:40Z","weights":{{"v1":60,"v2":30,"v3":10}}}},
        {{"at":"1970-01-01T00:03:20Z","over":"300s","weights":{{"v1":20,"v2":50,"v3":30}}}}]"#
    ));
    let mut split = Split::new(&release, Date::default(), Time::default(), &[], 0);
    for (second, expected) in [
        (0, 0x3EEA_BA75_21F5_8E1C),
        (100, 0xE925_A455_62D9_EA4F),
        (200, 0xE925_A455_62D9_EA4F),
        (301, 0x2058_575C_3A91_86BA),
        (400, 0xD1CD_0972_09D6_2711),
        (500, 0x16DC_772C_9785_B177),
    ] {
        split.update(&release, Date::from_millis(second * 1_000), Time::from_millis(second * 1_000), &[]);
        assert_eq!(digest(&release, &mut split), expected, "{second}");
    }
}
