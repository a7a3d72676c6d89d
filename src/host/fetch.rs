//! A probe's request on its way to the app, and the answer that is kept of it.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::attribute::{attribute, status};
use super::worker::{self, Worker};
use crate::replay::{self, Answer, BODY};
use crate::response;

/// One request for the app's own answer.
pub struct Fetch {
    /// The probe, by its place in the policy.
    pub endpoint: usize,
    /// The store's key for what is kept.
    pub key: String,
    /// The request's id, which says whether it is still its answer that is waited for.
    pub id: u64,
    /// The headers that are kept.
    pub headers: Vec<String>,
    /// What has come of the answer so far.
    pub answer: Option<Answer>,
    /// Whether it has ended.
    pub ended: bool,
}

impl Fetch {
    /// Takes the answer's headers. What is not of the app's making is passed on and not kept: another filter
    /// may have said it to this one asker.
    pub fn on_headers(&mut self, worker: &Rc<Worker>, end: bool) {
        let details = attribute(&["response", "code_details"]).unwrap_or_default();
        let of_app = response::is_of_upstream(&details);
        let header = |name: &String| {
            let value = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok()??;
            // A reply's headers are text.
            Some((name.clone(), String::from_utf8(value).ok()?))
        };
        let status = status(MapType::HttpResponseHeaders);
        if let Some(status) = status {
            worker.counters.replied(&worker.policy, replay::cause(self.endpoint, status));
        }
        self.answer = status.filter(|_| of_app).map(|status| Answer {
            status,
            headers: self.headers.iter().filter_map(header).collect(),
            body: Vec::new(),
            at: worker::now(),
        });
        if end {
            self.end(worker, true);
        }
    }

    /// Takes a part of the answer's body.
    pub fn on_body(&mut self, worker: &Rc<Worker>, size: usize, end: bool) {
        if let Some(answer) = &mut self.answer {
            let left = BODY.saturating_sub(answer.body.len()).min(size);
            if left > 0 {
                let part = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, left).ok().flatten();
                answer.body.extend(part.unwrap_or_default());
            }
        }
        if end {
            self.end(worker, true);
        }
    }

    /// Takes the end of the answer, or of the stream where there was none or only a part of it.
    pub fn end(&mut self, worker: &Rc<Worker>, whole: bool) {
        if !core::mem::replace(&mut self.ended, true) {
            worker.keep(&self.key, self.id, self.answer.take().filter(|_| whole));
        }
    }
}
