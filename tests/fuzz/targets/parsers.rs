//! Everything that reads text from outside: each gets the whole input.

use core::time::Duration;

use graygate::decision::release::cookie;
use graygate::policy::format;
use graygate::policy::keys;
use graygate::policy::spelling;
use graygate::readiness::check::CheckStep;
use graygate::readiness::check::redirect::{self, CheckTarget};
use graygate::readiness::permit;
use graygate::value::authority::Authority;
use graygate::value::baggage;
use graygate::value::content_type;
use graygate::value::date::Date;
use graygate::value::deadline::CallerDeadline;
use graygate::value::duration;
use graygate::value::filter_state;
use graygate::value::host::{self, Hosts, MeshPlace};
use graygate::value::parse;
use graygate::value::peers::Peers;
use graygate::value::request;
use graygate::value::response::{self, retry_after};
use graygate::value::string_match::{Pattern, StringMatch};
use graygate::value::time::Time;

pub fn run(input: &[u8]) {
    times(input);
    parts(input);
    responses(input);
    redirects(input);
    if let Ok(text) = core::str::from_utf8(input) {
        texts(text);
    }
}

fn times(input: &[u8]) {
    let now = Time::from_millis(7);
    let today = Date::from_millis(1_800_000_000_000);
    for end in [retry_after::of_http(input, now, || today), retry_after::of_grpc(input, now)] {
        assert!(end.is_none_or(|end| end >= now), "a backoff that ends before it begins");
    }
    for header in ["grpc-timeout", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms"]
    {
        let deadline = CallerDeadline::read(|name| (name == header).then_some(input));
        let _ = deadline.has_passed(Duration::from_millis(u64::MAX));
    }
    if let Some(date) = cookie::issued_at(input) {
        assert!(!date.to_string().is_empty());
    }
}

fn parts(input: &[u8]) {
    let is_part = |part: &[u8]| part.len() <= input.len();
    for name in ["a", "", "gray-id"] {
        assert!(request::cookie(input, name).is_none_or(is_part));
        assert!(request::query_values(input, name).all(is_part));
        assert!(baggage::value(input, name).is_none_or(|value| is_part(&value)));
        let gone = baggage::without(input, &[name.to_owned()]);
        assert!(gone.is_none_or(|rest| rest.len() < input.len()));
        if !name.is_empty()
            && let Ok(after) = baggage::with(input, name, "v1")
        {
            assert_eq!(baggage::with(&after, name, "v1").as_deref(), Ok(&*after));
        }
    }
    assert!(input.starts_with(request::path(input)));
    let authority = Authority::of(input);
    assert!(authority.with_port().starts_with(authority.host()));
    let leases = permit::read(input);
    assert_eq!(permit::read(permit::write(leases.iter().copied()).as_bytes()), leases);
    let address = request::address(input);
    assert!(address.is_none_or(|address| request::address(address.to_string().as_bytes()) == Some(address)));
    let _ = Peers::new(Some(input), Some(input));
    let _ = content_type::is_grpc(input);
    let _: Option<u64> = parse::number(input);
    let _ = MeshPlace::of_node(input);
}

fn responses(details: &[u8]) {
    let _ = response::broke_off(details);
    let _ = response::was_reset(details);
    let _ = response::is_timeout(details);
    let _ = response::is_limit(details);
    let _ = response::had_no_cluster(details);
    let _ = response::is_of_upstream(details);
}

/// A `location` never leads to another host, nor to what no request line can hold.
fn redirects(location: &[u8]) {
    let target = CheckTarget {
        method: "GET",
        scheme: "http".to_owned(),
        authority: "app:80".to_owned(),
        host: None,
        path: "/healthz".to_owned(),
        user: None,
        referer: None,
    };
    if let CheckStep::Follow(next) = redirect::follow("app", &target, 0, 302, location) {
        assert!(next.path.starts_with('/'), "{next:?}");
        assert_eq!(next.authority.split(':').next(), Some("app"), "{next:?}");
        for text in [&next.path, &next.authority, next.referer.as_ref().unwrap()] {
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{next:?}");
        }
    }
}

fn texts(text: &str) {
    // Several parts together may be longer than one.
    if let Some(span) = duration::parse(text)
        && let Ok(millis) = u64::try_from(span.as_millis())
    {
        assert_eq!(duration::parse(&format!("{millis}ms")), Some(span));
    }
    for date in [Date::from_rfc3339(text), Date::from_http(text)].into_iter().flatten() {
        if date <= Date::LAST {
            assert_eq!(Date::from_rfc3339(&date.to_string()), Some(date));
        }
    }
    let mut hosts = Hosts::default();
    let place = MeshPlace::of_node(b"sidecar~10.1.2.3~app-1.shop~shop.svc.cluster.local");
    if hosts.add(text, place).is_ok() && !text.contains('*') {
        assert!(hosts.include(&Authority::of(text.as_bytes())), "{text:?} does not include itself");
    }
    let _ = host::of_cluster(text);
    assert!(text.starts_with(host::shortest(text)));
    let _ = spelling::nearest(text, &["upstream", "weight"]);
    let _ = spelling::nearest_key(text, &keys::POLICY);
    assert!(!format::is_label(text) || text.len() < 64);
    assert!(filter_state::message(text, text).is_none_or(|message| message.len() == 2 * text.len() + 4));
    patterns(text);
}

/// The first line is a regular expression, the rest a value. One of letters alone matches itself, and nothing longer.
fn patterns(text: &str) {
    let (pattern, value) = text.split_once('\n').unwrap_or((text, ""));
    for ignore_case in [false, true] {
        let Ok(compiled) = Pattern::compile(pattern, ignore_case) else { continue };
        let condition = StringMatch::Regex(compiled);
        let _ = condition.evaluate(Some(value.as_bytes()), ignore_case);
        if pattern.bytes().all(|byte| byte.is_ascii_alphanumeric()) && pattern.len() < 32 {
            assert!(condition.holds(Some(pattern.as_bytes()), ignore_case));
            assert!(!condition.holds(Some(format!("{pattern}x").as_bytes()), ignore_case));
        }
    }
}
