use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_trusted_incoming_version_takes_precedence() {
    let release = release_with_overrides();
    let headers: [(&str, &[u8]); 3] = [("x-v", b"v1"), ("x-beta", b"1"), ("x-user", b"alice")];
    assert_eq!(version_and_reason(&release, &headers), ("v1".into(), "incoming"));
}

#[test]
fn an_unknown_incoming_version_leads_to_the_default_version() {
    let release = release_with_overrides();
    for incoming in [&b"v9"[..], b"V1", b"v1 ", b"v1,v1", b"\xff"] {
        let headers: [(&str, &[u8]); 2] = [("x-v", incoming), ("x-beta", b"1")];
        assert_eq!(version_and_reason(&release, &headers), ("v1".into(), "no-such-version"));
    }
}

#[test]
fn an_empty_incoming_version_counts_as_absent() {
    let release = release_with_overrides();
    assert_eq!(version_and_reason(&release, &[("x-v", b""), ("x-beta", b"1")]), ("v3".into(), "match"));
}

#[test]
fn an_untrusted_incoming_version_is_ignored() {
    let untrusting = release(&[80, 20]);
    assert_eq!(
        version_and_reason(&untrusting, &[("x-v", b"v2"), ("x-user", b"alice")]),
        ("v1".into(), "sticky")
    );
}

#[test]
fn a_versions_match_comes_next_whatever_its_weight() {
    let release = release_with_overrides();
    assert_eq!(
        version_and_reason(&release, &[("x-beta", b""), ("x-user", b"alice")]),
        ("v3".into(), "match")
    );
}

#[test]
fn of_two_matches_the_first_version_in_the_document_counts() {
    let release = release_with_overrides();
    assert_eq!(version_and_reason(&release, &[("x-tester", b"beta")]), ("v2".into(), "match"));
}

/// Returns a release with weights v1 80, v2 20 and v3 0. By their buckets, jane, carol and erin have v2, and
/// alice and bob v1.
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
    assert_eq!(version_and_reason(&release, &[("x-user", b"bob")]), ("v3".into(), "allowed"));
    assert_eq!(version_and_reason(&release, &[("x-user", b"erin")]), ("v1".into(), "allowed"));
    assert_eq!(
        version_and_reason(&release, &[("x-user", b"bob"), ("x-tester", b"")]),
        ("v2".into(), "match")
    );
    let trusting = release_with_lists(r#","trustIncoming":true"#);
    assert_eq!(
        version_and_reason(&trusting, &[("x-user", b"bob"), ("x-v", b"v1")]),
        ("v1".into(), "incoming")
    );
}

#[test]
fn a_list_compares_keys_byte_by_byte() {
    let release = release_with_lists("");
    for other in [&b"Bob"[..], b"bob ", b"bo", b"bob\xff", b"\xff"] {
        assert_ne!(version_and_reason(&release, &[("x-user", other)]).1, "allowed", "{other:?}");
    }
}

#[test]
fn a_denied_key_gets_the_default_version_if_that_version_holds_its_bucket() {
    let release = release_with_lists("");
    assert_eq!(version_and_reason(&release, &[("x-user", b"jane.doe@example.com")]), ("v1".into(), "denied"));
    assert_eq!(version_and_reason(&release, &[("x-user", b"alice")]), ("v1".into(), "sticky"));
    assert_eq!(version_and_reason(&release, &[("x-user", b"carol")]), ("v2".into(), "sticky"));
    let tester: [(&str, &[u8]); 2] = [("x-user", b"jane.doe@example.com"), ("x-tester", b"")];
    assert_eq!(version_and_reason(&release, &tester), ("v2".into(), "match"));
    let choice = chosen(&release, &[("x-user", b"jane.doe@example.com")]);
    assert_eq!(hash::bucket(choice.key.unwrap().1), 1839);
}

/// [`TODAY`], the time at which the key `692d6720-…` is issued.
const STARTS_TODAY: &str = r#","startsAt":"2025-12-01T10:00:00Z""#;

#[test]
fn a_cookie_issued_before_the_start_stays_on_the_default_version() {
    let release = release_with_lists(STARTS_TODAY);
    let mut versions = BTreeSet::new();
    for id in 2..100 {
        let (before, after) = (format!("692d671f-{id:016x}"), format!("692d6720-{id:016x}"));
        let cookie = format!("id={before}");
        assert_eq!(
            version_and_reason(&release, &[("cookie", cookie.as_bytes())]),
            ("v1".into(), "existing-session"),
            "{cookie}"
        );
        assert_eq!(version_and_reason(&release, &[("x-user", before.as_bytes())]).1, "sticky");
        let (version, reason) = version_and_reason(&release, &[("cookie", format!("id={after}").as_bytes())]);
        assert_eq!(reason, "sticky");
        versions.insert(version);
    }
    assert_eq!(versions.len(), 2);
}

#[test]
fn allowed_comes_before_existing_session_and_that_before_the_bucket() {
    let release = release_with_lists(r#","startsAt":"2025-12-01T10:00:01Z""#);
    let version_and_reason = |second: u64, cookie: &str| {
        let mut split = Split::new(&release, Date::from_millis(second * 1_000), NOW, &[], 0);
        let request = WithHeaders(vec![("cookie", format!("id={cookie}").into_bytes())]);
        choose(&release, &mut Headers::new(&request, &[]), &mut split, &[], || TODAY).reason.code()
    };
    let (before, after) = (1_764_583_200, 1_764_583_201);
    assert_eq!(version_and_reason(after, "692d6720-0000000000000001"), "allowed");
    assert_eq!(version_and_reason(after, "692d6720-0000000000000002"), "existing-session");
    assert_eq!(version_and_reason(after, "jane.doe@example.com"), "denied");
    assert_eq!(version_and_reason(before, "692d6720-0000000000000001"), "allowed");
    assert_eq!(version_and_reason(before, "jane.doe@example.com"), "sticky");
}

#[test]
fn the_sticky_key_comes_next() {
    let release = release(&[80, 20]);
    let choice = chosen(&release, &[("x-user", b"jane.doe@example.com")]);
    assert_eq!((choice.version, choice.reason), (1, AssignmentReason::Sticky));
    let (key, hash) = choice.key.unwrap();
    assert_eq!((key, hash::bucket(hash)), (&Key::Header("x-user".into()), 1839));
}

#[test]
fn the_first_key_present_wins_and_an_empty_one_counts_as_absent() {
    let release = release(&[80, 20]);
    let bucket =
        |headers: &[(&'static str, &[u8])]| chosen(&release, headers).key.map(|(_, hash)| hash::bucket(hash));
    let (alice, jane) = (Some(6405), Some(1839));
    assert_eq!(bucket(&[("x-user", b"alice"), ("cookie", b"id=jane.doe@example.com")]), alice);
    assert_eq!(bucket(&[("x-user", b""), ("cookie", b"a=b; id=jane.doe@example.com")]), jane);
    assert_eq!(bucket(&[("cookie", b"id=")]), None);
    assert_eq!(bucket(&[("cookie", b"xid=alice; ID=alice")]), None);
}

#[test]
fn a_key_has_the_same_bucket_from_a_header_and_a_cookie() {
    let release = release(&[80, 20]);
    let header = hash::bucket(chosen(&release, &[("x-user", b"\xff\xfe\x00\x80")]).key.unwrap().1);
    let cookie = hash::bucket(chosen(&release, &[("cookie", b"id=\xff\xfe\x00\x80")]).key.unwrap().1);
    assert_eq!((header, cookie), (6397, 6397));
}

#[test]
fn a_key_may_be_a_query_parameter_which_is_not_decoded() {
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
    // A port of 0 means that the proxy took the address from a header. It is the client's address.
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
fn a_request_without_a_key_gets_a_version_by_rotation() {
    let (version, reason) = version_and_reason(&release(&[1, 0]), &[("x-other", b"alice")]);
    assert_eq!((version.as_str(), reason), ("v1", "rotation"));
}

/// Returns a release whose key is the tenant with the user, and then the user alone.
fn release_by_tenant_and_user() -> Release {
    with(
        r#""steer":{"header":"x-v"},"hashOn":[{"all":[{"httpHeaderName":"x-tenant"},{"httpHeaderName":"x-user"}]},
        {"httpHeaderName":"x-user"}],"versions":[{"name":"v1","upstream":"a","weight":1,"default":true},
        {"name":"v2","upstream":"a","weight":1,"match":[{"headers":{"x-tester":{}}}],
        "allow":["acme|alice","a\\|b|c"]}],"rollback":{"failurePercent":5}"#,
    )
}

#[test]
fn a_rollback_counts_users_by_their_combined_keys() {
    let release = release_by_tenant_and_user();
    let counted = |headers: &[(&'static str, &'static [u8])]| {
        let request = WithHeaders(headers.iter().map(|(name, value)| (*name, value.to_vec())).collect());
        let choice = choose_for(&release, &request);
        user(&release, &mut Headers::new(&request, &[]), &choice, &[])
    };
    let key = Some(hash::key(release.seed, b"acme|bob"));
    assert_eq!(counted(&[("x-tenant", b"acme"), ("x-user", b"bob")]), key);
    // However the request gets its version.
    assert_eq!(counted(&[("x-tenant", b"acme"), ("x-user", b"bob"), ("x-tester", b"1")]), key);
    assert_ne!(counted(&[("x-tenant", b"other"), ("x-user", b"bob")]), key);
}

#[test]
fn a_combined_key_is_its_parts_with_a_bar_between_them() {
    let release = release_by_tenant_and_user();
    let hash = |headers: &[(&'static str, &'static [u8])]| chosen(&release, headers).key.unwrap().1;
    let of = |tenant: &'static [u8], user: &'static [u8]| hash(&[("x-tenant", tenant), ("x-user", user)]);
    assert_eq!(of(b"acme", b"alice"), hash::key(release.seed, b"acme|alice"));
    assert_eq!(of(b"\xff", b"alice"), hash::key(release.seed, b"\xff|alice"));
    // A missing or empty part makes the whole key absent.
    for headers in [&[("x-user", &b"alice"[..])][..], &[("x-tenant", b""), ("x-user", b"alice")]] {
        assert_eq!(hash(headers), hash::key(release.seed, b"alice"));
    }
}

#[test]
fn different_parts_never_make_the_same_combined_key() {
    let release = release_by_tenant_and_user();
    let pairs: [(&[u8], &[u8]); 8] = [
        (b"a", b"bc"),
        (b"ab", b"c"),
        (b"a|b", b"c"),
        (b"a", b"b|c"),
        (b"a\\", b"b|c"),
        (b"a\\|b", b"c"),
        (b"a\\", b"|c"),
        (b"a", b"\\|c"),
    ];
    let hash = |(tenant, user)| chosen(&release, &[("x-tenant", tenant), ("x-user", user)]).key.unwrap().1;
    let hashes: std::collections::BTreeSet<u64> = pairs.into_iter().map(hash).collect();
    assert_eq!(hashes.len(), pairs.len());
}

#[test]
fn a_list_names_a_combined_key_with_its_bars_escaped() {
    let release = release_by_tenant_and_user();
    for (tenant, user) in [(&b"acme"[..], &b"alice"[..]), (b"a|b", b"c")] {
        let headers = [("x-tenant", tenant), ("x-user", user)];
        assert_eq!(version_and_reason(&release, &headers), ("v2".into(), "allowed"));
    }
}
