//! The cache of the app's response to a probe that passes through.
//!
//! However many clients probe, and on whatever worker, one request at a time is forwarded to the app. It
//! holds a lease that expires. The others get the cached response, which carries its age.
//!
//! Once requests have waited for the app for as long as a response is fresh, the others get an error instead.
//! All waiting since the app's last response counts, whichever requests did it. Otherwise clients that give
//! up early would make a hung app look alive.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::reply::{Header, ProbeTarget, Reply, ReplyCause};
use crate::policy::Policy;
use crate::policy::probe::{PassThrough, ProbeKind};
use crate::value::time::Time;

/// The maximum length of a cached body, in bytes. The kubelet reads less.
pub const BODY: usize = 16 * 1024;

/// The time for which one request holds the lease.
const LEASE: Duration = Duration::from_secs(10);

/// The cached response to one probe, and the request that fetches the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedProbe {
    response: Option<CachedResponse>,
    fetch: Option<PendingFetch>,
    /// The time that requests have waited without a response since the last response.
    waited: Duration,
}

/// A response of the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedResponse {
    /// The status.
    pub status: u16,
    /// The headers that the policy names, if the response has them.
    pub headers: Vec<(String, String)>,
    /// The body, or the first [`BODY`] bytes of it.
    pub body: Vec<u8>,
    /// The time at which it arrived.
    pub at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PendingFetch {
    id: u64,
    from: Time,
}

/// What a request for the probe gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The cached response.
    Hit(CachedResponse),
    /// It is forwarded to the app.
    Miss,
    /// Nothing is cached yet, and the first request has not ended.
    Pending,
    /// The app has not responded for too long.
    Stale,
}

impl CachedProbe {
    /// Returns what a request gets at `now`. `id` must be unique to the request. Without one, the request may
    /// not be forwarded.
    pub fn ask(&mut self, rule: &PassThrough, now: Time, id: Option<u64>) -> Lookup {
        let is_within = |from: Time, span: Duration| now < from + span;
        if let Some(fresh) = self.response.as_ref().filter(|response| is_within(response.at, rule.cache)) {
            return Lookup::Hit(fresh.clone());
        }
        let pending = self.fetch.filter(|fetch| is_within(fetch.from, LEASE));
        if pending.is_none()
            && let Some(id) = id
        {
            self.fetch = Some(PendingFetch { id, from: now });
            return Lookup::Miss;
        }
        let pending_for = pending.map_or(Duration::ZERO, |fetch| now.since(fetch.from));
        if self.waited.saturating_add(pending_for) >= rule.cache {
            return Lookup::Stale;
        }
        match &self.response {
            Some(last) => Lookup::Hit(last.clone()),
            None => Lookup::Pending,
        }
    }

    /// Takes the end of the request `id` at `now`, with the app's response if there is one to cache. A
    /// response after the end of its lease is still the app's latest.
    pub fn end(&mut self, id: u64, response: Option<CachedResponse>, now: Time) {
        let ended = self.fetch.take_if(|fetch| fetch.id == id);
        if response.is_some() {
            self.response = response;
            self.waited = Duration::ZERO;
        } else if let Some(fetch) = ended {
            self.waited = self.waited.saturating_add(now.since(fetch.from));
        }
    }
}

/// Returns the reply that replays `response`. It states its age and how long it is fresh.
pub fn reply(
    policy: &Policy,
    index: usize,
    rule: &PassThrough,
    response: CachedResponse,
    now: Time,
) -> Reply {
    let cached = response.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut headers: Vec<Header> = cached.collect();
    headers.push(("age".into(), now.since(response.at).as_secs().to_string().into()));
    if !headers.iter().any(|(name, _)| name == "cache-control") {
        headers.push(("cache-control".into(), format!("max-age={}", rule.cache.as_secs()).into()));
    }
    let status = u32::from(response.status);
    Reply::to_probe(policy, ProbeTarget::Endpoint(index), status, result(status), headers, response.body)
}

/// Returns the reply before the first response. As with the kubelet, a liveness probe starts as passed and a
/// readiness probe as failed.
pub fn pending(policy: &Policy, index: usize) -> Reply {
    match policy.probes.endpoints.get(index).map(|probe| probe.kind) {
        Some(ProbeKind::Liveness) => line(policy, index, 200, "passed: the app has not answered yet"),
        _ => line(policy, index, 503, "failed: the app has not answered yet"),
    }
}

/// Returns the reply that reports that the app does not respond.
pub fn stale(policy: &Policy, index: usize) -> Reply {
    line(policy, index, 503, "failed: the app does not answer")
}

fn line(policy: &Policy, index: usize, status: u32, verdict: &str) -> Reply {
    let asked = ProbeTarget::Endpoint(index);
    let text = format!("{} {verdict}", asked.name(policy));
    Reply::line_to_probe(policy, asked, status, result(status), &text)
}

/// Returns what a response of the app with this status is counted as.
pub fn cause(index: usize, status: u16) -> ReplyCause {
    let code = u32::from(status);
    ReplyCause::Probe { asked: ProbeTarget::Endpoint(index), code, result: result(code) }
}

fn result(status: u32) -> &'static str {
    if status < 400 { "passed" } else { "failed" }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn response(millis: u64) -> Option<CachedResponse> {
        Some(CachedResponse { status: 200, headers: Vec::new(), body: b"up".to_vec(), at: at(millis) })
    }

    /// Returns a cache that is fresh for two seconds, after request 1 got a response at 0.
    fn cache_with_response() -> (PassThrough, CachedProbe) {
        let rule = PassThrough { cache: Duration::from_secs(2), headers: Vec::new(), host: None };
        let mut cached = CachedProbe::default();
        assert_eq!(cached.ask(&rule, at(0), Some(1)), Lookup::Miss);
        cached.end(1, response(0), at(0));
        (rule, cached)
    }

    fn is_hit(lookup: &Lookup) -> bool {
        matches!(lookup, Lookup::Hit(_))
    }

    #[test]
    fn a_response_is_replayed_while_it_is_fresh_and_then_fetched_again() {
        let (rule, mut cached) = cache_with_response();
        assert!(is_hit(&cached.ask(&rule, at(1_999), Some(2))));
        assert_eq!(cached.ask(&rule, at(2_000), Some(3)), Lookup::Miss);
    }

    #[test]
    fn one_request_at_a_time_is_forwarded_and_the_others_get_the_last_response_for_a_while() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(60_000), Some(2)), Lookup::Miss);
        assert!(is_hit(&cached.ask(&rule, at(60_001), Some(3))));
        assert!(is_hit(&cached.ask(&rule, at(61_999), Some(4))));
        assert_eq!(cached.ask(&rule, at(62_000), Some(5)), Lookup::Stale);
        cached.end(2, response(62_500), at(62_500));
        assert!(is_hit(&cached.ask(&rule, at(62_501), Some(6))));
    }

    #[test]
    fn before_the_first_response_the_others_are_pending_and_then_stale() {
        let (rule, _) = cache_with_response();
        let mut cached = CachedProbe::default();
        assert_eq!(cached.ask(&rule, at(0), Some(1)), Lookup::Miss);
        assert_eq!(cached.ask(&rule, at(1_999), Some(2)), Lookup::Pending);
        assert_eq!(cached.ask(&rule, at(2_000), Some(3)), Lookup::Stale);
    }

    /// An incomplete request could keep the others waiting for as long as it likes.
    #[test]
    fn a_request_that_may_not_be_forwarded_takes_no_lease() {
        let (rule, mut cached) = cache_with_response();
        assert!(is_hit(&cached.ask(&rule, at(60_000), None)));
        assert_eq!(cached.ask(&rule, at(60_001), Some(2)), Lookup::Miss);
        assert_eq!(CachedProbe::default().ask(&rule, at(0), None), Lookup::Pending);
    }

    #[test]
    fn a_request_without_a_response_frees_the_lease() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(2_000), Some(2)), Lookup::Miss);
        cached.end(2, None, at(2_000));
        assert_eq!(cached.ask(&rule, at(2_001), Some(3)), Lookup::Miss);
    }

    /// Otherwise clients that give up early would make a hung app look alive.
    #[test]
    fn the_waits_of_consecutive_requests_add_up() {
        let (rule, mut cached) = cache_with_response();
        for second in 60..62 {
            let from = second * 1_000;
            assert_eq!(cached.ask(&rule, at(from), Some(second)), Lookup::Miss);
            assert!(is_hit(&cached.ask(&rule, at(from + 900), Some(1_000 + second))));
            cached.end(second, None, at(from + 950));
        }
        assert_eq!(cached.ask(&rule, at(62_000), Some(3)), Lookup::Miss);
        assert_eq!(cached.ask(&rule, at(62_100), Some(4)), Lookup::Stale);
        cached.end(3, response(62_200), at(62_200));
        assert_eq!(cached.ask(&rule, at(80_000), Some(5)), Lookup::Miss);
        assert!(is_hit(&cached.ask(&rule, at(81_000), Some(6))));
    }

    #[test]
    fn a_response_after_the_end_of_its_lease_is_still_cached() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(2_000), Some(2)), Lookup::Miss);
        assert_eq!(cached.ask(&rule, at(11_999), Some(3)), Lookup::Stale);
        assert_eq!(cached.ask(&rule, at(12_000), Some(4)), Lookup::Miss);
        cached.end(2, response(12_001), at(12_001));
        assert_eq!(cached.ask(&rule, at(12_002), Some(5)), Lookup::Hit(response(12_001).unwrap()));
    }

    #[test]
    fn a_replay_states_its_age_and_how_long_it_is_fresh() {
        let (rule, cached) = cache_with_response();
        let text = br#"{"name":"p","probes":{"liveness":{"path":"/l","passThrough":{"cacheSeconds":2}},
            "readiness":{"path":"/r","passThrough":{"cacheSeconds":2}}}}"#;
        let policy = Policy::from_json(text).unwrap();
        let reply = reply(&policy, 0, &rule, cached.response.unwrap(), at(3_500));
        let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(headers, ["age: 3", "cache-control: max-age=2"]);
        assert_eq!((reply.status, reply.details.as_str()), (200, "graygate_probe{p|liveness}"));
        assert_eq!(stale(&policy, 0).body, b"policy p: liveness failed: the app does not answer\n");
        assert_eq!((pending(&policy, 0).status, pending(&policy, 1).status), (200, 503));
    }
}
