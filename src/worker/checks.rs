//! The checks that one worker has in flight, from the first request of each to its result.

use core::time::Duration;
use std::collections::BTreeMap;

use super::calls::{self, ACCEPT, RETRY_ON_RESET, USER_AGENT};
use super::scope::Scope;
use crate::policy::check::{Check, CheckCall, GrpcHealth, HttpGet};
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Body, CallId, Map, NotSent, Proxy};
use crate::readiness::check::connection::ConnectionUse;
use crate::readiness::check::grpc::{self, GrpcResponse};
use crate::readiness::check::redirect::CheckTarget;
use crate::readiness::check::{self, CheckFailure, CheckResponse, CheckStep};
use crate::value::time::Time;

/// The time after its timeout at which a check is dropped. Normally the proxy has reported the end of the call by then.
const GRACE: Duration = Duration::from_secs(5);

/// The checks in flight, each with its current call.
#[derive(Default)]
pub struct ChecksInFlight {
    calls: Vec<(CallId, CheckInFlight)>,
    /// What is known of the connections of HTTP checks, by upstream.
    connections: BTreeMap<UpstreamId, ConnectionUse>,
    /// The index of the upstream whose check is looked at first on the next tick.
    pub next: usize,
}

/// A check that has no result yet.
struct CheckInFlight {
    upstream: UpstreamId,
    /// The generation of the upstream's state when the check was started.
    generation: u32,
    /// The time at which the check times out.
    until: Time,
    /// Where the current request of an HTTP check goes. A redirect changes it.
    target: Option<CheckTarget>,
    redirects: u32,
    /// Whether its requests have `connection: close`.
    closes: bool,
    /// Whether it is sent once more, because the header may have made it fail.
    again: bool,
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The upstream that was checked.
    pub upstream: UpstreamId,
    /// The generation of the upstream's state when the check was started. A newer state ignores the result.
    pub generation: u32,
    /// Whether the check passed or why it failed. An error if a request of it could not be sent.
    pub result: Result<Result<(), CheckFailure>, NotSent>,
}

impl ChecksInFlight {
    /// Returns whether a check of the upstream is in flight. Drops checks whose end the proxy never reported.
    pub fn has(&mut self, id: UpstreamId, now: Time) -> bool {
        self.calls.retain(|(_, check)| now < check.until + GRACE);
        self.calls.iter().any(|(_, check)| check.upstream == id)
    }

    /// Sends the first request of a check.
    ///
    /// # Errors
    ///
    /// Returns [`NotSent`] if the proxy does not accept the request.
    pub fn start<P: Proxy>(
        &mut self,
        scope: &Scope<'_, P>,
        id: UpstreamId,
        check: &Check,
        generation: u32,
        now: Time,
    ) -> Result<(), NotSent> {
        let target = match &check.call {
            CheckCall::Http(get) => Some(CheckTarget::first(get)),
            CheckCall::Grpc(_) => None,
        };
        let closes = target.is_some() && self.connection(id).closes(scope.holder.serves);
        let until = now + check.timeout;
        let started =
            CheckInFlight { upstream: id, generation, until, target, redirects: 0, closes, again: false };
        self.send(scope, started, check.timeout)
    }

    /// Sends the current request of a check.
    fn send<P: Proxy>(
        &mut self,
        scope: &Scope<'_, P>,
        check: CheckInFlight,
        timeout: Duration,
    ) -> Result<(), NotSent> {
        let upstream = scope.policy.upstream(check.upstream).ok_or(NotSent::NoCluster)?;
        let call = &upstream.check.as_ref().ok_or(NotSent::NoCluster)?.call;
        let authorization;
        let mut body = Vec::new();
        let mut headers = match (call, &check.target) {
            (CheckCall::Http(get), Some(target)) => {
                authorization = target.user.as_deref().map(|user| format!("Basic {}", base64(user)));
                http_headers(get, target, authorization.as_deref())
            }
            (CheckCall::Http(_), None) => return Err(NotSent::NoCluster),
            (CheckCall::Grpc(health), _) => {
                body = grpc::request(&health.service);
                grpc_headers(health)
            }
        };
        if check.closes {
            headers.push(("connection", "close"));
        }
        if self.connection(check.upstream).retries(scope.holder.serves) {
            headers.extend(RETRY_ON_RESET);
        }
        let call = scope.proxy.http_call(&upstream.cluster, &headers, &body, timeout)?;
        self.calls.push((call, check));
        Ok(())
    }

    /// Takes the end of a call. `headers` is the number of the response's headers, and 0 if no response came. Returns
    /// `None` if the check goes on with another request.
    pub fn on_response<P: Proxy>(
        &mut self,
        scope: &Scope<'_, P>,
        id: CallId,
        headers: usize,
        now: Time,
    ) -> Option<CheckResult> {
        let proxy = scope.proxy;
        let check = self.take(id)?;
        let policy = scope.policy.upstream(check.upstream)?.check.as_ref()?;
        // Without a response, reading the map is an error.
        let header = |name| if headers == 0 { None } else { proxy.header(Map::CallResponseHeaders, name) };
        let from_upstream = headers > 0 && calls::is_from_upstream(proxy);
        if !from_upstream && headers > 0 && calls::is_overloaded(proxy) {
            return Some(check.finished(Err(NotSent::NoHost)));
        }
        let status = if headers == 0 { None } else { proxy.status(Map::CallResponseHeaders) };
        let (Some(target), CheckCall::Http(get)) = (&check.target, &policy.call) else {
            return Some(check.finished(Ok(judge_grpc(proxy, status, from_upstream))));
        };
        let location = header("location");
        let response = CheckResponse { status, from_upstream, location: location.as_deref() };
        let mut connection = self.connection(check.upstream);
        let confirms = || header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        connection.heard(check.closes && confirms());
        let (next, timeout) = match check::judge(get, target, check.redirects, response) {
            CheckStep::Follow(_) if now >= check.until => {
                return Some(check.finished(Ok(Err(CheckFailure::TimedOut))));
            }
            CheckStep::Follow(next) => {
                self.learn(check.upstream, connection);
                let redirects = check.redirects + 1;
                let timeout = check.until.since(now);
                (CheckInFlight { target: Some(next), redirects, ..check }, timeout)
            }
            CheckStep::Result(result) => {
                let is_open = connection.judge(result, check.closes, check.again);
                self.learn(check.upstream, connection);
                if !is_open {
                    return Some(check.finished(Ok(result)));
                }
                let target = Some(CheckTarget::first(get));
                let until = now + policy.timeout;
                let again =
                    CheckInFlight { target, until, redirects: 0, closes: false, again: true, ..check };
                (again, policy.timeout)
            }
        };
        let (upstream, generation) = (next.upstream, next.generation);
        let sent = self.send(scope, next, timeout);
        sent.err().map(|why| CheckResult { upstream, generation, result: Err(why) })
    }

    fn take(&mut self, call: CallId) -> Option<CheckInFlight> {
        let index = self.calls.iter().position(|(known, _)| *known == call)?;
        Some(self.calls.swap_remove(index).1)
    }

    fn connection(&self, id: UpstreamId) -> ConnectionUse {
        self.connections.get(&id).copied().unwrap_or_default()
    }

    fn learn(&mut self, id: UpstreamId, connection: ConnectionUse) {
        self.connections.insert(id, connection);
    }
}

impl CheckInFlight {
    fn finished(&self, result: Result<Result<(), CheckFailure>, NotSent>) -> CheckResult {
        CheckResult { upstream: self.upstream, generation: self.generation, result }
    }
}

/// Judges the response to a gRPC check in the callback of its call. Without a status there is no response.
fn judge_grpc(proxy: &impl Proxy, status: Option<u16>, from_upstream: bool) -> Result<(), CheckFailure> {
    let (headers, trailers) = (Map::CallResponseHeaders, Map::CallResponseTrailers);
    if status.is_none() {
        return Err(CheckFailure::Broken);
    }
    let header = |name| proxy.header(headers, name).unwrap_or_default();
    grpc::judge(&GrpcResponse {
        status,
        from_upstream,
        grpc_status: proxy.grpc_status(trailers).or_else(|| proxy.grpc_status(headers)),
        grpc_message: &header("grpc-message"),
        content_type: &header("content-type"),
        encoding: &header("grpc-encoding"),
        body: &proxy.body(Body::CallResponse, grpc::MAX_BODY),
    })
}

/// Returns the headers of a gRPC check.
fn grpc_headers(health: &GrpcHealth) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", grpc::PATH),
        (":authority", &health.authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "identity"),
        ("user-agent", USER_AGENT),
    ]
}

/// Returns the headers of a request, as the kubelet sends them.
fn http_headers<'h>(
    get: &'h HttpGet,
    target: &'h CheckTarget,
    authorization: Option<&'h str>,
) -> Vec<(&'h str, &'h str)> {
    let mut headers = vec![
        (":method", target.method),
        (":scheme", target.scheme.as_str()),
        (":path", target.path.as_str()),
        (":authority", target.host_header()),
    ];
    // An empty value of these two stands for no header. Any other header is sent as it is given.
    let is_left_out = |name: &str, value: &str| value.is_empty() && ["accept", "user-agent"].contains(&name);
    let given = get.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.extend(given.filter(|(name, value)| !is_left_out(name, value)));
    let defaults = [
        ("user-agent", Some(USER_AGENT)),
        ("accept", Some(ACCEPT)),
        ("authorization", authorization),
        ("referer", target.referer.as_deref()),
    ];
    for (name, value) in defaults {
        if let Some(value) = value
            && !get.headers.iter().any(|(given, _)| given == name)
        {
            headers.push((name, value));
        }
    }
    headers
}

/// Returns bytes in base64, as basic authentication has them.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = (bits >> (18 - 6 * index)) & 63;
            let digit = usize::try_from(digit).ok().and_then(|digit| DIGITS.get(digit));
            text.push(if index > chunk.len() { '=' } else { char::from(digit.copied().unwrap_or(b'=')) });
        }
    }
    text
}
