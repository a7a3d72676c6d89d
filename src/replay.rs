//! The app's own answer to a probe that passes through: fetched now and then, and replayed in between.
//!
//! However many ask, and on whatever worker, one request at a time goes on to the app, on a lease that ends
//! by itself. Until the app has been waited for as long as an answer is fresh, the others get the last answer,
//! whatever its age, which it carries; then they are told that there is none. All waiting counts since the
//! app's last answer, by whichever request: those who give up soon must not make a hung app look alive.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::policy::probe::{Kind, PassThrough};
use crate::reply::{Asked, Cause, Header, Reply};
use crate::time::Time;

/// The most of an answer's body that is kept, in bytes. The kubelet reads less than that.
pub const BODY: usize = 16 * 1024;

/// How long one request may be out before another is sent.
const LEASE: Duration = Duration::from_secs(10);

/// What is known of the app's answers to one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    answer: Option<Answer>,
    fetch: Option<Fetch>,
    /// For how long requests that have ended were out for nothing since the last answer.
    waited: Duration,
}

/// An answer of the app's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
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
struct Fetch {
    id: u64,
    from: Time,
}

/// What a request for the probe gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recall {
    /// The last answer.
    Replay(Answer),
    /// It is the one that goes on to the app.
    Fetch,
    /// Nothing is known yet: the first request is still out.
    Unknown,
    /// The app has not answered for too long.
    Silence,
}

impl Kept {
    /// What a request gets at `now`. `id` is unique to it; with none, it may not be the one that goes on.
    pub fn ask(&mut self, rule: &PassThrough, now: Time, id: Option<u64>) -> Recall {
        let within = |from: Time, span: Duration| !now.is_due(from, from + span);
        let replay = |answer: &Answer| Recall::Replay(answer.clone());
        if let Some(fresh) = self.answer.as_ref().filter(|answer| within(answer.at, rule.cache)) {
            return replay(fresh);
        }
        let out = self.fetch.filter(|fetch| within(fetch.from, LEASE));
        if let (None, Some(id)) = (out, id) {
            self.fetch = Some(Fetch { id, from: now });
            return Recall::Fetch;
        }
        let out = out.map_or(Duration::ZERO, |fetch| now.since(fetch.from));
        let waited = self.waited.saturating_add(out);
        match &self.answer {
            _ if waited >= rule.cache => Recall::Silence,
            Some(last) => replay(last),
            None => Recall::Unknown,
        }
    }

    /// Takes the end of the request `id` at `now`: the app's answer, or none that may be kept. An answer that
    /// comes after its lease is still the app's latest word.
    pub fn end(&mut self, id: u64, answer: Option<Answer>, now: Time) {
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
pub fn reply(policy: &Policy, place: usize, rule: &PassThrough, answer: Answer, now: Time) -> Reply {
    let kept = answer.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut headers: Vec<Header> = kept.collect();
    headers.push(("age".into(), now.since(answer.at).as_secs().to_string().into()));
    if !headers.iter().any(|(name, _)| name == "cache-control") {
        headers.push(("cache-control".into(), format!("max-age={}", rule.cache.as_secs()).into()));
    }
    let status = u32::from(answer.status);
    Reply::to_probe(policy, Asked::Endpoint(place), status, result(status), headers, answer.body)
}

/// The reply before the first answer: as with the kubelet, a liveness probe starts as passed, a readiness probe
/// as failed.
pub fn unknown(policy: &Policy, place: usize) -> Reply {
    match policy.probes.endpoints.get(place).map(|probe| probe.kind) {
        Some(Kind::Liveness) => say(policy, place, 200, "passed: the app has not answered yet"),
        _ => say(policy, place, 503, "failed: the app has not answered yet"),
    }
}

/// The reply that says that the app doesn't answer.
pub fn silence(policy: &Policy, place: usize) -> Reply {
    say(policy, place, 503, "failed: the app does not answer")
}

fn say(policy: &Policy, place: usize, status: u32, words: &str) -> Reply {
    let asked = Asked::Endpoint(place);
    let words = format!("{} {words}", asked.name(policy));
    Reply::line_to_probe(policy, asked, status, result(status), &words)
}

/// What an answer of the app's with this status is counted as.
pub fn cause(place: usize, status: u16) -> Cause {
    let code = u32::from(status);
    Cause::Probe { asked: Asked::Endpoint(place), code, result: result(code) }
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

    fn answer(millis: u64) -> Option<Answer> {
        Some(Answer { status: 200, headers: Vec::new(), body: b"up".to_vec(), at: at(millis) })
    }

    /// What is kept of two-second answers, after the request 1 was answered at 0.
    fn answered() -> (PassThrough, Kept) {
        let rule = PassThrough { cache: Duration::from_secs(2), headers: Vec::new(), host: None };
        let mut kept = Kept::default();
        assert_eq!(kept.ask(&rule, at(0), Some(1)), Recall::Fetch);
        kept.end(1, answer(0), at(0));
        (rule, kept)
    }

    fn replayed(recall: &Recall) -> bool {
        matches!(recall, Recall::Replay(_))
    }

    #[test]
    fn an_answer_is_replayed_while_it_is_fresh_and_then_fetched_again() {
        let (rule, mut kept) = answered();
        assert!(replayed(&kept.ask(&rule, at(1_999), Some(2))));
        assert_eq!(kept.ask(&rule, at(2_000), Some(3)), Recall::Fetch);
    }

    #[test]
    fn one_request_at_a_time_goes_on_and_the_others_get_the_last_answer_for_a_while() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(60_000), Some(2)), Recall::Fetch);
        assert!(replayed(&kept.ask(&rule, at(60_001), Some(3))));
        assert!(replayed(&kept.ask(&rule, at(61_999), Some(4))));
        assert_eq!(kept.ask(&rule, at(62_000), Some(5)), Recall::Silence);
        kept.end(2, answer(62_500), at(62_500));
        assert!(replayed(&kept.ask(&rule, at(62_501), Some(6))));
    }

    #[test]
    fn before_the_first_answer_others_are_told_that_there_is_none() {
        let (rule, _) = answered();
        let mut kept = Kept::default();
        assert_eq!(kept.ask(&rule, at(0), Some(1)), Recall::Fetch);
        assert_eq!(kept.ask(&rule, at(1_999), Some(2)), Recall::Unknown);
        assert_eq!(kept.ask(&rule, at(2_000), Some(3)), Recall::Silence);
    }

    /// One that is not all there could keep the others waiting at its leisure.
    #[test]
    fn a_request_that_may_not_go_on_takes_nobodys_place() {
        let (rule, mut kept) = answered();
        assert!(replayed(&kept.ask(&rule, at(60_000), None)));
        assert_eq!(kept.ask(&rule, at(60_001), Some(2)), Recall::Fetch);
        assert_eq!(Kept::default().ask(&rule, at(0), None), Recall::Unknown);
    }

    #[test]
    fn a_request_that_comes_to_nothing_makes_way_for_the_next() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), Some(2)), Recall::Fetch);
        kept.end(2, None, at(2_000));
        assert_eq!(kept.ask(&rule, at(2_001), Some(3)), Recall::Fetch);
    }

    /// Else a hung app would look as it last did for as long as anybody with little patience asks.
    #[test]
    fn requests_that_are_given_up_one_after_the_other_count_as_one_wait() {
        let (rule, mut kept) = answered();
        for second in 60..62 {
            let from = second * 1_000;
            assert_eq!(kept.ask(&rule, at(from), Some(second)), Recall::Fetch);
            assert!(replayed(&kept.ask(&rule, at(from + 900), Some(1_000 + second))));
            kept.end(second, None, at(from + 950));
        }
        assert_eq!(kept.ask(&rule, at(62_000), Some(3)), Recall::Fetch);
        assert_eq!(kept.ask(&rule, at(62_100), Some(4)), Recall::Silence);
        kept.end(3, answer(62_200), at(62_200));
        assert_eq!(kept.ask(&rule, at(80_000), Some(5)), Recall::Fetch);
        assert!(replayed(&kept.ask(&rule, at(81_000), Some(6))));
    }

    #[test]
    fn a_clock_that_jumped_back_leaves_no_answer_for_good() {
        let (rule, mut kept) = answered();
        let earlier = Time::from_millis(500_000);
        assert_eq!(kept.ask(&rule, earlier, Some(2)), Recall::Fetch);
        let answer = Answer { status: 500, headers: Vec::new(), body: Vec::new(), at: earlier };
        kept.end(2, Some(answer.clone()), earlier);
        assert_eq!(kept.ask(&rule, earlier, Some(3)), Recall::Replay(answer));
    }

    #[test]
    fn a_request_that_takes_too_long_is_given_up_but_not_its_answer() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), Some(2)), Recall::Fetch);
        assert_eq!(kept.ask(&rule, at(11_999), Some(3)), Recall::Silence);
        assert_eq!(kept.ask(&rule, at(12_000), Some(4)), Recall::Fetch);
        kept.end(2, answer(12_001), at(12_001));
        assert_eq!(kept.ask(&rule, at(12_002), Some(5)), Recall::Replay(answer(12_001).unwrap()));
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
        assert_eq!(silence(&policy, 0).body, b"policy p: liveness failed: the app does not answer\n");
        assert_eq!((unknown(&policy, 0).status, unknown(&policy, 1).status), (200, 503));
    }
}
