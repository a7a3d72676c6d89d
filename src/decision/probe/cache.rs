//! The app's own answer to a probe that passes through: fetched now and then, and replayed in between.
//!
//! However many ask, and on whatever worker, one request at a time goes on to the app, on a lease that ends
//! by itself. Until the app has been waited for as long as an answer is fresh, the others get the last answer,
//! whatever its age, which it carries; then they are told that there is none. All waiting counts since the
//! app's last answer, by whichever request: those who give up soon must not make a hung app look alive.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::reply::{Header, ProbeTarget, Reply, ReplyCause};
use crate::policy::Policy;
use crate::policy::probe::{PassThrough, ProbeKind};
use crate::value::time::Time;

/// The most of an answer's body that is kept, in bytes. The kubelet reads less than that.
pub const BODY: usize = 16 * 1024;

/// How long one request may be out before another is sent.
const LEASE: Duration = Duration::from_secs(10);

/// What is known of the app's answers to one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedProbe {
    answer: Option<CachedResponse>,
    fetch: Option<PendingFetch>,
    /// For how long requests that have ended were out for nothing since the last answer.
    waited: Duration,
}

/// An answer of the app's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedResponse {
    /// Its status.
    pub status: u16,
    /// The headers that the policy names, as far as it has them.
    pub headers: Vec<(String, String)>,
    /// Its body, or the first [`BODY`] bytes of it.
    pub body: Vec<u8>,
    /// When it was there.
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
    /// The last answer.
    Hit(CachedResponse),
    /// It is the one that goes on to the app.
    Miss,
    /// Nothing is known yet: the first request is still out.
    Pending,
    /// The app has not answered for too long.
    Stale,
}

impl CachedProbe {
    /// What a request gets at `now`. `id` is unique to it; with none, it may not be the one that goes on.
    pub fn ask(&mut self, rule: &PassThrough, now: Time, id: Option<u64>) -> Lookup {
        let within = |from: Time, span: Duration| !now.is_due(from, from + span);
        let replay = |answer: &CachedResponse| Lookup::Hit(answer.clone());
        if let Some(fresh) = self.answer.as_ref().filter(|answer| within(answer.at, rule.cache)) {
            return replay(fresh);
        }
        let out = self.fetch.filter(|fetch| within(fetch.from, LEASE));
        if let (None, Some(id)) = (out, id) {
            self.fetch = Some(PendingFetch { id, from: now });
            return Lookup::Miss;
        }
        let out = out.map_or(Duration::ZERO, |fetch| now.since(fetch.from));
        let waited = self.waited.saturating_add(out);
        match &self.answer {
            _ if waited >= rule.cache => Lookup::Stale,
            Some(last) => replay(last),
            None => Lookup::Pending,
        }
    }

    /// Takes the end of the request `id` at `now`: the app's answer, or none that may be kept. An answer that
    /// comes after its lease is still the app's latest word.
    pub fn end(&mut self, id: u64, answer: Option<CachedResponse>, now: Time) {
        let fetch = self.fetch;
        self.fetch = fetch.filter(|fetch| fetch.id != id);
        if answer.is_some() {
            (self.answer, self.waited) = (answer, Duration::ZERO);
        } else if let Some(fetch) = fetch.filter(|fetch| fetch.id == id) {
            self.waited = self.waited.saturating_add(now.since(fetch.from));
        }
    }
}

/// The reply that replays `answer`. By its age and how long it may be kept anyone can tell whether it is fresh.
pub fn reply(policy: &Policy, index: usize, rule: &PassThrough, answer: CachedResponse, now: Time) -> Reply {
    let kept = answer.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut headers: Vec<Header> = kept.collect();
    headers.push(("age".into(), now.since(answer.at).as_secs().to_string().into()));
    if !headers.iter().any(|(name, _)| name == "cache-control") {
        headers.push(("cache-control".into(), format!("max-age={}", rule.cache.as_secs()).into()));
    }
    let status = u32::from(answer.status);
    Reply::to_probe(policy, ProbeTarget::Endpoint(index), status, result(status), headers, answer.body)
}

/// The reply before the first answer: as with the kubelet, a liveness probe starts as passed, a readiness probe
/// as failed.
pub fn pending(policy: &Policy, index: usize) -> Reply {
    match policy.probes.endpoints.get(index).map(|probe| probe.kind) {
        Some(ProbeKind::Liveness) => say(policy, index, 200, "passed: the app has not answered yet"),
        _ => say(policy, index, 503, "failed: the app has not answered yet"),
    }
}

/// The reply that says that the app doesn't answer.
pub fn stale(policy: &Policy, index: usize) -> Reply {
    say(policy, index, 503, "failed: the app does not answer")
}

fn say(policy: &Policy, index: usize, status: u32, words: &str) -> Reply {
    let asked = ProbeTarget::Endpoint(index);
    let words = format!("{} {words}", asked.name(policy));
    Reply::line_to_probe(policy, asked, status, result(status), &words)
}

/// What an answer of the app's with this status is counted as.
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

    fn answer(millis: u64) -> Option<CachedResponse> {
        Some(CachedResponse { status: 200, headers: Vec::new(), body: b"up".to_vec(), at: at(millis) })
    }

    /// What is kept of two-second answers, after the request 1 was answered at 0.
    fn answered() -> (PassThrough, CachedProbe) {
        let rule = PassThrough { cache: Duration::from_secs(2), headers: Vec::new(), host: None };
        let mut kept = CachedProbe::default();
        assert_eq!(kept.ask(&rule, at(0), Some(1)), Lookup::Miss);
        kept.end(1, answer(0), at(0));
        (rule, kept)
    }

    fn replayed(recall: &Lookup) -> bool {
        matches!(recall, Lookup::Hit(_))
    }

    #[test]
    fn an_answer_is_replayed_while_it_is_fresh_and_then_fetched_again() {
        let (rule, mut kept) = answered();
        assert!(replayed(&kept.ask(&rule, at(1_999), Some(2))));
        assert_eq!(kept.ask(&rule, at(2_000), Some(3)), Lookup::Miss);
    }

    #[test]
    fn one_request_at_a_time_goes_on_and_the_others_get_the_last_answer_for_a_while() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(60_000), Some(2)), Lookup::Miss);
        assert!(replayed(&kept.ask(&rule, at(60_001), Some(3))));
        assert!(replayed(&kept.ask(&rule, at(61_999), Some(4))));
        assert_eq!(kept.ask(&rule, at(62_000), Some(5)), Lookup::Stale);
        kept.end(2, answer(62_500), at(62_500));
        assert!(replayed(&kept.ask(&rule, at(62_501), Some(6))));
    }

    #[test]
    fn before_the_first_answer_others_are_told_that_there_is_none() {
        let (rule, _) = answered();
        let mut kept = CachedProbe::default();
        assert_eq!(kept.ask(&rule, at(0), Some(1)), Lookup::Miss);
        assert_eq!(kept.ask(&rule, at(1_999), Some(2)), Lookup::Pending);
        assert_eq!(kept.ask(&rule, at(2_000), Some(3)), Lookup::Stale);
    }

    /// One that is not all there could keep the others waiting at its leisure.
    #[test]
    fn a_request_that_may_not_go_on_takes_nobodys_place() {
        let (rule, mut kept) = answered();
        assert!(replayed(&kept.ask(&rule, at(60_000), None)));
        assert_eq!(kept.ask(&rule, at(60_001), Some(2)), Lookup::Miss);
        assert_eq!(CachedProbe::default().ask(&rule, at(0), None), Lookup::Pending);
    }

    #[test]
    fn a_request_that_comes_to_nothing_makes_way_for_the_next() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), Some(2)), Lookup::Miss);
        kept.end(2, None, at(2_000));
        assert_eq!(kept.ask(&rule, at(2_001), Some(3)), Lookup::Miss);
    }

    /// Else a hung app would look as it last did for as long as anybody with little patience asks.
    #[test]
    fn requests_that_are_given_up_one_after_the_other_count_as_one_wait() {
        let (rule, mut kept) = answered();
        for second in 60..62 {
            let from = second * 1_000;
            assert_eq!(kept.ask(&rule, at(from), Some(second)), Lookup::Miss);
            assert!(replayed(&kept.ask(&rule, at(from + 900), Some(1_000 + second))));
            kept.end(second, None, at(from + 950));
        }
        assert_eq!(kept.ask(&rule, at(62_000), Some(3)), Lookup::Miss);
        assert_eq!(kept.ask(&rule, at(62_100), Some(4)), Lookup::Stale);
        kept.end(3, answer(62_200), at(62_200));
        assert_eq!(kept.ask(&rule, at(80_000), Some(5)), Lookup::Miss);
        assert!(replayed(&kept.ask(&rule, at(81_000), Some(6))));
    }

    #[test]
    fn a_clock_that_jumped_back_leaves_no_answer_for_good() {
        let (rule, mut kept) = answered();
        let earlier = Time::from_millis(500_000);
        assert_eq!(kept.ask(&rule, earlier, Some(2)), Lookup::Miss);
        let answer = CachedResponse { status: 500, headers: Vec::new(), body: Vec::new(), at: earlier };
        kept.end(2, Some(answer.clone()), earlier);
        assert_eq!(kept.ask(&rule, earlier, Some(3)), Lookup::Hit(answer));
    }

    #[test]
    fn a_request_that_takes_too_long_is_given_up_but_not_its_answer() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), Some(2)), Lookup::Miss);
        assert_eq!(kept.ask(&rule, at(11_999), Some(3)), Lookup::Stale);
        assert_eq!(kept.ask(&rule, at(12_000), Some(4)), Lookup::Miss);
        kept.end(2, answer(12_001), at(12_001));
        assert_eq!(kept.ask(&rule, at(12_002), Some(5)), Lookup::Hit(answer(12_001).unwrap()));
    }

    #[test]
    fn a_replay_tells_its_age_and_how_long_it_is_fresh() {
        let (rule, kept) = answered();
        let text = br#"{"name":"p","probes":{"liveness":{"path":"/l","passThrough":{"cacheSeconds":2}},
            "readiness":{"path":"/r","passThrough":{"cacheSeconds":2}}}}"#;
        let policy = Policy::from_json(text).unwrap();
        let reply = reply(&policy, 0, &rule, kept.answer.unwrap(), at(3_500));
        let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(headers, ["age: 3", "cache-control: max-age=2"]);
        assert_eq!((reply.status, reply.details.as_str()), (200, "graygate_probe{p|liveness}"));
        assert_eq!(stale(&policy, 0).body, b"policy p: liveness failed: the app does not answer\n");
        assert_eq!((pending(&policy, 0).status, pending(&policy, 1).status), (200, 503));
    }
}
