use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_release_steers_the_requests_that_it_matches() {
    let mut bench = with_releases(&[REVIEWS]);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky").holds_permits("");
    bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    bench.ask(by(USER_ON_V1).with("x-tester", "")).is_forwarded("x-v: v2").is_assigned("reviews v2 by match");
    bench.ask(get("/other").with("x-user", USER_ON_V2)).is_forwarded("").is_assigned("");
}

#[test]
fn requests_without_a_key_are_dealt_out_by_weight() {
    let mut bench = with_releases(&[REVIEWS]);
    let mut on_v2 = 0;
    for _ in 0..1_000 {
        on_v2 += u32::from(bench.ask(get("/api")).assigned == "reviews v2 by rotation");
    }
    assert_eq!(on_v2, 200);
}

#[test]
fn an_untrusted_incoming_version_is_overwritten() {
    let mut bench = with_releases(&[REVIEWS]);
    for spoofed in [&b"v2"[..], b"v9", b"", b"\xff"] {
        bench
            .ask(by(USER_ON_V1).with("x-v", spoofed))
            .is_forwarded("x-v: v1")
            .is_assigned("reviews v1 by sticky");
    }
}

#[test]
fn the_steer_header_is_removed_from_requests_without_a_release() {
    let other = REVIEWS.replace("reviews", "other").replace("x-v", "x-w");
    let mut bench = with_releases(&[REVIEWS, &REVIEWS.replace("reviews", "more"), &other]);
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("no x-v");
    bench.ask(get("/other").with("x-w", "\u{1}").with("x-v", "")).is_forwarded("no x-v, no x-w");
}

#[test]
fn a_steer_header_that_one_release_trusts_is_not_removed() {
    let trusting = REVIEWS
        .replace("reviews", "inside")
        .replace("/api", "/inside")
        .replace(r#""steer""#, r#""trustIncoming":true,"steer""#);
    let mut bench = with_releases(&[REVIEWS, &trusting]);
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("");
    bench.ask(by(USER_ON_V1).with("x-v", "v2")).is_forwarded("x-v: v1");
    bench.ask(get("/inside").with("x-v", "v2")).is_forwarded("x-v: v2").is_assigned("inside v2 by incoming");
}

#[test]
fn an_untrusted_steer_header_matches_nothing() {
    let tester = REVIEWS.replace("x-tester\":{}", "x-v\":{\"exact\":\"v2\"}");
    with_releases(&[&tester]).ask(by(USER_ON_V1).with("x-v", "v2")).is_assigned("reviews v1 by sticky");
}

#[test]
fn of_releases_with_the_same_steer_header_the_first_counts() {
    let second = REVIEWS.replace("reviews", "second").replace("/api", "/");
    let mut bench = with_releases(&[REVIEWS, &second]);
    let outcome = bench.ask(by(USER_ON_V2));
    outcome.is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    assert!(bench.ask(get("/other")).assigned.starts_with("second "));
}

#[test]
fn releases_with_different_steer_headers_all_count() {
    let ratings = REVIEWS.replace("reviews", "ratings").replace("x-v", "x-ratings");
    let outcome = with_releases(&[REVIEWS, &ratings]).ask(by(USER_ON_V2).with("x-tester", "1"));
    outcome.is_forwarded("x-v: v2, x-ratings: v2").is_assigned("reviews v2 by match, ratings v2 by match");
}

/// Returns [`REVIEWS`] with this `steer` and these fields.
fn reviews(steer: &str, fields: &str) -> String {
    REVIEWS
        .replace(r#""steer":{"header":"x-v"}"#, &format!(r#""steer":{steer}"#))
        .replace(r#""name":"reviews""#, &format!(r#""name":"reviews"{fields}"#))
}

/// Returns [`REVIEWS`] with these fields in v2.
fn reviews_with_v2(fields: &str) -> String {
    REVIEWS.replace(r#""weight":20"#, &format!(r#""weight":20{fields}"#))
}

const TRUST_INCOMING: &str = r#","trustIncoming":true"#;

mod cluster_header {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"clusterHeader":"x-c"}"#;

    #[test]
    fn a_cluster_header_names_the_cluster_of_the_version() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(USER_ON_V1)).is_forwarded("x-c: one").is_assigned("reviews v1 by sticky");
        bench.ask(by(USER_ON_V2)).is_forwarded("x-c: two").is_assigned("reviews v2 by sticky");
        let mut bench = bench.set("two", DOWN);
        bench.ask(by(USER_ON_V2)).is_forwarded("x-c: one").is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn an_untrusted_cluster_header_is_overwritten_or_removed() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        for spoofed in ["two", "admin", "v2", ""] {
            bench.ask(by(USER_ON_V1).with("x-c", spoofed)).is_forwarded("x-c: one");
            bench.ask(get("/other").with("x-c", spoofed)).is_forwarded("no x-c").is_assigned("");
        }
    }

    #[test]
    fn a_trusted_cluster_header_reaches_only_the_clusters_of_the_release() {
        let mut bench = with_releases(&[&reviews(STEER, TRUST_INCOMING)]);
        bench
            .ask(by(USER_ON_V1).with("x-c", "two"))
            .is_forwarded("x-c: two")
            .is_assigned("reviews v2 by incoming");
        for stranger in ["db", "v2", "Two"] {
            let outcome = bench.ask(by(USER_ON_V2).with("x-c", stranger));
            outcome.is_forwarded("x-c: one").is_assigned("reviews v1 by no-such-version");
        }
    }
}

mod random_value_header {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"randomValueHeader":"x-r"}"#;

    /// A user whose number ends in 96. The number of [`USER_ON_V1`] ends in 05.
    const NUMBERED_V2: &str = "0123456789abcdef0123456789abcde";

    #[test]
    fn the_number_is_the_hash_of_the_key() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench
            .ask(by(USER_ON_V1))
            .is_forwarded("x-r: 16255817437575496405")
            .is_assigned("reviews v1 by sticky");
        let outcome = bench.ask(by(NUMBERED_V2));
        outcome.is_forwarded("x-r: 15164338561218698396").is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn the_number_picks_the_version_if_the_hash_would_pick_another() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        let outcome = bench.ask(by(USER_ON_V1).with("x-tester", "1"));
        outcome.is_forwarded("x-r: 80").is_assigned("reviews v2 by match");
        let mut bench = bench.set("two", DOWN);
        let outcome = bench.ask(by(NUMBERED_V2));
        outcome.is_forwarded("x-r: 76").is_assigned("reviews v1 by fallback");
        let lists = REVIEWS
            .replace(r#""default":true"#, &format!(r#""default":true,"allow":["{NUMBERED_V2}"]"#))
            .replace(r#""steer":{"header":"x-v"}"#, &format!(r#""steer":{STEER}"#))
            .replace(r#""weight":20"#, r#""weight":20,"allow":["alice"]"#);
        let mut bench = with_releases(&[&lists]);
        bench.ask(by(USER_ON_V1)).is_forwarded("x-r: 85").is_assigned("reviews v2 by allowed");
        bench.ask(by(NUMBERED_V2)).is_forwarded("x-r: 76").is_assigned("reviews v1 by allowed");
    }

    #[test]
    fn without_versions_the_number_is_the_only_edit() {
        let bare =
            format!(r#"{{"name":"reviews","steer":{STEER},"hashOn":[{{"httpHeaderName":"x-user"}}]}}"#);
        let mut bench = with_releases(&[&bare]).set("one", DOWN);
        let outcome = bench.ask(by(USER_ON_V1));
        outcome
            .is_forwarded("x-r: 16255817437575496405")
            .is_assigned("")
            .has_response_edits("")
            .has_filter_state("");
        bench.ask(get("/api")).is_forwarded("x-r: 2654435761");
        bench.ask(get("/api")).is_forwarded("x-r: 5308871522");
    }

    #[test]
    fn without_a_key_the_numbers_are_exact_over_each_total() {
        let thirds = format!(
            r#"{{"name":"reviews","steer":{STEER},"versions":[{{"name":"v1","upstream":"one","weight":1,"default":true}},
            {{"name":"v2","upstream":"two","weight":1}},{{"name":"v3","upstream":"db","weight":1}}]}}"#
        );
        let mut bench = with_releases(&[&thirds]);
        for round in 0..10_000 {
            let mut seen: Vec<String> = (0..3).map(|_| bench.ask(get("/")).assigned).collect();
            seen.sort();
            let each = ["v1", "v2", "v3"].map(|version| format!("reviews {version} by rotation"));
            assert_eq!(seen, each, "round {round}");
        }
    }

    #[test]
    fn an_incoming_number_is_ignored() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(USER_ON_V1).with("x-r", "99")).is_forwarded("x-r: 16255817437575496405");
        bench.ask(get("/other").with("x-r", "99")).is_forwarded("no x-r");
    }
}

mod filter_state {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"filterState":"envoy.string"}"#;

    #[test]
    fn filter_state_names_the_version_without_a_header() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench
            .ask(by(USER_ON_V1))
            .is_forwarded("")
            .has_filter_state("envoy.string: v1")
            .has_response_edits("");
        bench.ask(by(USER_ON_V2)).is_forwarded("").has_filter_state("envoy.string: v2");
        bench.ask(get("/other")).is_forwarded("").has_filter_state("");
    }

    #[test]
    fn of_releases_with_the_same_filter_state_the_first_counts() {
        let second = reviews(STEER, "").replace("reviews", "second").replace("/api", "/");
        let mut bench = with_releases(&[&reviews(STEER, ""), &second]);
        let outcome = bench.ask(by(USER_ON_V2));
        outcome.has_filter_state("envoy.string: v2").is_assigned("reviews v2 by sticky");
        assert!(bench.ask(get("/other")).assigned.starts_with("second "));
    }

    #[test]
    fn filter_state_and_headers_of_other_releases_both_apply() {
        let outcome = with_releases(&[&reviews(STEER, ""), &REVIEWS.replace("reviews", "more")])
            .ask(by(USER_ON_V2).with("x-tester", "1"));
        outcome.is_forwarded("x-v: v2").has_filter_state("envoy.string: v2");
        outcome.is_assigned("reviews v2 by match, more v2 by match");
    }
}

mod version_headers {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HEADERS: &str = r#","headers":{"request":{"add":{"x-c":"d"},"set":{"X-A":"b"},"remove":["x-e"]},
        "response":{"remove":["server"],"set":{"x-f":"g"},"add":{"x-f":"h"}}}"#;

    #[test]
    fn header_edits_follow_the_steer_header_as_remove_set_add() {
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS)]);
        let outcome = bench.ask(by(USER_ON_V2));
        outcome.is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
        outcome.has_response_edits("no server, x-f: g, also x-f: h");
        bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").has_response_edits("");
    }

    #[test]
    fn header_edits_are_those_of_the_assigned_version() {
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS)]).set("two", DOWN);
        bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v1").has_response_edits("");
    }

    #[test]
    fn the_response_header_names_the_version_if_configured() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, r#","responseHeader":"X-Served""#)]);
        bench.ask(by(USER_ON_V2)).has_response_edits("x-served: v2");
        bench.ask(get("/other")).has_response_edits("");
        bench.set("two", DOWN).ask(by(USER_ON_V2)).has_response_edits("x-served: v1");
    }

    /// Creates a bench with one closed gate, for requests with this header.
    fn gated(header: &str) -> Bench {
        let release = reviews_with_v2(HEADERS);
        let gate = format!(r#"{{"upstream":"db","match":[{{"headers":{{{header}}}}}]}}"#);
        Bench::new(policy(&format!(r#""releases":[{release}],"gates":[{gate}]"#))).set("db", DOWN)
    }

    #[test]
    fn a_gate_matches_on_edited_headers() {
        let mut set = gated(r#""x-a":{"exact":"b"}"#);
        set.ask(by(USER_ON_V2)).is_gated_by("db");
        set.ask(by(USER_ON_V2).with("x-a", "c")).is_gated_by("db");
        set.ask(by(USER_ON_V1)).is_forwarded("x-v: v1");
        let mut removed = gated(r#""x-e":{}"#);
        removed.ask(by(USER_ON_V1).with("x-e", "1")).is_gated_by("db");
        removed.ask(by(USER_ON_V2).with("x-e", "1")).is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
    }

    #[test]
    fn a_gate_matches_on_the_first_value_of_an_added_header() {
        let mut bench = gated(r#""x-c":{"exact":"d"}"#);
        bench.ask(by(USER_ON_V2)).is_gated_by("db");
        bench.ask(by(USER_ON_V2).with("x-c", "c")).is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
    }

    #[test]
    fn the_next_release_matches_on_edited_headers() {
        let second = REVIEWS
            .replace("reviews", "second")
            .replace("x-v", "x-w")
            .replace("x-tester\":{}", "x-a\":{\"exact\":\"b\"}");
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS), &second]);
        bench
            .ask(by(USER_ON_V1).with("x-tester", "1"))
            .is_assigned("reviews v2 by match, second v2 by match");
        bench.ask(by(USER_ON_V1)).is_assigned("reviews v1 by sticky, second v2 by sticky");
    }

    #[test]
    fn header_edits_follow_the_order_of_releases() {
        let first = reviews_with_v2(HEADERS)
            .replace(r#""name":"reviews""#, r#""name":"a","responseHeader":"x-served-a""#);
        let second = reviews(r#"{"header":"x-w"}"#, r#","responseHeader":"x-served-b""#);
        let outcome = with_releases(&[&first, &second]).ask(by(USER_ON_V2).with("x-tester", "1"));
        outcome.is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d, x-w: v2");
        outcome.has_response_edits("no server, x-f: g, also x-f: h, x-served-a: v2, x-served-b: v2");
    }
}

mod skip {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SKIP: &str = r#","skip":[{"uri":{"prefix":"/api/static"}},{"method":{"exact":"OPTIONS"}}]"#;

    #[test]
    fn a_skipped_request_gets_no_version() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIP)]);
        bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v2");
        for ask in [get("/api/static/a"), TestRequest::to("OPTIONS", "/api")] {
            let outcome = bench.ask(ask.with("x-user", USER_ON_V2).with("x-tester", "1"));
            outcome.is_forwarded("").is_assigned("").has_response_edits("");
        }
        bench.ask(get("/api/static").with("x-v", "v2")).is_forwarded("no x-v").is_assigned("");
    }

    #[test]
    fn a_skipped_request_takes_no_turn() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIP)]);
        let mut on_v2 = 0;
        for _ in 0..1_000 {
            on_v2 += u32::from(bench.ask(get("/api")).assigned == "reviews v2 by rotation");
            bench.ask(get("/api/static"));
        }
        assert_eq!(on_v2, 200);
    }

    #[test]
    fn a_skipped_request_is_left_to_the_next_release() {
        let second = REVIEWS.replace("reviews", "second");
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIP), &second]);
        let outcome = bench.ask(get("/api/static").with("x-user", USER_ON_V2).with("x-tester", "1"));
        outcome.is_forwarded("x-v: v2").is_assigned("second v2 by match");
    }
}

mod unknown_trusted_version {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_header_stays_for_the_next_hop_and_the_default_version_gets_the_request() {
        let extra = format!(r#"{TRUST_INCOMING},"responseHeader":"x-served""#);
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, &extra)]);
        for stranger in [&b"v9"[..], b"V2", b"\xff"] {
            let outcome = bench.ask(by(USER_ON_V2).with("x-v", stranger));
            outcome
                .is_forwarded("")
                .is_assigned("reviews v1 by no-such-version")
                .has_response_edits("x-served: v1");
        }
        bench.ask(by(USER_ON_V2).with("x-v", "")).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn a_gate_matches_on_the_received_version() {
        let trusting = reviews(r#"{"header":"x-v"}"#, TRUST_INCOMING);
        let gate = r#"{"upstream":"db","match":[{"headers":{"x-v":{"exact":"v9"}}}]}"#;
        let mut bench =
            Bench::new(policy(&format!(r#""releases":[{trusting}],"gates":[{gate}]"#))).set("db", DOWN);
        bench.ask(by(USER_ON_V1).with("x-v", "v9")).is_gated_by("db");
        bench.ask(by(USER_ON_V1).with("x-v", "v8")).is_forwarded("");
    }
}

mod issued_cookie {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Returns [`REVIEWS`] with this cookie as its last key, and these fields.
    fn issuing(cookie: &str, fields: &str) -> String {
        let key = format!(r#"{{"httpHeaderName":"x-user"}},{{"httpCookie":{{{cookie}}}}}"#);
        REVIEWS
            .replace(r#"{"httpHeaderName":"x-user"}"#, &key)
            .replace(r#""name":"reviews""#, &format!(r#""name":"reviews"{fields}"#))
    }

    const ID: &str = r#""name":"id","ttl":"24h""#;

    /// Returns [`issuing`] with weights v1 100 and v2 0.
    fn ended(fields: &str) -> String {
        issuing(ID, fields).replace(r#""weight":20"#, r#""weight":0"#)
    }

    const ISSUED_KEY: &str = "692d6720-0000000000009f86";
    const TAKEN_BACK: &str = "also set-cookie: id=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax";

    /// Returns the value of the cookie in the only edit of the response.
    fn issued_key(outcome: &Outcome) -> String {
        let response = outcome.response.as_deref().unwrap();
        let cookie = response.strip_prefix("also set-cookie: id=").unwrap_or_else(|| panic!("{outcome:?}"));
        cookie
            .strip_suffix("; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax")
            .unwrap_or_else(|| panic!("{outcome:?}"))
            .to_owned()
    }

    #[test]
    fn a_cookie_keeps_its_user_on_the_version_that_issued_it() {
        let mut bench = with_releases(&[&issuing(ID, "")]).at(1_764_583_200);
        let mut on_v2 = 0;
        for _ in 0..100 {
            let first = bench.ask(get("/api"));
            let key = issued_key(&first);
            assert!(key.starts_with("692d6720-") && key.len() == 25, "{key}");
            on_v2 += u32::from(first.assigned == "reviews v2 by rotation");
            let next = bench.ask(get("/api").with("cookie", format!("a=b; id={key}")));
            assert_eq!(next.assigned, first.assigned.replace("rotation", "sticky"));
            next.has_response_edits("");
        }
        assert_eq!(on_v2, 20);
    }

    #[test]
    fn a_cookie_has_the_configured_attributes() {
        let cookie = r#""name":"id","ttl":"0s","path":"/shop","domain":"example.com","secure":true,"httpOnly":true,"sameSite":"None","partitioned":true"#;
        let outcome = with_releases(&[&issuing(cookie, "")]).ask(get("/api"));
        let attributes = "; Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned";
        assert!(outcome.response.as_ref().unwrap().ends_with(attributes), "{outcome:?}");
        assert!(!outcome.response.as_ref().unwrap().contains("Max-Age"), "{outcome:?}");
    }

    #[test]
    fn a_cookie_is_issued_only_for_a_version_by_rotation() {
        let mut bench = with_releases(&[&issuing(ID, ""), &REVIEWS.replace("reviews", "more")]);
        for ask in [
            by(USER_ON_V2),
            get("/api").with("x-tester", "1"),
            get("/api").with("cookie", "id=alice"),
            get("/other"),
        ] {
            bench.ask(ask).has_response_edits("");
        }
        issued_key(&bench.ask(get("/api").with("cookie", "id=")));
    }

    #[test]
    fn a_cookie_is_added_after_the_response_edits_of_the_version() {
        let extra = r#","headers":{"response":{"remove":["set-cookie"]}}"#;
        let release = issuing(ID, r#","responseHeader":"x-served""#)
            .replace(r#""default":true"#, &format!(r#""default":true{extra}"#));
        let outcome = with_releases(&[&release]).ask(get("/api"));
        let start = "no set-cookie, x-served: v1, also set-cookie: id=";
        assert!(outcome.response.as_ref().unwrap().starts_with(start), "{outcome:?}");
    }

    #[test]
    fn a_cookie_is_issued_even_if_the_version_falls_back() {
        let mut bench = with_releases(&[&issuing(ID, "")]).set("two", DOWN);
        let fallback =
            (0..100).map(|_| bench.ask(get("/api"))).find(|outcome| outcome.assigned.ends_with("fallback"));
        let key = issued_key(&fallback.unwrap());
        let mut bench = bench.set("two", Admission::Ready);
        let outcome = bench.ask(get("/api").with("cookie", format!("id={key}")));
        outcome.is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn two_releases_with_the_same_cookie_issue_it_once() {
        let second = issuing(ID, "").replace("reviews", "second").replace("x-v", "x-w");
        let mut bench = with_releases(&[&issuing(ID, ""), &second]);
        let first = bench.ask(get("/api"));
        let key = issued_key(&first);
        assert!(first.assigned.starts_with("reviews v1 by rotation, second v"), "{first:?}");
        let next = bench.ask(get("/api").with("cookie", format!("id={key}")));
        assert_eq!(next.assigned, first.assigned.replace("rotation", "sticky"));
    }

    #[test]
    fn two_releases_with_different_cookies_issue_both() {
        let second = issuing(&ID.replace("id", "id2"), "").replace("reviews", "second").replace("x-v", "x-w");
        let outcome = with_releases(&[&issuing(ID, ""), &second]).ask(get("/api"));
        let response = outcome.response.as_deref().unwrap();
        assert_eq!(response.matches("also set-cookie: id").count(), 2, "{response}");
        assert!(response.contains("also set-cookie: id2="), "{response}");
    }

    #[test]
    fn a_cookie_is_taken_back_once_the_release_has_ended() {
        let mut bench = with_releases(&[&ended("")]);
        bench.ask(get("/api")).has_response_edits("").is_assigned("reviews v1 by rotation");
        let carrying = || get("/api").with("cookie", format!("id={ISSUED_KEY}"));
        bench.ask(carrying()).has_response_edits(TAKEN_BACK).is_assigned("reviews v1 by sticky");
        bench.ask(carrying().with("x-user", "alice")).has_response_edits(TAKEN_BACK);
        bench.ask(get("/other").with("cookie", format!("id={ISSUED_KEY}"))).has_response_edits("");
    }

    #[test]
    fn a_cookie_that_was_not_issued_is_never_taken_back() {
        let mut bench = with_releases(&[&ended("")]);
        for strange in ["id=alice", "id=", "id=692d6720-0000000000009F86", "other=692d6720-0000000000009f86"]
        {
            bench.ask(get("/api").with("cookie", strange)).has_response_edits("");
        }
    }

    #[test]
    fn a_cookie_is_kept_while_a_step_or_the_start_is_pending() {
        let step = r#","schedule":[{"at":"1970-01-01T00:01:40Z","over":"100s","weights":{"v1":100,"v2":0}}]"#;
        for (fields, end) in [(step, 200), (r#","startsAt":"1970-01-01T00:01:40Z""#, 100)] {
            let carrying = || get("/api").with("cookie", format!("id={ISSUED_KEY}"));
            let mut bench = with_releases(&[&ended(fields)]).at(end - 1);
            issued_key(&bench.ask(get("/api")));
            bench.ask(carrying()).has_response_edits("");
            bench.at(end).ask(carrying()).has_response_edits(TAKEN_BACK);
        }
    }

    #[test]
    fn a_cookie_is_kept_while_another_release_issues_it() {
        let second =
            issuing(ID, "").replace("reviews", "second").replace("x-v", "x-w").replace("/api", "/more");
        let mut bench = with_releases(&[&ended(""), &second]);
        bench.ask(get("/api").with("cookie", format!("id={ISSUED_KEY}"))).has_response_edits("");
        bench.ask(get("/api")).has_response_edits("");
        issued_key(&bench.ask(get("/more")));
    }

    #[test]
    fn a_cookie_from_before_the_start_keeps_its_user_on_the_default_version() {
        let starts = issuing(ID, r#","startsAt":"2025-12-01T10:00:00Z""#);
        let mut bench = with_releases(&[&starts]).at(1_764_583_199);
        let keys: Vec<String> = (0..50)
            .map(|_| {
                let outcome = bench.ask(get("/api"));
                let key = issued_key(outcome.is_assigned("reviews v1 by rotation"));
                outcome.is_forwarded(&format!("x-v: v1, cookie: id={key}"));
                key
            })
            .collect();
        let mut bench = bench.at(1_764_583_200);
        for key in keys {
            let outcome = bench.ask(get("/api").with("cookie", format!("id={key}")));
            outcome
                .is_forwarded("x-v: v1")
                .is_assigned("reviews v1 by existing-session")
                .has_response_edits("");
        }
        let on_v2 = (0..100).filter(|_| bench.ask(get("/api")).assigned == "reviews v2 by rotation").count();
        assert_eq!(on_v2, 20);
    }
}

#[test]
fn allow_and_deny_lists_apply() {
    let mut bench =
        with_releases(&[&reviews_with_v2(&format!(r#","allow":["alice"],"deny":["{USER_ON_V2}"]"#))]);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v2").is_assigned("reviews v2 by allowed");
    bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by denied");
    bench.set("two", DOWN).ask(by(USER_ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
}

#[test]
fn before_the_start_all_but_overrides_get_the_default_version() {
    let mut bench =
        with_releases(&[&reviews(r#"{"header":"x-v"}"#, r#","startsAt":"1970-01-01T00:01:40Z""#)]);
    bench.ask(by(USER_ON_V2)).is_assigned("reviews v1 by sticky");
    bench.ask(get("/api")).is_assigned("reviews v1 by rotation");
    bench.ask(by(USER_ON_V1).with("x-tester", "1")).is_assigned("reviews v2 by match");
    bench.at(100).ask(by(USER_ON_V2)).is_assigned("reviews v2 by sticky");
}

#[test]
fn of_releases_that_use_one_header_in_different_ways_the_first_counts() {
    let cluster = reviews(r#"{"clusterHeader":"x-v"}"#, "").replace("reviews", "second").replace("/api", "/");
    let mut bench = with_releases(&[REVIEWS, &cluster]);
    bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    bench.ask(get("/other").with("x-tester", "1")).is_forwarded("x-v: two").is_assigned("second v2 by match");
}

#[test]
fn a_release_matches_on_the_version_of_the_release_before() {
    let second = REVIEWS
        .replace("reviews", "second")
        .replace("x-v", "x-w")
        .replace("x-tester\":{}", "x-v\":{\"exact\":\"v2\"}");
    let outcome = with_releases(&[REVIEWS, &second]).ask(by(USER_ON_V1).with("x-tester", "1"));
    outcome.is_forwarded("x-v: v2, x-w: v2").is_assigned("reviews v2 by match, second v2 by match");
}

#[test]
fn releases_do_not_edit_the_replies_of_gates_and_probes() {
    let cookie = r#","hashOn":[{"httpCookie":{"name":"id","ttl":"24h"}}]"#;
    let headers = r#","headers":{"response":{"set":{"x-f":"g"},"remove":["retry-after"]}}"#;
    let release = REVIEWS
        .replace(r#""hashOn":[{"httpHeaderName":"x-user"}],"#, "")
        .replace(r#""name":"reviews""#, &format!(r#""name":"reviews","responseHeader":"x-served"{cookie}"#))
        .replace(r#""default":true"#, &format!(r#""default":true{headers}"#));
    let parts = r#""probes":{"liveness":{"path":"/livez"}},"gates":[{"upstream":"db"}]"#;
    let mut plain = Bench::new(policy(parts)).set("db", DOWN);
    let mut bench = Bench::new(policy(&format!(r#"{parts},"releases":[{release}]"#))).set("db", DOWN);
    for path in ["/api", "/livez"] {
        let reply = bench.ask(get(path)).reply.unwrap();
        assert_eq!(Some(reply), plain.ask(get(path)).reply, "{path}");
    }
    let outcome = bench.set("db", Admission::Ready).ask(get("/api"));
    assert!(outcome.response.as_ref().unwrap().contains("set-cookie"), "{outcome:?}");
}
