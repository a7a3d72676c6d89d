use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn steer_the_requests_they_are_for() {
    let mut bench = with_releases(&[REVIEWS]);
    bench.ask(by(ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky").holds_permits("");
    bench.ask(by(ON_V2)).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    bench.ask(by(ON_V1).with("x-tester", "")).is_forwarded("x-v: v2").is_assigned("reviews v2 by match");
    bench.ask(get("/other").with("x-user", ON_V2)).is_forwarded("").is_assigned("");
}

#[test]
fn deal_requests_with_no_key_out_by_weight() {
    let mut bench = with_releases(&[REVIEWS]);
    let mut on_v2 = 0;
    for _ in 0..1_000 {
        on_v2 += u32::from(bench.ask(get("/api")).assigned == "reviews v2 by rotation");
    }
    assert_eq!(on_v2, 200);
}

#[test]
fn overwrite_an_incoming_version_that_they_do_not_trust() {
    let mut bench = with_releases(&[REVIEWS]);
    for spoofed in [&b"v2"[..], b"v9", b"", b"\xff"] {
        bench.ask(by(ON_V1).with("x-v", spoofed)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky");
    }
}

#[test]
fn strip_their_header_from_requests_they_are_not_for() {
    let other = REVIEWS.replace("reviews", "other").replace("x-v", "x-w");
    let mut bench = with_releases(&[REVIEWS, &REVIEWS.replace("reviews", "more"), &other]);
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("no x-v");
    bench.ask(get("/other").with("x-w", "\u{1}").with("x-v", "")).is_forwarded("no x-v, no x-w");
}

#[test]
fn leave_alone_a_header_that_any_of_them_trusts() {
    let trusting = REVIEWS
        .replace("reviews", "inside")
        .replace("/api", "/inside")
        .replace(r#""steer""#, r#""trustIncoming":true,"steer""#);
    let mut bench = with_releases(&[REVIEWS, &trusting]);
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("");
    bench.ask(by(ON_V1).with("x-v", "v2")).is_forwarded("x-v: v1");
    bench.ask(get("/inside").with("x-v", "v2")).is_forwarded("x-v: v2").is_assigned("inside v2 by incoming");
}

#[test]
fn are_not_matched_by_a_header_that_they_do_not_trust() {
    let tester = REVIEWS.replace("x-tester\":{}", "x-v\":{\"exact\":\"v2\"}");
    with_releases(&[&tester]).ask(by(ON_V1).with("x-v", "v2")).is_assigned("reviews v1 by sticky");
}

#[test]
fn that_steer_by_one_header_count_in_the_documents_order() {
    let second = REVIEWS.replace("reviews", "second").replace("/api", "/");
    let mut bench = with_releases(&[REVIEWS, &second]);
    let told = bench.ask(by(ON_V2));
    told.is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    assert!(bench.ask(get("/other")).assigned.starts_with("second "));
}

#[test]
fn that_steer_by_headers_of_their_own_count_each() {
    let ratings = REVIEWS.replace("reviews", "ratings").replace("x-v", "x-ratings");
    let told = with_releases(&[REVIEWS, &ratings]).ask(by(ON_V2).with("x-tester", "1"));
    told.is_forwarded("x-v: v2, x-ratings: v2").is_assigned("reviews v2 by match, ratings v2 by match");
}

/// [`REVIEWS`] that steers so, with these fields.
fn reviews(steer: &str, fields: &str) -> String {
    REVIEWS
        .replace(r#""steer":{"header":"x-v"}"#, &format!(r#""steer":{steer}"#))
        .replace(r#""name":"reviews""#, &format!(r#""name":"reviews"{fields}"#))
}

/// [`REVIEWS`] whose v2 has these fields.
fn reviews_with_v2(fields: &str) -> String {
    REVIEWS.replace(r#""weight":20"#, &format!(r#""weight":20{fields}"#))
}

const TRUSTS: &str = r#","trustIncoming":true"#;

mod a_cluster_header {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"clusterHeader":"x-c"}"#;

    #[test]
    fn names_the_cluster_of_the_version() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(ON_V1)).is_forwarded("x-c: one").is_assigned("reviews v1 by sticky");
        bench.ask(by(ON_V2)).is_forwarded("x-c: two").is_assigned("reviews v2 by sticky");
        let mut bench = bench.set("two", DOWN);
        bench.ask(by(ON_V2)).is_forwarded("x-c: one").is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn from_outside_reaches_no_cluster() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        for spoofed in ["two", "admin", "v2", ""] {
            bench.ask(by(ON_V1).with("x-c", spoofed)).is_forwarded("x-c: one");
            bench.ask(get("/other").with("x-c", spoofed)).is_forwarded("no x-c").is_assigned("");
        }
    }

    #[test]
    fn that_is_trusted_reaches_the_clusters_of_the_release_alone() {
        let mut bench = with_releases(&[&reviews(STEER, TRUSTS)]);
        bench
            .ask(by(ON_V1).with("x-c", "two"))
            .is_forwarded("x-c: two")
            .is_assigned("reviews v2 by incoming");
        for stranger in ["db", "v2", "Two"] {
            let told = bench.ask(by(ON_V2).with("x-c", stranger));
            told.is_forwarded("x-c: one").is_assigned("reviews v1 by no-such-version");
        }
    }
}

mod a_random_value_header {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"randomValueHeader":"x-r"}"#;

    /// By its number, which ends in 96. The one of [`ON_V1`] ends in 05.
    const NUMBERED_V2: &str = "0123456789abcdef0123456789abcde";

    #[test]
    fn is_the_hash_of_the_key() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(ON_V1)).is_forwarded("x-r: 16255817437575496405").is_assigned("reviews v1 by sticky");
        let told = bench.ask(by(NUMBERED_V2));
        told.is_forwarded("x-r: 15164338561218698396").is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn is_a_number_of_the_version_where_that_is_another_one() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        let told = bench.ask(by(ON_V1).with("x-tester", "1"));
        told.is_forwarded("x-r: 80").is_assigned("reviews v2 by match");
        let mut bench = bench.set("two", DOWN);
        let told = bench.ask(by(NUMBERED_V2));
        told.is_forwarded("x-r: 76").is_assigned("reviews v1 by fallback");
        let lists = REVIEWS
            .replace(r#""default":true"#, &format!(r#""default":true,"allow":["{NUMBERED_V2}"]"#))
            .replace(r#""steer":{"header":"x-v"}"#, &format!(r#""steer":{STEER}"#))
            .replace(r#""weight":20"#, r#""weight":20,"allow":["alice"]"#);
        let mut bench = with_releases(&[&lists]);
        bench.ask(by(ON_V1)).is_forwarded("x-r: 85").is_assigned("reviews v2 by allowed");
        bench.ask(by(NUMBERED_V2)).is_forwarded("x-r: 76").is_assigned("reviews v1 by allowed");
    }

    #[test]
    fn without_versions_is_all_there_is() {
        let bare =
            format!(r#"{{"name":"reviews","steer":{STEER},"hashOn":[{{"httpHeaderName":"x-user"}}]}}"#);
        let mut bench = with_releases(&[&bare]).set("one", DOWN);
        let told = bench.ask(by(ON_V1));
        told.is_forwarded("x-r: 16255817437575496405").is_assigned("").comes_back_with("").is_noted_as("");
        bench.ask(get("/api")).is_forwarded("x-r: 2654435761");
        bench.ask(get("/api")).is_forwarded("x-r: 5308871522");
    }

    #[test]
    fn without_a_key_is_exact_over_each_total() {
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
    fn from_outside_counts_for_nothing() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(ON_V1).with("x-r", "99")).is_forwarded("x-r: 16255817437575496405");
        bench.ask(get("/other").with("x-r", "99")).is_forwarded("no x-r");
    }
}

mod filter_state {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const STEER: &str = r#"{"filterState":"envoy.string"}"#;

    #[test]
    fn names_the_version_and_no_header_does() {
        let mut bench = with_releases(&[&reviews(STEER, "")]);
        bench.ask(by(ON_V1)).is_forwarded("").is_noted_as("envoy.string: v1").comes_back_with("");
        bench.ask(by(ON_V2)).is_forwarded("").is_noted_as("envoy.string: v2");
        bench.ask(get("/other")).is_forwarded("").is_noted_as("");
    }

    #[test]
    fn has_the_version_of_the_first_release_that_notes_it() {
        let second = reviews(STEER, "").replace("reviews", "second").replace("/api", "/");
        let mut bench = with_releases(&[&reviews(STEER, ""), &second]);
        let told = bench.ask(by(ON_V2));
        told.is_noted_as("envoy.string: v2").is_assigned("reviews v2 by sticky");
        assert!(bench.ask(get("/other")).assigned.starts_with("second "));
    }

    #[test]
    fn stands_beside_the_headers_of_other_releases() {
        let told = with_releases(&[&reviews(STEER, ""), &REVIEWS.replace("reviews", "more")])
            .ask(by(ON_V2).with("x-tester", "1"));
        told.is_forwarded("x-v: v2").is_noted_as("envoy.string: v2");
        told.is_assigned("reviews v2 by match, more v2 by match");
    }
}

mod the_headers_of_a_version {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HEADERS: &str = r#","headers":{"request":{"add":{"x-c":"d"},"set":{"X-A":"b"},"remove":["x-e"]},
        "response":{"remove":["server"],"set":{"x-f":"g"},"add":{"x-f":"h"}}}"#;

    #[test]
    fn are_removed_set_and_added_in_this_order_after_the_version_is_known() {
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS)]);
        let told = bench.ask(by(ON_V2));
        told.is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
        told.comes_back_with("no server, x-f: g, also x-f: h");
        bench.ask(by(ON_V1)).is_forwarded("x-v: v1").comes_back_with("");
    }

    #[test]
    fn are_those_of_the_version_that_it_got() {
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS)]).set("two", DOWN);
        bench.ask(by(ON_V2)).is_forwarded("x-v: v1").comes_back_with("");
    }

    #[test]
    fn tell_the_version_where_the_release_says_so() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, r#","responseHeader":"X-Served""#)]);
        bench.ask(by(ON_V2)).comes_back_with("x-served: v2");
        bench.ask(get("/other")).comes_back_with("");
        bench.set("two", DOWN).ask(by(ON_V2)).comes_back_with("x-served: v1");
    }

    /// A bench whose one gate is for requests with this header, and closed.
    fn gated(header: &str) -> Bench {
        let release = reviews_with_v2(HEADERS);
        let gate = format!(r#"{{"upstream":"db","match":[{{"headers":{{{header}}}}}]}}"#);
        Bench::new(policy(&format!(r#""releases":[{release}],"gates":[{gate}]"#))).set("db", DOWN)
    }

    #[test]
    fn are_on_the_request_that_a_gate_sees() {
        let mut set = gated(r#""x-a":{"exact":"b"}"#);
        set.ask(by(ON_V2)).is_gated_by("db");
        set.ask(by(ON_V2).with("x-a", "c")).is_gated_by("db");
        set.ask(by(ON_V1)).is_forwarded("x-v: v1");
        let mut removed = gated(r#""x-e":{}"#);
        removed.ask(by(ON_V1).with("x-e", "1")).is_gated_by("db");
        removed.ask(by(ON_V2).with("x-e", "1")).is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
    }

    #[test]
    fn that_are_added_leave_a_gate_the_first_value() {
        let mut bench = gated(r#""x-c":{"exact":"d"}"#);
        bench.ask(by(ON_V2)).is_gated_by("db");
        bench.ask(by(ON_V2).with("x-c", "c")).is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d");
    }

    #[test]
    fn are_what_the_next_release_matches_on() {
        let second = REVIEWS
            .replace("reviews", "second")
            .replace("x-v", "x-w")
            .replace("x-tester\":{}", "x-a\":{\"exact\":\"b\"}");
        let mut bench = with_releases(&[&reviews_with_v2(HEADERS), &second]);
        bench.ask(by(ON_V1).with("x-tester", "1")).is_assigned("reviews v2 by match, second v2 by match");
        bench.ask(by(ON_V1)).is_assigned("reviews v1 by sticky, second v2 by sticky");
    }

    #[test]
    fn follow_those_of_the_release_before() {
        let first = reviews_with_v2(HEADERS)
            .replace(r#""name":"reviews""#, r#""name":"a","responseHeader":"x-served-a""#);
        let second = reviews(r#"{"header":"x-w"}"#, r#","responseHeader":"x-served-b""#);
        let told = with_releases(&[&first, &second]).ask(by(ON_V2).with("x-tester", "1"));
        told.is_forwarded("x-v: v2, no x-e, x-a: b, also x-c: d, x-w: v2");
        told.comes_back_with("no server, x-f: g, also x-f: h, x-served-a: v2, x-served-b: v2");
    }
}

mod a_request_that_is_skipped {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SKIPS: &str = r#","skip":[{"uri":{"prefix":"/api/static"}},{"method":{"exact":"OPTIONS"}}]"#;

    #[test]
    fn has_no_part_in_the_release() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIPS)]);
        bench.ask(by(ON_V2)).is_forwarded("x-v: v2");
        for ask in [get("/api/static/a"), Ask::to("OPTIONS", "/api")] {
            let told = bench.ask(ask.with("x-user", ON_V2).with("x-tester", "1"));
            told.is_forwarded("").is_assigned("").comes_back_with("");
        }
        bench.ask(get("/api/static").with("x-v", "v2")).is_forwarded("no x-v").is_assigned("");
    }

    #[test]
    fn takes_no_turn() {
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIPS)]);
        let mut on_v2 = 0;
        for _ in 0..1_000 {
            on_v2 += u32::from(bench.ask(get("/api")).assigned == "reviews v2 by rotation");
            bench.ask(get("/api/static"));
        }
        assert_eq!(on_v2, 200);
    }

    #[test]
    fn is_left_to_the_next_release() {
        let second = REVIEWS.replace("reviews", "second");
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, SKIPS), &second]);
        let told = bench.ask(get("/api/static").with("x-user", ON_V2).with("x-tester", "1"));
        told.is_forwarded("x-v: v2").is_assigned("second v2 by match");
    }
}

mod a_trusted_version_that_does_not_exist {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn stays_for_the_next_hop_while_the_default_serves_it() {
        let extra = format!(r#"{TRUSTS},"responseHeader":"x-served""#);
        let mut bench = with_releases(&[&reviews(r#"{"header":"x-v"}"#, &extra)]);
        for stranger in [&b"v9"[..], b"V2", b"\xff"] {
            let told = bench.ask(by(ON_V2).with("x-v", stranger));
            told.is_forwarded("")
                .is_assigned("reviews v1 by no-such-version")
                .comes_back_with("x-served: v1");
        }
        bench.ask(by(ON_V2).with("x-v", "")).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn is_what_a_gate_sees() {
        let trusting = reviews(r#"{"header":"x-v"}"#, TRUSTS);
        let gate = r#"{"upstream":"db","match":[{"headers":{"x-v":{"exact":"v9"}}}]}"#;
        let mut bench =
            Bench::new(policy(&format!(r#""releases":[{trusting}],"gates":[{gate}]"#))).set("db", DOWN);
        bench.ask(by(ON_V1).with("x-v", "v9")).is_gated_by("db");
        bench.ask(by(ON_V1).with("x-v", "v8")).is_forwarded("");
    }
}

mod an_issued_cookie {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// [`REVIEWS`] with this cookie as its last key, and these fields.
    fn issuing(cookie: &str, fields: &str) -> String {
        let key = format!(r#"{{"httpHeaderName":"x-user"}},{{"httpCookie":{{{cookie}}}}}"#);
        REVIEWS
            .replace(r#"{"httpHeaderName":"x-user"}"#, &key)
            .replace(r#""name":"reviews""#, &format!(r#""name":"reviews"{fields}"#))
    }

    const ID: &str = r#""name":"id","ttl":"24h""#;

    /// [`issuing`] whose weights are v1 100 and v2 0.
    fn ended(fields: &str) -> String {
        issuing(ID, fields).replace(r#""weight":20"#, r#""weight":0"#)
    }

    const OWN: &str = "692d6720-0000000000009f86";
    const TAKEN_BACK: &str = "also set-cookie: id=; Max-Age=0; Path=/";

    /// The value of the cookie in the one edit that a response gets.
    fn given(told: &Told) -> String {
        let response = told.response.as_deref().unwrap();
        let cookie = response.strip_prefix("also set-cookie: id=").unwrap_or_else(|| panic!("{told:?}"));
        cookie.strip_suffix("; Max-Age=86400; Path=/").unwrap_or_else(|| panic!("{told:?}")).to_owned()
    }

    #[test]
    fn brings_its_user_back_to_the_version_whose_turn_it_was() {
        let mut bench = with_releases(&[&issuing(ID, "")]).at(1_764_583_200);
        let mut on_v2 = 0;
        for _ in 0..100 {
            let first = bench.ask(get("/api"));
            let key = given(&first);
            assert!(key.starts_with("692d6720-") && key.len() == 25, "{key}");
            on_v2 += u32::from(first.assigned == "reviews v2 by rotation");
            let next = bench.ask(get("/api").with("cookie", format!("a=b; id={key}")));
            assert_eq!(next.assigned, first.assigned.replace("rotation", "sticky"));
            next.comes_back_with("");
        }
        assert_eq!(on_v2, 20);
    }

    #[test]
    fn has_the_attributes_that_the_policy_says() {
        let cookie = r#""name":"id","ttl":"0s","path":"/shop","domain":"example.com","secure":true,"httpOnly":true,"sameSite":"None","partitioned":true"#;
        let told = with_releases(&[&issuing(cookie, "")]).ask(get("/api"));
        let attributes = "; Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned";
        assert!(told.response.as_ref().unwrap().ends_with(attributes), "{told:?}");
        assert!(!told.response.as_ref().unwrap().contains("Max-Age"), "{told:?}");
    }

    #[test]
    fn is_for_those_who_have_no_version_by_anything_else() {
        let mut bench = with_releases(&[&issuing(ID, ""), &REVIEWS.replace("reviews", "more")]);
        for ask in [
            by(ON_V2),
            get("/api").with("x-tester", "1"),
            get("/api").with("cookie", "id=alice"),
            get("/other"),
        ] {
            bench.ask(ask).comes_back_with("");
        }
        given(&bench.ask(get("/api").with("cookie", "id=")));
    }

    #[test]
    fn comes_after_what_the_version_does_to_the_response() {
        let extra = r#","headers":{"response":{"remove":["set-cookie"]}}"#;
        let release = issuing(ID, r#","responseHeader":"x-served""#)
            .replace(r#""default":true"#, &format!(r#""default":true{extra}"#));
        let told = with_releases(&[&release]).ask(get("/api"));
        let start = "no set-cookie, x-served: v1, also set-cookie: id=";
        assert!(told.response.as_ref().unwrap().starts_with(start), "{told:?}");
    }

    #[test]
    fn that_falls_back_is_given_all_the_same() {
        let mut bench = with_releases(&[&issuing(ID, "")]).set("two", DOWN);
        let fallback =
            (0..100).map(|_| bench.ask(get("/api"))).find(|told| told.assigned.ends_with("fallback"));
        let key = given(&fallback.unwrap());
        let mut bench = bench.set("two", Admission::Ready);
        let told = bench.ask(get("/api").with("cookie", format!("id={key}")));
        told.is_assigned("reviews v2 by sticky");
    }

    #[test]
    fn is_one_for_two_releases_that_share_it() {
        let second = issuing(ID, "").replace("reviews", "second").replace("x-v", "x-w");
        let mut bench = with_releases(&[&issuing(ID, ""), &second]);
        let first = bench.ask(get("/api"));
        let key = given(&first);
        assert!(first.assigned.starts_with("reviews v1 by rotation, second v"), "{first:?}");
        let next = bench.ask(get("/api").with("cookie", format!("id={key}")));
        assert_eq!(next.assigned, first.assigned.replace("rotation", "sticky"));
    }

    #[test]
    fn is_one_each_for_two_releases_that_name_them_apart() {
        let second = issuing(&ID.replace("id", "id2"), "").replace("reviews", "second").replace("x-v", "x-w");
        let told = with_releases(&[&issuing(ID, ""), &second]).ask(get("/api"));
        let response = told.response.as_deref().unwrap();
        assert_eq!(response.matches("also set-cookie: id").count(), 2, "{response}");
        assert!(response.contains("also set-cookie: id2="), "{response}");
    }

    #[test]
    fn is_taken_back_once_the_release_has_ended() {
        let mut bench = with_releases(&[&ended("")]);
        bench.ask(get("/api")).comes_back_with("").is_assigned("reviews v1 by rotation");
        let carrying = || get("/api").with("cookie", format!("id={OWN}"));
        bench.ask(carrying()).comes_back_with(TAKEN_BACK).is_assigned("reviews v1 by sticky");
        bench.ask(carrying().with("x-user", "alice")).comes_back_with(TAKEN_BACK);
        bench.ask(get("/other").with("cookie", format!("id={OWN}"))).comes_back_with("");
    }

    #[test]
    fn of_a_strangers_making_is_never_taken_back() {
        let mut bench = with_releases(&[&ended("")]);
        for strange in ["id=alice", "id=", "id=692d6720-0000000000009F86", "other=692d6720-0000000000009f86"]
        {
            bench.ask(get("/api").with("cookie", strange)).comes_back_with("");
        }
    }

    #[test]
    fn is_kept_while_a_step_or_the_start_lies_ahead() {
        let step = r#","schedule":[{"at":"1970-01-01T00:01:40Z","over":"100s","weights":{"v1":100,"v2":0}}]"#;
        for (fields, end) in [(step, 200), (r#","startsAt":"1970-01-01T00:01:40Z""#, 100)] {
            let carrying = || get("/api").with("cookie", format!("id={OWN}"));
            let mut bench = with_releases(&[&ended(fields)]).at(end - 1);
            given(&bench.ask(get("/api")));
            bench.ask(carrying()).comes_back_with("");
            bench.at(end).ask(carrying()).comes_back_with(TAKEN_BACK);
        }
    }

    #[test]
    fn is_kept_while_another_release_issues_it() {
        let second =
            issuing(ID, "").replace("reviews", "second").replace("x-v", "x-w").replace("/api", "/more");
        let mut bench = with_releases(&[&ended(""), &second]);
        bench.ask(get("/api").with("cookie", format!("id={OWN}"))).comes_back_with("");
        bench.ask(get("/api")).comes_back_with("");
        given(&bench.ask(get("/more")));
    }

    #[test]
    fn from_before_the_start_keeps_its_user_on_the_default() {
        let starts = issuing(ID, r#","startsAt":"2025-12-01T10:00:00Z""#);
        let mut bench = with_releases(&[&starts]).at(1_764_583_199);
        let keys: Vec<String> = (0..50)
            .map(|_| {
                let told = bench.ask(get("/api"));
                given(told.is_forwarded("x-v: v1").is_assigned("reviews v1 by rotation"))
            })
            .collect();
        let mut bench = bench.at(1_764_583_200);
        for key in keys {
            let told = bench.ask(get("/api").with("cookie", format!("id={key}")));
            told.is_forwarded("x-v: v1").is_assigned("reviews v1 by existing-session").comes_back_with("");
        }
        let on_v2 = (0..100).filter(|_| bench.ask(get("/api")).assigned == "reviews v2 by rotation").count();
        assert_eq!(on_v2, 20);
    }
}

#[test]
fn give_those_on_a_list_what_it_says() {
    let mut bench = with_releases(&[&reviews_with_v2(&format!(r#","allow":["alice"],"deny":["{ON_V2}"]"#))]);
    bench.ask(by(ON_V1)).is_forwarded("x-v: v2").is_assigned("reviews v2 by allowed");
    bench.ask(by(ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by denied");
    bench.set("two", DOWN).ask(by(ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
}

#[test]
fn give_everybody_the_default_until_they_start_but_for_overrides() {
    let mut bench =
        with_releases(&[&reviews(r#"{"header":"x-v"}"#, r#","startsAt":"1970-01-01T00:01:40Z""#)]);
    bench.ask(by(ON_V2)).is_assigned("reviews v1 by sticky");
    bench.ask(get("/api")).is_assigned("reviews v1 by rotation");
    bench.ask(by(ON_V1).with("x-tester", "1")).is_assigned("reviews v2 by match");
    bench.at(100).ask(by(ON_V2)).is_assigned("reviews v2 by sticky");
}

#[test]
fn that_steer_by_one_header_in_different_ways_count_in_the_documents_order() {
    let cluster = reviews(r#"{"clusterHeader":"x-v"}"#, "").replace("reviews", "second").replace("/api", "/");
    let mut bench = with_releases(&[REVIEWS, &cluster]);
    bench.ask(by(ON_V2)).is_forwarded("x-v: v2").is_assigned("reviews v2 by sticky");
    bench.ask(get("/other").with("x-tester", "1")).is_forwarded("x-v: two").is_assigned("second v2 by match");
}

#[test]
fn match_on_the_version_of_the_release_before() {
    let second = REVIEWS
        .replace("reviews", "second")
        .replace("x-v", "x-w")
        .replace("x-tester\":{}", "x-v\":{\"exact\":\"v2\"}");
    let told = with_releases(&[REVIEWS, &second]).ask(by(ON_V1).with("x-tester", "1"));
    told.is_forwarded("x-v: v2, x-w: v2").is_assigned("reviews v2 by match, second v2 by match");
}

#[test]
fn leave_nothing_in_the_replies_of_gates_and_probes() {
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
    let told = bench.set("db", Admission::Ready).ask(get("/api"));
    assert!(told.response.as_ref().unwrap().contains("set-cookie"), "{told:?}");
}
