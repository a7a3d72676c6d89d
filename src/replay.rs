//! The app's own answer to a probe that passes through: fetched now and then, and replayed in between.
//!
//! However many ask, and on whatever worker, one request at a time goes on to the app, on a lease that ends
//! by itself. While it is out, the others get the last answer for as long again as it was fresh; then they are
//! told that the app doesn't answer.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::policy::probe::{PassThrough, Probe};
use crate::reply::{Asked, Cause, Reply};
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
    /// The app has not answered in time.
    Silence,
}

impl Kept {
    /// What a request gets at `now`; `id` is unique to it.
    pub fn ask(&mut self, rule: &PassThrough, now: Time, id: u64) -> Recall {
        let within =
            |span: Duration| self.answer.as_ref().filter(|kept| !now.is_due(kept.at, kept.at + span));
        if let Some(fresh) = within(rule.cache) {
            return Recall::Replay(fresh.clone());
        }
        let out = self.fetch.is_some_and(|fetch| !now.is_due(fetch.from, fetch.from + LEASE));
        if !out {
            self.fetch = Some(Fetch { id, from: now });
            return Recall::Fetch;
        }
        match within(rule.cache * 2) {
            Some(last) => Recall::Replay(last.clone()),
            None => Recall::Silence,
        }
    }

    /// Takes the end of the request `id`: the app's answer, or none that may be kept.
    pub fn end(&mut self, id: u64, answer: Option<Answer>) {
        if self.fetch.is_none_or(|fetch| fetch.id != id) {
            return;
        }
        self.fetch = None;
        if answer.is_some() {
            self.answer = answer;
        }
    }
}

/// The reply that replays `answer`.
pub fn reply(policy: &Policy, place: usize, probe: &Probe, answer: Answer, now: Time) -> Reply {
    let mut headers = answer.headers;
    headers.push(("age".to_owned(), now.since(answer.at).as_secs().to_string()));
    make(policy, place, probe, u32::from(answer.status), headers, answer.body)
}

/// The reply that says that the app doesn't answer.
pub fn silence(policy: &Policy, place: usize, probe: &Probe) -> Reply {
    let body = format!("policy {}: {} failed: the app has not answered yet\n", policy.name, probe.name);
    let headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    make(policy, place, probe, 503, headers, body.into_bytes())
}

fn make(
    policy: &Policy,
    place: usize,
    probe: &Probe,
    status: u32,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
) -> Reply {
    let result = if status < 400 { "passed" } else { "failed" };
    Reply {
        status,
        grpc_status: None,
        headers,
        body,
        details: format!("graygate_probe{{{}|{}}}", policy.name, probe.name),
        cause: Cause::Probe { asked: Asked::Endpoint(place), code: status, result },
    }
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
        let rule = PassThrough { cache: Duration::from_secs(2), headers: Vec::new() };
        let mut kept = Kept::default();
        assert_eq!(kept.ask(&rule, at(0), 1), Recall::Fetch);
        kept.end(1, answer(0));
        (rule, kept)
    }

    fn replayed(recall: &Recall) -> bool {
        matches!(recall, Recall::Replay(_))
    }

    #[test]
    fn an_answer_is_replayed_while_it_is_fresh_and_then_fetched_again() {
        let (rule, mut kept) = answered();
        assert!(replayed(&kept.ask(&rule, at(1_999), 2)));
        assert_eq!(kept.ask(&rule, at(2_000), 3), Recall::Fetch);
    }

    #[test]
    fn one_request_at_a_time_goes_on() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), 2), Recall::Fetch);
        assert!(replayed(&kept.ask(&rule, at(2_001), 3)));
        assert!(replayed(&kept.ask(&rule, at(3_999), 4)));
        assert_eq!(kept.ask(&rule, at(4_000), 5), Recall::Silence);
        kept.end(2, answer(4_500));
        assert!(replayed(&kept.ask(&rule, at(4_501), 6)));
    }

    #[test]
    fn before_the_first_answer_others_are_told_that_there_is_none() {
        let (rule, _) = answered();
        let mut kept = Kept::default();
        assert_eq!(kept.ask(&rule, at(0), 1), Recall::Fetch);
        assert_eq!(kept.ask(&rule, at(1), 2), Recall::Silence);
    }

    #[test]
    fn a_request_that_comes_to_nothing_makes_way_for_the_next() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), 2), Recall::Fetch);
        kept.end(2, None);
        assert_eq!(kept.ask(&rule, at(2_001), 3), Recall::Fetch);
    }

    #[test]
    fn a_request_that_never_ends_is_given_up() {
        let (rule, mut kept) = answered();
        assert_eq!(kept.ask(&rule, at(2_000), 2), Recall::Fetch);
        assert_eq!(kept.ask(&rule, at(11_999), 3), Recall::Silence);
        assert_eq!(kept.ask(&rule, at(12_000), 4), Recall::Fetch);
        // Its answer is too late: another is on its way.
        kept.end(2, answer(12_001));
        assert_eq!(kept.ask(&rule, at(12_002), 5), Recall::Silence);
    }
}
