//! Probes that pass through: the app's answers as all VMs share them, and the request that fetches one.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::attribute::{attribute, status};
use super::check::AGENT;
use super::store;
use super::worker::{self, Worker};
use crate::decision::probe;
use crate::decision::probe::cache::{self, BODY, CachedProbe, CachedResponse, Lookup};
use crate::policy::Policy;
use crate::policy::probe::{Basis, PassThrough, Probe};
use crate::value::hash;
use crate::value::response;

/// Gives each probe that passes through its place in the store; see [`store::seed`].
pub fn seed(policy: &Policy) {
    for probe in &policy.probes.endpoints {
        if let Basis::App(rule) = &probe.basis {
            for head in [false, true] {
                store::seed(&key(policy, probe, rule, head), &CachedProbe::default());
            }
        }
    }
}

/// The store's key for the app's answers to a probe. It holds a hash of what they answer, and of what is kept
/// of them.
fn key(policy: &Policy, probe: &Probe, rule: &PassThrough, head: bool) -> String {
    let subject = (&probe.path, &rule.headers, &rule.host, head);
    let subject = hash::digest(store::LAYOUT.into(), &subject);
    format!("graygate/{}/kept/{}/{subject:016x}", policy.name, probe.name)
}

/// A request for a probe that passes through.
pub struct Probing<'p> {
    /// The probe, by its place in the policy.
    pub endpoint: usize,
    /// The probe.
    pub probe: &'p Probe,
    /// How it passes through.
    pub rule: &'p PassThrough,
    /// Whether it asks for no body.
    pub head: bool,
    /// Whether all of it is there. One that isn't may not go on: whoever sends it could hold up everybody's
    /// answer by not sending the rest.
    pub whole: bool,
}

/// What becomes of a request for a probe that passes through.
pub enum Fate {
    /// It gets the answer that is kept.
    Replay(CachedResponse),
    /// It goes on to the app.
    Fetch(Fetch),
    /// Nothing is known yet.
    Unknown,
    /// The app has not answered for too long.
    Silence,
}

/// Looks up what is kept for the probe.
pub fn look_up(worker: &Worker, probing: &Probing<'_>) -> Fate {
    let Probing { endpoint, probe, rule, head, whole } = *probing;
    let (key, now) = (key(&worker.policy, probe, rule, head), worker::now());
    let Some(id) = worker.id() else {
        return Fate::Silence;
    };
    let recall = store::update(&key, |known: Option<CachedProbe>| {
        let mut kept = known.unwrap_or_default();
        let recall = kept.ask(rule, now, whole.then_some(id));
        // Only that one has gone on is news to the others.
        let news = (recall == Lookup::Miss).then_some(kept);
        (recall, news)
    });
    match recall {
        Some(Lookup::Hit(answer)) => Fate::Replay(answer),
        Some(Lookup::Miss) => Fate::Fetch(Fetch {
            endpoint,
            key,
            id,
            headers: rule.headers.clone(),
            answer: None,
            ended: false,
        }),
        Some(Lookup::Pending) => Fate::Unknown,
        Some(Lookup::Stale) | None => Fate::Silence,
    }
}

/// The longest `x-request-id` that is kept, in bytes: a UUID and some more.
const REQUEST_ID: usize = 64;

/// Makes the request that goes on to the app one of the proxy's own: the answer is everybody's, so nothing that
/// one asker sends may make a difference to it. What the proxy itself has set stays: by which scheme it was
/// asked, whether from inside, and the id that traces go by.
pub fn write_request(policy: &Policy, probing: &Probing<'_>) {
    let Probing { probe, rule, head, .. } = *probing;
    let asked = |name| {
        let value = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()??;
        String::from_utf8(value).ok()
    };
    // Without it the proxy finds no route.
    let secure =
        asked("x-forwarded-proto").or_else(|| asked(":scheme")).is_some_and(|proto| proto == "https");
    let scheme = if secure { "https" } else { "http" };
    let id = asked("x-request-id").filter(|id| id.len() <= REQUEST_ID);
    let internal = asked("x-envoy-internal").filter(|internal| internal == "true");
    let mut headers = vec![
        (":method", if head { "HEAD" } else { "GET" }),
        (":scheme", scheme),
        (":authority", rule.host.as_deref().unwrap_or(&policy.name)),
        (":path", probe.path.as_str()),
        ("user-agent", AGENT),
        ("x-forwarded-proto", scheme),
    ];
    headers.extend(id.as_deref().map(|id| ("x-request-id", id)));
    headers.extend(internal.as_deref().map(|internal| ("x-envoy-internal", internal)));
    // Can't fail while the request's headers are at hand, as they are in their callback.
    let _ = hostcalls::set_map(MapType::HttpRequestHeaders, headers);
}

/// One request for the app's own answer.
pub struct Fetch {
    endpoint: usize,
    key: String,
    id: u64,
    headers: Vec<String>,
    /// What has come of the answer so far.
    answer: Option<CachedResponse>,
    ended: bool,
}

impl Fetch {
    /// Takes the answer's headers. What is not of the app's making is passed on and not kept: another filter
    /// may have said it to this one asker.
    pub fn on_headers(&mut self, worker: &Worker, end: bool) {
        let details = attribute(&["response", "code_details"]).unwrap_or_default();
        let of_app = response::is_of_upstream(&details);
        let header = |name: &String| {
            let value = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok()??;
            // A reply's headers are text.
            Some((name.clone(), String::from_utf8(value).ok()?))
        };
        let status = status(MapType::HttpResponseHeaders);
        if let Some(status) = status {
            worker.counters.replied(&worker.policy, cache::cause(self.endpoint, status));
        }
        self.answer = status.filter(|_| of_app).map(|status| CachedResponse {
            status,
            headers: self.headers.iter().filter_map(header).collect(),
            body: Vec::new(),
            at: worker::now(),
        });
        if worker.policy.probes.marker_headers {
            let service = Some(worker.service.as_str());
            // Can't fail in the callback of these headers.
            let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, probe::SERVICE, service);
        }
        if end {
            self.complete(worker);
        }
    }

    /// Takes a part of the answer's body.
    pub fn on_body(&mut self, worker: &Worker, size: usize, end: bool) {
        if let Some(answer) = &mut self.answer {
            let left = BODY.saturating_sub(answer.body.len()).min(size);
            if left > 0 {
                let part = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, left).ok().flatten();
                answer.body.extend(part.unwrap_or_default());
            }
        }
        if end {
            self.complete(worker);
        }
    }

    /// The answer is all there, and is kept.
    pub fn complete(&mut self, worker: &Worker) {
        let answer = self.answer.take();
        self.end(worker, answer);
    }

    /// The stream is over. If its answer was not complete, nothing of it is kept.
    pub fn give_up(&mut self, worker: &Worker) {
        self.end(worker, None);
    }

    fn end(&mut self, worker: &Worker, answer: Option<CachedResponse>) {
        if core::mem::replace(&mut self.ended, true) {
            return;
        }
        let (id, now) = (self.id, worker::now());
        let ended = store::update(&self.key, |known: Option<CachedProbe>| {
            let mut kept = known.unwrap_or_default();
            kept.end(id, answer.clone(), now);
            ((), Some(kept))
        });
        if ended.is_none() {
            // Its lease expires; until then no other request goes on.
            log::warn!("policy {}: an answer of the app's could not be kept", worker.policy.name);
        }
    }
}
