//! Probes that pass through: the app's cached responses, which all workers share, and the request that fetches one.

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

/// Seeds the cache of each probe that passes through. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    for probe in &policy.probes.endpoints {
        if let Basis::App(rule) = &probe.basis {
            for head in [false, true] {
                store::seed(proxy, &key(policy, probe, rule, head), &CachedProbe::default());
            }
        }
    }
}

/// Returns the key of the cached response to a probe. It contains a hash of everything that the response depends on.
fn key(policy: &Policy, probe: &Probe, rule: &PassThrough, head: bool) -> String {
    let identity = (&probe.path, &rule.headers, &rule.host, head);
    let identity = hash::digest(store::LAYOUT.into(), &identity);
    format!("graygate/{}/kept/{}/{identity:016x}", policy.name, probe.name)
}

/// A request for a probe that passes through.
#[derive(Clone, Copy)]
pub struct ProbeQuery<'p> {
    /// The index of the probe in the policy.
    pub endpoint: usize,
    /// The probe at that index.
    pub probe: &'p Probe,
    /// The probe's settings for passing through.
    pub rule: &'p PassThrough,
    /// Whether the method is HEAD, so that the response has no body.
    pub head: bool,
    /// Whether the whole request has come. Only then may it be forwarded. Otherwise a client that never sends the rest
    /// could delay the response to all others.
    pub whole: bool,
}

/// What happens to a request for a probe that passes through.
pub enum ProbeAction {
    /// It gets the cached response.
    Replay(CachedResponse),
    /// It is forwarded to the app.
    Fetch(AppProbe),
    /// Nothing is cached yet, and another request is waiting for the app.
    Pending,
    /// The app has not responded for too long.
    Stale,
}

/// One request that fetches the app's response.
pub struct AppProbe {
    endpoint: usize,
    key: String,
    id: u64,
    headers: Vec<String>,
    /// The part of the response that has come so far. `None` if it must not be cached.
    response: Option<CachedResponse>,
    ended: bool,
}

/// The maximum length of an `x-request-id` that is forwarded, in bytes. A UUID has 36.
const MAX_REQUEST_ID: usize = 64;

/// Replaces the headers of a request that is forwarded to the app by headers of the proxy's own. All clients get the
/// response, so nothing that one client sends may affect it.
///
/// Only what the proxy itself has set is kept. That is the scheme, whether the request is internal, and the id for traces.
pub fn write_request(proxy: &impl Proxy, policy: &Policy, query: &ProbeQuery<'_>) {
    let ProbeQuery { probe, rule, head, .. } = *query;
    let sent = |name| String::from_utf8(proxy.header(Map::RequestHeaders, name)?).ok();
    // Without a scheme the proxy finds no route.
    let secure = sent("x-forwarded-proto").or_else(|| sent(":scheme")).is_some_and(|proto| proto == "https");
    let scheme = if secure { "https" } else { "http" };
    let id = sent("x-request-id").filter(|id| id.len() <= MAX_REQUEST_ID);
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
    /// Looks up the cached response to the probe. If the request is to fetch a new one, notes so for the other workers.
    pub fn look_up(&mut self, query: &ProbeQuery<'_>) -> ProbeAction {
        let ProbeQuery { endpoint, probe, rule, head, whole } = *query;
        let key = key(self.policy, probe, rule, head);
        let id = self.ids.take();
        let now = self.proxy.now();
        let lookup = store::update(self.proxy, &key, |known: Option<CachedProbe>| {
            let mut cached = known.unwrap_or_default();
            let lookup = cached.ask(rule, now, whole.then_some(id));
            // Only a new fetch changes the cache.
            let changed = (lookup == Lookup::Miss).then_some(cached);
            (lookup, changed)
        });
        match lookup {
            Some(Lookup::Hit(response)) => ProbeAction::Replay(response),
            Some(Lookup::Miss) => {
                let headers = rule.headers.clone();
                ProbeAction::Fetch(AppProbe { endpoint, key, id, headers, response: None, ended: false })
            }
            Some(Lookup::Pending) => ProbeAction::Pending,
            Some(Lookup::Stale) | None => ProbeAction::Stale,
        }
    }
}

impl AppProbe {
    /// Takes the response's headers. A response that did not come from the app is forwarded but not cached, because
    /// another filter may have made it for this one client.
    pub fn on_response_headers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, end: bool) {
        let proxy = scope.proxy;
        let map = Map::ResponseHeaders;
        let from_app = response::is_of_upstream(&proxy.code_details());
        let status = proxy.status(map);
        if let Some(status) = status {
            scope.metrics.count_reply(proxy, scope.policy, cache::cause(self.endpoint, status));
        }
        // A reply can only have headers that are UTF-8.
        let header = |name: &String| Some((name.clone(), String::from_utf8(proxy.header(map, name)?).ok()?));
        self.response = status.filter(|_| from_app).map(|status| CachedResponse {
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

    /// Takes a part of the response's body.
    pub fn on_response_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        if let Some(response) = &mut self.response {
            let room = BODY.saturating_sub(response.body.len()).min(size);
            if room > 0 {
                response.body.extend(scope.proxy.body(Body::Response, room));
            }
        }
        if end {
            self.complete(scope);
        }
    }

    /// Takes the end of the response, and caches it.
    pub fn complete<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        let response = self.response.take();
        self.end(scope, response);
    }

    /// Takes the end of the request. Ends the fetch without a response, unless it is complete.
    pub fn on_end<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        self.end(scope, None);
    }

    fn end<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, response: Option<CachedResponse>) {
        if core::mem::replace(&mut self.ended, true) {
            return;
        }
        let id = self.id;
        let now = scope.proxy.now();
        let ended = store::update(scope.proxy, &self.key, |known: Option<CachedProbe>| {
            let mut cached = known.unwrap_or_default();
            cached.end(id, response.clone(), now);
            ((), Some(cached))
        });
        if ended.is_none() {
            scope.record(&Event::AnswerNotShared { policy: scope.policy });
        }
    }
}
