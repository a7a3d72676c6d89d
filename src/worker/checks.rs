//! The checks that one worker has in flight, from the first request of each to its result.

use core::time::Duration;

use crate::policy::Policy;
use crate::policy::check::{Check, CheckCall, HttpGet};
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::proxy::{Body, CallId, Map, NotSent, Proxy};
use crate::readiness::check::redirect::CheckTarget;
use crate::readiness::check::{self, CheckFailure, CheckResponse, CheckStep, grpc};
use crate::value::time::Time;

/// The `user-agent` of the proxy's own requests.
pub const USER_AGENT: &str = concat!("graygate/", env!("CARGO_PKG_VERSION"));

/// The time after its timeout at which a check is dropped. Normally the proxy has reported the end of the call by then.
const GRACE: Duration = Duration::from_secs(5);

/// The checks in flight, each with its current call.
#[derive(Default)]
pub struct ChecksInFlight(Vec<(Call, CheckInFlight)>);

/// A call. The proxy numbers HTTP and gRPC calls separately, so an id alone is ambiguous.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Http(CallId),
    Grpc(CallId),
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
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The upstream that was checked.
    pub upstream: UpstreamId,
    /// The generation of the upstream's state when the check was started. A newer state ignores the result.
    pub generation: u32,
    /// `Ok` if the check passed, and otherwise why it failed.
    pub result: Result<(), CheckFailure>,
}

impl ChecksInFlight {
    /// Returns whether a check of the upstream is in flight. Drops checks whose end the proxy never reported.
    pub fn has(&mut self, id: UpstreamId, now: Time) -> bool {
        self.0.retain(|(_, check)| now < check.until + GRACE);
        self.0.iter().any(|(_, check)| check.upstream == id)
    }

    /// Sends the first request of a check.
    ///
    /// # Errors
    ///
    /// Returns [`NotSent`] if the proxy does not accept the request.
    pub fn start(
        &mut self,
        proxy: &impl Proxy,
        (id, upstream): (UpstreamId, &Upstream),
        check: &Check,
        generation: u32,
        now: Time,
    ) -> Result<(), NotSent> {
        let (call, target) = match &check.call {
            CheckCall::Http(get) => {
                let target = CheckTarget::first(get);
                (Call::Http(send(proxy, get, &target, &upstream.cluster, check.timeout)?), Some(target))
            }
            CheckCall::Grpc(health) => {
                let service =
                    grpc::service(&upstream.cluster, &health.authority).ok_or(NotSent::NoCluster)?;
                let request = grpc::request(&health.service);
                let method = (grpc::SERVICE, grpc::METHOD);
                (Call::Grpc(proxy.grpc_call(&service, method, &request, check.timeout)?), None)
            }
        };
        let until = now + check.timeout;
        let check = CheckInFlight { upstream: id, generation, until, target, redirects: 0 };
        self.0.push((call, check));
        Ok(())
    }

    /// Takes the end of an HTTP call. `headers` is the number of the response's headers, and 0 if no response came. Returns
    /// `None` if the check goes on with a redirect.
    pub fn on_http_response(
        &mut self,
        proxy: &impl Proxy,
        policy: &Policy,
        id: CallId,
        headers: usize,
        now: Time,
    ) -> Option<CheckResult> {
        let check = self.take(Call::Http(id))?;
        let upstream = policy.upstream(check.upstream)?;
        let (Some(target), CheckCall::Http(get)) = (&check.target, &upstream.check.as_ref()?.call) else {
            return None;
        };
        // Without a response, reading the map is an error.
        let header = |name| if headers == 0 { None } else { proxy.header(Map::CallResponseHeaders, name) };
        let location = header("location");
        let response = CheckResponse {
            status: if headers == 0 { None } else { proxy.status(Map::CallResponseHeaders) },
            // The router adds this header to every response of an upstream, and to none of its own.
            from_upstream: header("x-envoy-upstream-service-time").is_some(),
            location: location.as_deref(),
        };
        match check::judge(get, target, check.redirects, response) {
            CheckStep::Result(result) => Some(check.finished(result)),
            CheckStep::Follow(_) if now >= check.until => Some(check.finished(Err(CheckFailure::TimedOut))),
            CheckStep::Follow(next) => {
                let remaining = check.until.since(now);
                match send(proxy, get, &next, &upstream.cluster, remaining) {
                    Ok(id) => {
                        let redirects = check.redirects + 1;
                        let next = CheckInFlight { target: Some(next), redirects, ..check };
                        self.0.push((Call::Http(id), next));
                        None
                    }
                    // The first request was sent, so since then the cluster has lost its hosts or reached its limits.
                    Err(_) => Some(check.finished(Err(CheckFailure::Unreachable))),
                }
            }
        }
    }

    /// Takes the end of a gRPC call, with its status and the size of its message.
    pub fn on_grpc_end(
        &mut self,
        proxy: &impl Proxy,
        id: CallId,
        status: u32,
        size: usize,
    ) -> Option<CheckResult> {
        let check = self.take(Call::Grpc(id))?;
        let mut message = Vec::new();
        let mut status_message = Vec::new();
        if status != 0 {
            status_message = proxy.grpc_status_message();
        } else if size > 0 {
            message = proxy.body(Body::GrpcMessage, size);
        }
        Some(check.finished(grpc::judge(status, &String::from_utf8_lossy(&status_message), &message)))
    }

    fn take(&mut self, call: Call) -> Option<CheckInFlight> {
        let index = self.0.iter().position(|(known, _)| *known == call)?;
        Some(self.0.swap_remove(index).1)
    }
}

impl CheckInFlight {
    fn finished(&self, result: Result<(), CheckFailure>) -> CheckResult {
        CheckResult { upstream: self.upstream, generation: self.generation, result }
    }
}

/// Sends one request of an HTTP check.
fn send(
    proxy: &impl Proxy,
    get: &HttpGet,
    target: &CheckTarget,
    cluster: &str,
    timeout: Duration,
) -> Result<CallId, NotSent> {
    let mut headers = vec![
        (":method", get.method),
        (":scheme", target.scheme.as_str()),
        (":path", target.path.as_str()),
        (":authority", target.authority.as_str()),
    ];
    headers.extend(get.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if !get.headers.iter().any(|(name, _)| name == "user-agent") {
        headers.push(("user-agent", USER_AGENT));
    }
    proxy.http_call(cluster, &headers, timeout)
}
