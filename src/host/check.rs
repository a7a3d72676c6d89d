//! Active checks under way: callouts of one root, from the first request to the result.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, Status};

use super::{abi, attribute};
use crate::policy::check::{Check, CheckCall, HttpGet};
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::readiness::check::redirect::CheckTarget;
use crate::readiness::check::{self, CheckFailure, CheckResponse, CheckStep, grpc};
use crate::value::time::Time;

/// What requests of the proxy's own call themselves.
pub const AGENT: &str = concat!("graygate/", env!("CARGO_PKG_VERSION"));

/// How long after its timeout a check is given up whose end the proxy did not report.
const GRACE: Duration = Duration::from_secs(5);

/// The checks under way, each with its callout's token. The two kinds of callout number theirs apart.
#[derive(Default)]
pub struct Checks(Vec<((Kind, u32), Underway)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Grpc,
}

/// One check.
struct Underway {
    upstream: UpstreamId,
    /// The generation of the state that it was started in.
    generation: u32,
    started: Time,
    until: Time,
    target: Option<CheckTarget>,
    redirects: u32,
}

/// The result of a check.
pub struct Finished {
    /// Of which upstream.
    pub upstream: UpstreamId,
    /// The generation of the state that it was started in.
    pub generation: u32,
    /// What it came to.
    pub result: Result<(), CheckFailure>,
}

impl Checks {
    /// Whether a check of the upstream is under way.
    pub fn busy(&mut self, id: UpstreamId, now: Time) -> bool {
        self.0.retain(|(_, check)| !now.is_due(check.started, check.until + GRACE));
        self.0.iter().any(|(_, check)| check.upstream == id)
    }

    /// Starts a check of the upstream, or says why the proxy does not take it.
    pub fn start(
        &mut self,
        id: UpstreamId,
        upstream: &Upstream,
        check: &Check,
        generation: u32,
        now: Time,
    ) -> Result<(), Status> {
        let (kind, token, target) = match &check.call {
            CheckCall::Http(get) => {
                let target = CheckTarget::first(get);
                (Kind::Http, ask(get, &target, &upstream.cluster, check.timeout)?, Some(target))
            }
            CheckCall::Grpc(health) => {
                let service =
                    grpc::service(&upstream.cluster, &health.authority).ok_or(Status::BadArgument)?;
                let request = grpc::request(&health.service);
                let token =
                    abi::grpc_call(service.as_bytes(), grpc::SERVICE, grpc::METHOD, &request, check.timeout)?;
                (Kind::Grpc, token, None)
            }
        };
        let until = now + check.timeout;
        let check = Underway { upstream: id, generation, started: now, until, target, redirects: 0 };
        self.0.push(((kind, token), check));
        Ok(())
    }

    /// Takes the end of an HTTP callout; `asked` says what of an upstream is asked, and of which cluster. A
    /// redirect that is followed is no end of its check.
    pub fn answered<'p>(
        &mut self,
        token: u32,
        headers: usize,
        now: Time,
        asked: impl Fn(UpstreamId) -> Option<(&'p str, &'p HttpGet)>,
    ) -> Option<Finished> {
        let check = self.take(Kind::Http, token)?;
        let (Some(target), Some((cluster, get))) = (&check.target, asked(check.upstream)) else {
            return None;
        };
        // With no headers there is no map to ask, and asking would end the VM.
        let header = |name| match headers {
            0 => None,
            _ => hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok()?,
        };
        let location = header("location");
        let response = CheckResponse {
            status: if headers == 0 { None } else { attribute::status(MapType::HttpCallResponseHeaders) },
            // The router adds this header to every answer of an upstream, and to none of its own.
            from_upstream: header("x-envoy-upstream-service-time").is_some(),
            location: location.as_deref(),
        };
        match check::judge(get, target, check.redirects, response) {
            CheckStep::Result(result) => Some(check.finished(result)),
            CheckStep::Follow(_) if now.is_due(check.started, check.until) => {
                Some(check.finished(Err(CheckFailure::TimedOut)))
            }
            CheckStep::Follow(next) => {
                let left = check.until.since(now);
                match ask(get, &next, cluster, left) {
                    Ok(token) => {
                        let redirects = check.redirects + 1;
                        let next = Underway { target: Some(next), redirects, ..check };
                        self.0.push(((Kind::Http, token), next));
                        None
                    }
                    // Its first request got through: the cluster has lost its hosts since, or is at its limits.
                    Err(_) => Some(check.finished(Err(CheckFailure::Unreachable))),
                }
            }
        }
    }

    fn take(&mut self, kind: Kind, token: u32) -> Option<Underway> {
        let place = self.0.iter().position(|(key, _)| *key == (kind, token))?;
        Some(self.0.swap_remove(place).1)
    }

    /// Takes the end of a gRPC callout.
    pub fn ended(&mut self, token: u32, status: u32, size: usize) -> Option<Finished> {
        let check = self.take(Kind::Grpc, token)?;
        let message = match status {
            0 if size > 0 => hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size).ok().flatten(),
            _ => None,
        };
        let words = if status == 0 { Vec::new() } else { abi::grpc_words() };
        let result = grpc::judge(status, &String::from_utf8_lossy(&words), &message.unwrap_or_default());
        Some(check.finished(result))
    }
}

impl Underway {
    fn finished(&self, result: Result<(), CheckFailure>) -> Finished {
        Finished { upstream: self.upstream, generation: self.generation, result }
    }
}

/// Sends one request of an HTTP check.
fn ask(get: &HttpGet, target: &CheckTarget, cluster: &str, timeout: Duration) -> Result<u32, Status> {
    let mut headers = vec![
        (":method", get.method),
        (":scheme", target.scheme.as_str()),
        (":path", target.path.as_str()),
        (":authority", target.authority.as_str()),
    ];
    headers.extend(get.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if !get.headers.iter().any(|(name, _)| name == "user-agent") {
        headers.push(("user-agent", AGENT));
    }
    abi::http_call(cluster, &headers, timeout)
}
