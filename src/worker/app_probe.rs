//! Probes that pass through: the app's answers as all workers share them, and the request that fetches one.

use super::checks::USER_AGENT;
use super::event::Event;
use super::scope::Scope;
use super::store;
use crate::decision::probe;
use crate::decision::probe::cache::{self, BODY, CachedProbe, CachedResponse, Lookup};
use crate::policy::Policy;
use crate::policy::probe::{Basis, PassThrough, Probe};
use crate::proxy::{Body, Map, Proxy};
use crate::value::hash;
use crate::value::response;

/// Gives each probe that passes through its key. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    for probe in &policy.probes.endpoints {
        if let Basis::App(rule) = &probe.basis {
            for head in [false, true] {
                store::seed(proxy, &key(policy, probe, rule, head), &CachedProbe::default());
            }
        }
    }
}

/// Returns the key of the app's answers to a probe. It holds a hash of what they answer, and of what is kept of them.
fn key(policy: &Policy, probe: &Probe, rule: &PassThrough, head: bool) -> String {
    let identity = (&probe.path, &rule.headers, &rule.host, head);
    let identity = hash::digest(store::LAYOUT.into(), &identity);
    format!("graygate/{}/kept/{}/{identity:016x}", policy.name, probe.name)
}

/// A request for a probe that passes through.
#[derive(Clone, Copy)]
pub struct ProbeQuery<'p> {
    /// The probe, by its index in the policy.
    pub endpoint: usize,
    /// The probe.
    pub probe: &'p Probe,
    /// How it passes through.
    pub rule: &'p PassThrough,
    /// Whether it asks for no body.
    pub head: bool,
    /// Whether all of it has come. One of which a part is still to come may not go on: whoever sends it could hold up
    /// everybody's answer by not sending the rest.
    pub whole: bool,
}

/// What is done with a request for a probe that passes through.
pub enum ProbeAction {
    /// It gets the answer that is cached.
    Replay(CachedResponse),
    /// It goes on to the app.
    Fetch(AppProbe),
    /// Nothing is known yet.
    Pending,
    /// The app has not answered for too long.
    Stale,
}

/// One request for the app's own answer.
pub struct AppProbe {
    endpoint: usize,
    key: String,
    id: u64,
    headers: Vec<String>,
    /// The part of the answer that has come so far.
    answer: Option<CachedResponse>,
    ended: bool,
}

/// The longest `x-request-id` that is kept, in bytes: a UUID and some more.
const REQUEST_ID: usize = 64;

/// Replaces the headers of a request that goes on to the app by the proxy's own: the answer is everybody's, so nothing
/// that one client sends may make a difference to it. What the proxy itself has set stays: by which scheme it was asked,
/// whether from inside, and the id that traces go by.
pub fn write_request(proxy: &impl Proxy, policy: &Policy, query: &ProbeQuery<'_>) {
    let ProbeQuery { probe, rule, head, .. } = *query;
    let sent = |name| String::from_utf8(proxy.header(Map::RequestHeaders, name)?).ok();
    // Without it the proxy finds no route.
    let secure = sent("x-forwarded-proto").or_else(|| sent(":scheme")).is_some_and(|proto| proto == "https");
    let scheme = if secure { "https" } else { "http" };
    let id = sent("x-request-id").filter(|id| id.len() <= REQUEST_ID);
    let internal = sent("x-envoy-internal").filter(|internal| internal == "true");
    let mut headers = vec![
        (":method", if head { "HEAD" } else { "GET" }),
        (":scheme", scheme),
        (":authority", rule.host.as_deref().unwrap_or(&policy.name)),
        (":path", probe.path.as_str()),
        ("user-agent", USER_AGENT),
        ("x-forwarded-proto", scheme),
    ];
    headers.extend(id.as_deref().map(|id| ("x-request-id", id)));
    headers.extend(internal.as_deref().map(|internal| ("x-envoy-internal", internal)));
    proxy.replace_headers(Map::RequestHeaders, &headers);
}

impl<P: Proxy> Scope<'_, P> {
    /// Looks up what is cached for the probe.
    pub fn look_up(&mut self, query: &ProbeQuery<'_>) -> ProbeAction {
        let ProbeQuery { endpoint, probe, rule, head, whole } = *query;
        let (key, id, now) = (key(self.policy, probe, rule, head), self.ids.take(), self.proxy.now());
        let lookup = store::update(self.proxy, &key, |known: Option<CachedProbe>| {
            let mut cached = known.unwrap_or_default();
            let lookup = cached.ask(rule, now, whole.then_some(id));
            // Only that one has gone on is new to the others.
            let changed = (lookup == Lookup::Miss).then_some(cached);
            (lookup, changed)
        });
        match lookup {
            Some(Lookup::Hit(answer)) => ProbeAction::Replay(answer),
            Some(Lookup::Miss) => {
                let headers = rule.headers.clone();
                ProbeAction::Fetch(AppProbe { endpoint, key, id, headers, answer: None, ended: false })
            }
            Some(Lookup::Pending) => ProbeAction::Pending,
            Some(Lookup::Stale) | None => ProbeAction::Stale,
        }
    }
}

impl AppProbe {
    /// Takes the answer's headers. An answer that is not the app's is passed on and not cached: another filter may have
    /// given it to this one client.
    pub fn on_response_headers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, end: bool) {
        let (proxy, map) = (scope.proxy, Map::ResponseHeaders);
        let of_app = response::is_of_upstream(&proxy.code_details());
        let status = proxy.status(map);
        if let Some(status) = status {
            scope.metrics.count_reply(proxy, scope.policy, cache::cause(self.endpoint, status));
        }
        // A reply's headers are text.
        let header = |name: &String| Some((name.clone(), String::from_utf8(proxy.header(map, name)?).ok()?));
        self.answer = status.filter(|_| of_app).map(|status| CachedResponse {
            status,
            headers: self.headers.iter().filter_map(header).collect(),
            body: Vec::new(),
            at: proxy.now(),
        });
        if scope.policy.probes.marker_headers {
            proxy.set_header(map, probe::SERVICE, Some(scope.service));
        }
        if end {
            self.complete(scope);
        }
    }

    /// Takes a part of the answer's body.
    pub fn on_response_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        if let Some(answer) = &mut self.answer {
            let left = BODY.saturating_sub(answer.body.len()).min(size);
            if left > 0 {
                answer.body.extend(scope.proxy.body(Body::Response, left));
            }
        }
        if end {
            self.complete(scope);
        }
    }

    /// Caches the answer, which has come whole.
    pub fn complete<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        let answer = self.answer.take();
        self.end(scope, answer);
    }

    /// Ends the fetch with nothing to cache, unless it is complete.
    pub fn on_end<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        self.end(scope, None);
    }

    fn end<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, answer: Option<CachedResponse>) {
        if core::mem::replace(&mut self.ended, true) {
            return;
        }
        let (id, now) = (self.id, scope.proxy.now());
        let ended = store::update(scope.proxy, &self.key, |known: Option<CachedProbe>| {
            let mut cached = known.unwrap_or_default();
            cached.end(id, answer.clone(), now);
            ((), Some(cached))
        });
        if ended.is_none() {
            scope.record(&Event::AnswerNotShared { policy: scope.policy });
        }
    }
}
