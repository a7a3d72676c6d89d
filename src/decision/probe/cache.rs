//! The cache of the app's answer to a probe that passes through.
//!
//! The filter itself asks the app, with a call that belongs to no client. A client that leaves ends nothing. However
//! many clients probe, and on whatever worker, there is one call at a time. There is none while the last result is
//! fresh. A call holds a lease, which expires in case the VM of the call dies.
//!
//! A request does not get a result that has expired. It waits for the next one. So a failure of the app shows after at
//! most the time for which a result is fresh, plus the time that the app takes. Only a request that finds no room to
//! wait gets an old result.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::result::ProbeStatus;
use crate::decision::reply::{Header, ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::{PassThrough, ProbeKind};
use crate::value::time::Time;

/// The maximum length of a cached body, in bytes. The kubelet reads less.
pub const BODY: usize = 16 * 1024;

/// The time that the app has for an answer. No request waits longer than that and one tick.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The time for which a call holds the lease. It exceeds [`TIMEOUT`], so that the end of a call comes first.
const LEASE: Duration = Duration::from_secs(11);

/// The last result of one probe, and the call that fetches the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedProbe {
    last: Option<FetchResult>,
    fetch: Option<PendingFetch>,
    /// Whether the proxy did not accept the last call.
    unsent: bool,
}

/// The result of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchResult {
    /// The time at which the call ended.
    pub at: Time,
    /// How the call ended.
    pub outcome: FetchOutcome,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchOutcome {
    /// The app responded, or the proxy responded that the app is unreachable.
    Response(CachedResponse),
    /// The app did not respond in time.
    TimedOut,
    /// The response broke off.
    BrokenOff,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PendingFetch {
    id: u64,
    from: Time,
}

/// What a request for the probe gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The last result, which is fresh.
    Hit(FetchResult),
    /// The result of a call that its worker sends now.
    Fetch,
    /// The result of a call that has not ended.
    Wait,
}

impl CachedProbe {
    /// Returns what a request gets at `now`. If that is [`Lookup::Fetch`], the call `id` holds the lease. `id` must be
    /// unique to the call.
    pub fn ask(&mut self, rule: &PassThrough, now: Time, id: u64) -> Lookup {
        let is_within = |from: Time, span: Duration| now < from + span;
        if let Some(fresh) = self.last.as_ref().filter(|result| is_within(result.at, rule.cache)) {
            return Lookup::Hit(fresh.clone());
        }
        if self.fetch.is_some_and(|fetch| is_within(fetch.from, LEASE)) {
            return Lookup::Wait;
        }
        self.fetch = Some(PendingFetch { id, from: now });
        Lookup::Fetch
    }

    /// Returns the last result, however old.
    pub fn last(&self) -> Option<&FetchResult> {
        self.last.as_ref()
    }

    /// Takes the result of the call `id`. A response after the end of the lease is still the app's latest. A failure is
    /// not, because a later call may have got a response. Returns whether the call had the lease.
    pub fn end(&mut self, id: u64, result: FetchResult) -> bool {
        let had_lease = self.release(id);
        if had_lease || matches!(result.outcome, FetchOutcome::Response(_)) {
            self.last = Some(result);
        }
        self.unsent = false;
        had_lease
    }

    /// Takes that the proxy did not accept the call `id`. Returns whether it is the first such call in a row.
    pub fn give_up(&mut self, id: u64) -> bool {
        self.release(id);
        !core::mem::replace(&mut self.unsent, true)
    }

    /// Ends the lease of the call `id`. Returns whether the call had it.
    pub fn release(&mut self, id: u64) -> bool {
        self.fetch.take_if(|fetch| fetch.id == id).is_some()
    }
}

/// Returns the reply with this result. A replayed response states its age and how long it is fresh.
pub fn reply(policy: &Policy, index: usize, rule: &PassThrough, result: FetchResult, now: Time) -> Reply {
    let response = match result.outcome {
        FetchOutcome::Response(response) => response,
        FetchOutcome::TimedOut => return unanswered(policy, index),
        FetchOutcome::BrokenOff => return line(policy, index, 503, "failed: the app's response broke off"),
    };
    let cached = response.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut headers: Vec<Header> = cached.collect();
    headers.push(("age".into(), now.since(result.at).as_secs().to_string().into()));
    if !headers.iter().any(|(name, _)| name == "cache-control") {
        headers.push(("cache-control".into(), format!("max-age={}", rule.cache.as_secs()).into()));
    }
    let status = u32::from(response.status);
    Reply::to_probe(policy, ProbeTarget::Endpoint(index), status, verdict(status), headers, response.body)
}

/// Returns the reply to a request that cannot wait for the first result. As with the kubelet, a liveness probe starts
/// as passed and a readiness probe as failed.
pub fn pending(policy: &Policy, index: usize) -> Reply {
    match policy.probes.endpoints.get(index).map(|probe| probe.kind) {
        Some(ProbeKind::Liveness) => line(policy, index, 200, "passed: the app has not responded yet"),
        _ => line(policy, index, 503, "failed: the app has not responded yet"),
    }
}

/// Returns the reply that reports that the app does not respond.
pub fn unanswered(policy: &Policy, index: usize) -> Reply {
    line(policy, index, 503, "failed: the app does not respond")
}

fn line(policy: &Policy, index: usize, status: u32, text: &str) -> Reply {
    let asked = ProbeTarget::Endpoint(index);
    let text = format!("{} {text}", asked.name(policy));
    Reply::line_to_probe(policy, asked, status, verdict(status), &text)
}

fn verdict(status: u32) -> &'static str {
    let verdict = if status < 400 { ProbeStatus::Passed } else { ProbeStatus::Failed };
    verdict.name()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn response(millis: u64) -> FetchResult {
        let response = CachedResponse { status: 200, headers: Vec::new(), body: b"up".to_vec() };
        FetchResult { at: at(millis), outcome: FetchOutcome::Response(response) }
    }

    fn timeout(millis: u64) -> FetchResult {
        FetchResult { at: at(millis), outcome: FetchOutcome::TimedOut }
    }

    /// Returns a cache that is fresh for two seconds, after call 1 got a response at 0.
    fn cache_with_response() -> (PassThrough, CachedProbe) {
        let rule =
            PassThrough { cache: Duration::from_secs(2), headers: Vec::new(), host: None, upstream: None };
        let mut cached = CachedProbe::default();
        assert_eq!(cached.ask(&rule, at(0), 1), Lookup::Fetch);
        cached.end(1, response(0));
        (rule, cached)
    }

    #[test]
    fn a_response_is_replayed_while_it_is_fresh_and_then_fetched_again() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(1_999), 2), Lookup::Hit(response(0)));
        assert_eq!(cached.ask(&rule, at(2_000), 3), Lookup::Fetch);
    }

    #[test]
    fn there_is_one_call_at_a_time_and_all_others_wait_for_its_result() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(60_000), 2), Lookup::Fetch);
        assert_eq!(cached.ask(&rule, at(60_001), 3), Lookup::Wait);
        assert_eq!(cached.ask(&rule, at(69_999), 4), Lookup::Wait);
        assert_eq!(cached.last(), Some(&response(0)));
        cached.end(2, response(69_999));
        assert_eq!(cached.ask(&rule, at(70_000), 5), Lookup::Hit(response(69_999)));
    }

    #[test]
    fn a_failure_is_replayed_like_a_response() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(2_000), 2), Lookup::Fetch);
        cached.end(2, timeout(12_000));
        assert_eq!(cached.ask(&rule, at(13_999), 3), Lookup::Hit(timeout(12_000)));
        assert_eq!(cached.ask(&rule, at(14_000), 4), Lookup::Fetch);
    }

    #[test]
    fn a_call_that_was_not_sent_frees_the_lease_and_only_the_first_in_a_row_is_news() {
        let (rule, mut cached) = cache_with_response();
        for (id, is_first) in [(2, true), (3, false)] {
            assert_eq!(cached.ask(&rule, at(2_000), id), Lookup::Fetch);
            assert_eq!(cached.give_up(id), is_first);
        }
        assert_eq!(cached.ask(&rule, at(2_001), 4), Lookup::Fetch);
        cached.end(4, response(2_002));
        assert_eq!(cached.ask(&rule, at(5_000), 5), Lookup::Fetch);
        assert!(cached.give_up(5));
    }

    #[test]
    fn after_the_end_of_a_lease_a_response_counts_and_a_failure_does_not() {
        let (rule, mut cached) = cache_with_response();
        assert_eq!(cached.ask(&rule, at(2_000), 2), Lookup::Fetch);
        assert_eq!(cached.ask(&rule, at(12_999), 3), Lookup::Wait);
        assert_eq!(cached.ask(&rule, at(13_000), 4), Lookup::Fetch);
        cached.end(2, timeout(13_001));
        assert_eq!(cached.ask(&rule, at(13_002), 5), Lookup::Wait);
        cached.end(2, response(13_003));
        assert_eq!(cached.ask(&rule, at(13_004), 6), Lookup::Hit(response(13_003)));
    }

    #[test]
    fn a_replay_states_its_age_and_how_long_it_is_fresh() {
        let (rule, cached) = cache_with_response();
        let text = br#"{"name":"p","probes":{"liveness":{"path":"/l","passThrough":{"cacheSeconds":2}},
            "readiness":{"path":"/r","passThrough":{"cacheSeconds":2}}}}"#;
        let policy = Policy::from_json(text).unwrap();
        let replay = reply(&policy, 0, &rule, cached.last.unwrap(), at(3_500));
        let headers: Vec<_> = replay.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(headers, ["age: 3", "cache-control: max-age=2"]);
        assert_eq!((replay.status, replay.details.as_str()), (200, "graygate_probe{p|liveness}"));
        let failed = |outcome| {
            let reply = reply(&policy, 0, &rule, FetchResult { at: at(0), outcome }, at(0));
            (reply.status, String::from_utf8(reply.body).unwrap())
        };
        let line = |text: &str| (503, format!("policy p: liveness failed: {text}\n"));
        assert_eq!(failed(FetchOutcome::TimedOut), line("the app does not respond"));
        assert_eq!(failed(FetchOutcome::BrokenOff), line("the app's response broke off"));
        assert_eq!((pending(&policy, 0).status, pending(&policy, 1).status), (200, 503));
    }
}
