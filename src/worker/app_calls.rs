//! The calls to the app that one worker has in flight, and the requests that wait on it for the result of a call.

use core::time::Duration;

use crate::proxy::{CallId, ExchangeId};
use crate::value::time::Time;

/// The maximum number of requests that wait on one worker.
const MAX_WAITING: usize = 64;

/// The time after which a call is dropped. Normally the proxy has reported its end by then.
const MAX_CALL: Duration = Duration::from_secs(20);

/// The calls of a worker, and the requests that wait.
#[derive(Default)]
pub struct AppCalls {
    /// The calls that have not ended.
    pub calls: Vec<AppCall>,
    /// The requests that wait, the oldest first. Another worker may have sent the call for which one waits.
    pub waiting: Vec<WaitingProbe>,
}

/// A call that has not ended.
pub struct AppCall {
    /// The id that the proxy gave to the call.
    pub call: CallId,
    /// The id of the call among those of all workers.
    pub id: u64,
    /// The time at which it was sent.
    pub sent: Time,
    /// The index of the probe in the policy.
    pub endpoint: usize,
    /// The key of the cached result.
    pub key: String,
}

/// A request that waits for the result of a call.
pub struct WaitingProbe {
    /// The request.
    pub exchange: ExchangeId,
    /// The time at which it came.
    pub asked: Time,
    /// What it asks.
    pub question: Question,
}

/// What the app is asked for a probe.
#[derive(Clone)]
pub struct Question {
    /// The index of the probe in the policy.
    pub endpoint: usize,
    /// The key of the cached result.
    pub key: String,
    /// The cluster of the app.
    pub cluster: String,
    /// The headers of the call.
    pub headers: Vec<(&'static str, String)>,
}

impl AppCalls {
    /// Returns whether a request waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns whether no request waits and no call is in flight.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.calls.is_empty()
    }

    /// Returns whether no more requests may wait.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Adds a request that waits. Returns `false` if there is no room.
    pub fn wait(&mut self, waiting: WaitingProbe) -> bool {
        let has_room = !self.is_full();
        if has_room {
            self.waiting.push(waiting);
        }
        has_room
    }

    /// Takes the end of a request. Returns whether it waited.
    pub fn leave(&mut self, exchange: ExchangeId) -> bool {
        let index = self.waiting.iter().position(|waiting| waiting.exchange == exchange);
        index.map(|index| self.waiting.remove(index)).is_some()
    }

    /// Adds a call that was sent.
    pub fn sent(&mut self, call: AppCall) {
        self.calls.push(call);
    }

    /// Removes and returns a call.
    pub fn take_call(&mut self, call: CallId) -> Option<AppCall> {
        let index = self.calls.iter().position(|known| known.call == call)?;
        Some(self.calls.swap_remove(index))
    }

    /// Removes and returns the requests that wait for the result with this key.
    pub fn take_waiting(&mut self, key: &str) -> Vec<WaitingProbe> {
        self.waiting.extract_if(.., |waiting| waiting.question.key == key).collect()
    }

    /// Removes and returns the requests that have waited for at least this time.
    pub fn take_late(&mut self, now: Time, span: Duration) -> Vec<WaitingProbe> {
        let is_late = |waiting: &mut WaitingProbe| waiting.asked + span <= now;
        self.waiting.extract_if(.., is_late).collect()
    }

    /// Returns the questions of all waiting requests that no call of this worker asks, each once. Drops calls whose end
    /// the proxy never reported.
    pub fn questions_to_others(&mut self, now: Time) -> Vec<Question> {
        self.calls.retain(|call| now < call.sent + MAX_CALL);
        let mut questions: Vec<Question> = Vec::new();
        for WaitingProbe { question, .. } in &self.waiting {
            let is_own = self.calls.iter().any(|call| call.key == question.key);
            if !is_own && questions.iter().all(|known| known.key != question.key) {
                questions.push(question.clone());
            }
        }
        questions
    }
}
