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
