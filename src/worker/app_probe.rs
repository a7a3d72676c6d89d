//! Probes that pass through: the calls that fetch the app's answers, and the requests that wait for them.
//!
//! The proxy sends a call for the worker, not for a client. So a client that leaves ends nothing, and the next one gets
//! the result. [`cache`] decides when there is a call, for all workers together.
//!
//! The worker of a call replies to its own waiting requests when the call ends. A request that waits on another worker
//! gets the reply on a tick of its worker, which is short meanwhile.
//!
//! Some clusters cannot be called, for example those that send a request to where it was bound for. A probe of such a
//! cluster is forwarded as a request of its own. So is a probe whose route has no cluster.

use core::time::Duration;

use super::app_calls::{AppCall, AppCalls, Question, WaitingProbe};
use super::calls::{ACCEPT, RETRY_ON_RESET, USER_AGENT, is_from_upstream};
use super::event::Event;
use super::scope::Scope;
use super::store;
use crate::decision::probe::cache::{
    self, BODY, CachedProbe, CachedResponse, FetchOutcome, FetchResult, Lookup, TIMEOUT,
};
use crate::decision::reply::Reply;
use crate::policy::Policy;
use crate::policy::probe::{Basis, PassThrough, Probe};
use crate::proxy::{Attribute, Body, CallId, ExchangeId, Map, Proxy};
use crate::value::hash;
use crate::value::time::Time;

/// The tick while a request waits.
pub const WAITING_TICK: Duration = Duration::from_millis(50);

/// The maximum length of an `x-request-id` that the app gets, in bytes. A UUID has 36.
const MAX_REQUEST_ID: usize = 64;

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
}

/// What happens to a request for a probe that passes through.
pub enum ProbeAction {
    /// It gets this reply.
    Reply(Reply),
    /// It waits. The worker replies to it later.
    Wait,
    /// It is forwarded, because the app cannot be called.
    Forward,
}

/// Seeds the caches whose cluster the policy names. See [`store::seed`]. The others have no first value. There, workers
/// that get the first request at the same moment may each ask the app once.
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    for probe in &policy.probes.endpoints {
        if let Basis::App(rule) = &probe.basis
            && let Some(cluster) = named_cluster(policy, rule)
        {
            for head in [false, true] {
                store::seed(proxy, &key(policy, probe, rule, head, cluster), &CachedProbe::default());
            }
        }
    }
}

/// Returns the key of a cached result. It contains a hash of everything that the result depends on.
///
/// A client may affect the cluster, because its own request decides the route. The cluster is one that the proxy has, so
/// the number of keys is bounded.
fn key(policy: &Policy, probe: &Probe, rule: &PassThrough, head: bool, cluster: &str) -> String {
    let identity = (&probe.path, &rule.headers, &rule.host, head, cluster);
    let identity = hash::digest(store::LAYOUT.into(), &identity);
    format!("graygate/{}/kept/{}/{identity:016x}", policy.name, probe.name)
}

fn named_cluster<'p>(policy: &'p Policy, rule: &PassThrough) -> Option<&'p str> {
    Some(&policy.upstream(rule.upstream?)?.cluster)
}

/// Returns the cluster that the current request is for: that of the policy, or else that of the request's route.
fn cluster(proxy: &impl Proxy, policy: &Policy, rule: &PassThrough) -> Option<String> {
    let of_route = || String::from_utf8(proxy.attribute(Attribute::Cluster)?).ok();
    let cluster = named_cluster(policy, rule).map(str::to_owned).or_else(of_route);
    cluster.filter(|cluster| !cluster.is_empty())
}

fn rule(policy: &Policy, endpoint: usize) -> Option<&PassThrough> {
    match &policy.probes.endpoints.get(endpoint)?.basis {
        Basis::App(rule) => Some(rule),
        Basis::Checks(_) => None,
    }
}

/// Returns the headers with which the app is asked. All clients get the response, so nothing that one client sends may
/// affect it.
///
/// Only what the proxy itself has set is kept. That is the scheme, whether the request is internal, and the id for traces.
fn request_headers(
    proxy: &impl Proxy,
    policy: &Policy,
    query: &ProbeQuery<'_>,
) -> Vec<(&'static str, String)> {
    let ProbeQuery { probe, rule, head, .. } = *query;
    let sent = |name| String::from_utf8(proxy.header(Map::RequestHeaders, name)?).ok();
    let secure = sent("x-forwarded-proto").or_else(|| sent(":scheme")).is_some_and(|proto| proto == "https");
    let scheme = if secure { "https" } else { "http" };
    let id = sent("x-request-id").filter(|id| id.len() <= MAX_REQUEST_ID);
    let internal = sent("x-envoy-internal").filter(|internal| internal == "true");
    let mut headers = vec![
        (":method", if head { "HEAD" } else { "GET" }.to_owned()),
        (":scheme", scheme.to_owned()),
        (":authority", rule.host.clone().unwrap_or_else(|| policy.name.clone())),
        (":path", probe.path.clone()),
        ("user-agent", USER_AGENT.to_owned()),
        ("accept", ACCEPT.to_owned()),
        ("x-forwarded-proto", scheme.to_owned()),
    ];
    headers.extend(id.map(|id| ("x-request-id", id)));
    headers.extend(internal.map(|internal| ("x-envoy-internal", internal)));
    headers
}

fn borrowed<'h>(headers: &'h [(&'h str, String)]) -> Vec<(&'h str, &'h str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Reads how the call ended whose end the proxy reports now. `headers` is the number of the response's headers.
fn outcome(proxy: &impl Proxy, rule: &PassThrough, headers: usize) -> FetchOutcome {
    let map = Map::CallResponseHeaders;
    // Without a response, reading the map is an error.
    let Some(status) = (headers > 0).then(|| proxy.status(map)).flatten() else {
        return FetchOutcome::BrokenOff;
    };
    if status == 504 && !is_from_upstream(proxy) {
        return FetchOutcome::TimedOut;
    }
    // A reply can only have headers that are UTF-8.
    let header = |name: &String| Some((name.clone(), String::from_utf8(proxy.header(map, name)?).ok()?));
    FetchOutcome::Response(CachedResponse {
        status,
        headers: rule.headers.iter().filter_map(header).collect(),
        body: proxy.body(Body::CallResponse, BODY),
    })
}

/// Forwards the current request with these headers.
fn forward(proxy: &impl Proxy, headers: &[(&str, String)]) -> ProbeAction {
    proxy.replace_headers(Map::RequestHeaders, &borrowed(headers));
    ProbeAction::Forward
}

/// What the cache has for a request.
struct Found {
    lookup: Lookup,
    /// The id of the call that the request sends, if it is to send one.
    id: u64,
    /// The last result, if the request has no room to wait.
    last: Option<FetchResult>,
}

impl<P: Proxy> Scope<'_, P> {
    /// Decides what happens to the current request, which is for a probe that passes through. Calls the app if that is
    /// due.
    pub fn pass_through(&mut self, exchange: ExchangeId, query: &ProbeQuery<'_>) -> ProbeAction {
        let (proxy, policy) = (self.proxy, self.policy);
        let ProbeQuery { endpoint, probe, rule, head } = *query;
        let now = proxy.now();
        let headers = || request_headers(proxy, policy, query);
        let Some(cluster) = cluster(proxy, policy, rule) else {
            return forward(proxy, &headers());
        };
        let key = key(policy, probe, rule, head, &cluster);
        let Some(Found { lookup, id, last }) = self.look_up(&key, rule, now) else {
            return forward(proxy, &headers());
        };
        if let Lookup::Hit(result) = lookup {
            return ProbeAction::Reply(cache::reply(policy, endpoint, rule, result, now));
        }
        let question = Question { endpoint, key, cluster, headers: headers() };
        if lookup == Lookup::Fetch && !self.call_app(&question, id, now) {
            return forward(proxy, &question.headers);
        }
        if self.app_calls.wait(WaitingProbe { exchange, asked: now, question }) {
            return ProbeAction::Wait;
        }
        ProbeAction::Reply(match last {
            Some(result) => cache::reply(policy, endpoint, rule, result, now),
            None => cache::pending(policy, endpoint),
        })
    }

    /// Looks up the result with this key. If a call is due, claims it. Returns `None` if the cache cannot be written.
    fn look_up(&mut self, key: &str, rule: &PassThrough, now: Time) -> Option<Found> {
        let id = self.ids.take();
        let is_full = self.app_calls.is_full();
        store::update(self.proxy, key, |known: Option<CachedProbe>| {
            let mut cached = known.unwrap_or_default();
            let lookup = cached.ask(rule, now, id);
            let last = cached.last().filter(|_| is_full).cloned();
            // Only a claim changes the cache.
            let changed = (lookup == Lookup::Fetch).then_some(cached);
            (Found { lookup, id, last }, changed)
        })
    }

    /// Calls the app with the id that has the lease. Returns `false` if the proxy does not accept the call.
    fn call_app(&mut self, question: &Question, id: u64, now: Time) -> bool {
        let Question { endpoint, ref key, ref cluster, ref headers } = *question;
        let mut headers = borrowed(headers);
        headers.extend(RETRY_ON_RESET);
        match self.proxy.http_call(cluster, &headers, b"", TIMEOUT) {
            Ok(call) => {
                self.app_calls.sent(AppCall { call, id, sent: now, endpoint, key: key.clone() });
                true
            }
            Err(why) => {
                let is_first = update_cache(self.proxy, key, &|cached| cached.give_up(id));
                if is_first == Some(true) {
                    self.record(&Event::AppNotCalled { policy: self.policy, endpoint, cluster, why });
                }
                false
            }
        }
    }

    /// Takes the end of a call, if it is one to the app. Shares its result and replies to the requests that wait for it
    /// on this worker. `headers` is the number of the response's headers, and 0 if no response came.
    pub fn on_app_response(&mut self, call: CallId, headers: usize) {
        let (proxy, policy) = (self.proxy, self.policy);
        let Some(AppCall { id, endpoint, key, .. }) = self.app_calls.take_call(call) else {
            return;
        };
        let Some(rule) = rule(policy, endpoint) else {
            return;
        };
        let now = proxy.now();
        let result = FetchResult { at: now, outcome: outcome(proxy, rule, headers) };
        if update_cache(proxy, &key, &|cached| cached.end(id, result.clone())).is_none() {
            self.record(&Event::AnswerNotShared { policy });
        }
        let waiting = self.app_calls.take_waiting(&key);
        self.reply_to(&waiting, &|_| Some(cache::reply(policy, endpoint, rule, result.clone(), now)));
    }

    /// Handles the requests that wait on this worker. Replies to those whose result another worker has shared, and to
    /// those that have waited too long. If the call for a request has not ended in time, calls the app again.
    pub fn refresh_app_probes(&mut self, now: Time) {
        let policy = self.policy;
        for question in self.app_calls.questions_to_others(now) {
            let Some(rule) = rule(policy, question.endpoint) else {
                continue;
            };
            let found = self.look_up(&question.key, rule, now);
            let result = match found {
                Some(Found { lookup: Lookup::Hit(result), .. }) => Some(result),
                Some(Found { lookup: Lookup::Wait, .. }) => continue,
                Some(Found { lookup: Lookup::Fetch, id, .. }) if self.call_app(&question, id, now) => {
                    continue;
                }
                _ => None,
            };
            let waiting = self.app_calls.take_waiting(&question.key);
            let reply = result.map(|result| cache::reply(policy, question.endpoint, rule, result, now));
            self.reply_to(&waiting, &|_| reply.clone());
        }
        let late = self.app_calls.take_late(now, TIMEOUT);
        self.reply_to(&late, &|waiting| Some(cache::unanswered(policy, waiting.question.endpoint)));
    }

    /// Forwards all requests that wait, and ends the leases of the calls. Called when the worker's root has ended, because
    /// the proxy reports the end of no call then.
    pub fn abandon_app_probes(&mut self) {
        let AppCalls { calls, waiting } = core::mem::take(self.app_calls);
        for AppCall { key, id, .. } in calls {
            update_cache(self.proxy, &key, &|cached| cached.release(id));
        }
        self.reply_to(&waiting, &|_| None);
    }

    /// Replies to requests that have waited. Forwards a request without a reply, or whose reply the proxy refuses.
    fn reply_to(&mut self, waiting: &[WaitingProbe], reply: &dyn Fn(&WaitingProbe) -> Option<Reply>) {
        let proxy = self.proxy;
        let mut entered = false;
        for waiting in waiting {
            if !proxy.enter(waiting.exchange) {
                continue;
            }
            entered = true;
            let is_answered = reply(waiting).is_some_and(|reply| self.send(&reply));
            if !is_answered {
                proxy.replace_headers(Map::RequestHeaders, &borrowed(&waiting.question.headers));
                proxy.resume();
            }
        }
        if entered {
            proxy.leave();
        }
    }
}

/// Changes a cached result. Returns what `change` returns, or `None` if the cache cannot be written.
fn update_cache(proxy: &impl Proxy, key: &str, change: &dyn Fn(&mut CachedProbe) -> bool) -> Option<bool> {
    store::update(proxy, key, |known: Option<CachedProbe>| {
        let mut cached = known.unwrap_or_default();
        let result = change(&mut cached);
        (result, Some(cached))
    })
}
