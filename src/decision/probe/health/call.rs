//! One `grpc.health.v1.Health/Check`, from its request to its response.

use crate::decision::reply::{ProbeTarget, ReplyCause};
use crate::policy::Policy;
use crate::readiness::check::grpc;

/// The grpc-status for what a server does not offer.
pub const UNIMPLEMENTED: u32 = 12;

/// The longest request, in bytes: a frame's head, and a message with the longest name that a policy may hold.
const REQUEST: usize = 5 + 3 + 4_096;

/// The most that a request's body is kept of: one byte more tells that it is too long.
const KEPT: usize = REQUEST + 1;

/// One Check, from its request to its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCall {
    /// Whether readiness says yes.
    ready: bool,
    /// The request's body, as far as it has come.
    body: Vec<u8>,
    /// Whether that is all of it.
    whole: bool,
}

/// What a Check is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthResponse {
    /// Ready.
    Serving,
    /// Not ready.
    NotServing,
    /// The policy names no such service.
    NotFound,
    /// The message is compressed, or no such message.
    Unreadable,
    /// There was nothing to make a response of.
    NoHop,
}

impl HealthCall {
    /// A Check of which nothing has come yet. `ready` says whether readiness says yes.
    pub fn new(ready: bool) -> Self {
        HealthCall { ready, body: Vec::new(), whole: false }
    }

    /// How many more bytes of the request's body are of interest.
    pub fn room(&self) -> usize {
        KEPT.saturating_sub(self.body.len())
    }

    /// Takes a part of the request's body. `end` says whether it is the last one.
    pub fn receive(&mut self, part: &[u8], end: bool) {
        self.body.extend(part.iter().take(self.room()));
        self.whole |= end;
    }

    /// What the Check is told, now that its response is there to be made. `hop` says whether that is one.
    pub fn outcome(&self, policy: &Policy, hop: bool) -> HealthResponse {
        // Said first, as an upstream may have refused it for its length.
        if self.body.len() > REQUEST {
            return HealthResponse::Unreadable;
        }
        if !hop || !self.whole {
            return HealthResponse::NoHop;
        }
        match self.service() {
            None => HealthResponse::Unreadable,
            Some(service) if !policy.probes.grpc_services.iter().any(|known| known.as_bytes() == service) => {
                HealthResponse::NotFound
            }
            Some(_) if self.ready => HealthResponse::Serving,
            Some(_) => HealthResponse::NotServing,
        }
    }

    /// The service that is asked for: the body is one frame, a 0 for no compression, the message's length in
    /// four bytes, the message.
    fn service(&self) -> Option<&[u8]> {
        let (head, message) = self.body.split_first_chunk::<5>()?;
        let [compressed, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        let plain = compressed == 0 && length == message.len();
        plain.then(|| grpc::requested_service(message))?
    }
}

impl HealthResponse {
    /// The grpc-status.
    pub fn status(self) -> u32 {
        match self {
            HealthResponse::Serving | HealthResponse::NotServing => 0,
            HealthResponse::NotFound => 5,
            HealthResponse::Unreadable => UNIMPLEMENTED,
            HealthResponse::NoHop => 14,
        }
    }

    /// The grpc-message of a status that is no success.
    pub fn message(self) -> &'static str {
        match self {
            HealthResponse::Serving | HealthResponse::NotServing => "",
            HealthResponse::NotFound => "unknown service",
            HealthResponse::Unreadable => "not one uncompressed HealthCheckRequest",
            HealthResponse::NoHop => "the route by x-graygate-hop leads to no upstream that answers",
        }
    }

    /// The response's body: a frame with a `HealthCheckResponse`, if there is one.
    pub fn body(self) -> &'static [u8] {
        const fn frame(status: u8) -> [u8; 7] {
            [0, 0, 0, 0, 2, 8, status]
        }
        match self {
            HealthResponse::Serving => const { &frame(grpc::SERVING) },
            HealthResponse::NotServing => const { &frame(grpc::NOT_SERVING) },
            _ => &[],
        }
    }

    /// What it is counted as.
    pub fn cause(self) -> ReplyCause {
        let result = match self {
            HealthResponse::Serving => "serving",
            HealthResponse::NotServing => "not-serving",
            HealthResponse::NotFound => "not-found",
            HealthResponse::Unreadable => "unimplemented",
            HealthResponse::NoHop => "error",
        };
        ReplyCause::Probe { asked: ProbeTarget::Grpc, code: self.status(), result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn told(ready: bool, parts: &[&[u8]]) -> HealthResponse {
        let text = br#"{"name":"p","probes":{"grpc":{"services":["","shop"]}}}"#;
        let policy = Policy::from_json(text).unwrap();
        let mut call = HealthCall::new(ready);
        for (index, part) in parts.iter().enumerate() {
            call.receive(part, index + 1 == parts.len());
        }
        call.outcome(&policy, true)
    }

    #[test]
    fn a_named_service_is_as_ready_as_the_proxy() {
        let shop: &[u8] = b"\0\0\0\0\x06\x0a\x04shop";
        assert_eq!(told(true, &[shop]), HealthResponse::Serving);
        assert_eq!(told(false, &[shop]), HealthResponse::NotServing);
        assert_eq!(told(true, &[b"\0\0\0\0\0"]), HealthResponse::Serving);
        assert_eq!(told(true, &[b"\0\0\0\0\x06\x0a\x04shoq"]), HealthResponse::NotFound);
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        assert_eq!(told(true, &[b"\0\0", b"\0\0\x06\x0a", b"", b"\x04shop", b""]), HealthResponse::Serving);
    }

    #[test]
    fn what_is_no_single_plain_message_is_not_implemented() {
        let long = [&b"\0\0\0\x20\0"[..], &[0x0a; 0x2000]].concat();
        let bodies: [&[u8]; 6] =
            [b"", b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x07\x0a\x04shop", b"\0\0\0\0\0\0\0\0\0\0", &long];
        for body in bodies {
            assert_eq!(told(true, &[body]), HealthResponse::Unreadable, "{:?}", body.get(..12));
        }
    }

    #[test]
    fn a_response_before_the_request_is_whole_is_no_hop() {
        let policy = Policy::from_json(br#"{"name":"p","probes":{"grpc":{"services":[""]}}}"#).unwrap();
        let mut call = HealthCall::new(true);
        call.receive(b"\0\0\0\0\0", false);
        assert_eq!(call.outcome(&policy, true), HealthResponse::NoHop);
        call.receive(b"", true);
        assert_eq!(call.outcome(&policy, false), HealthResponse::NoHop);
        assert_eq!(call.outcome(&policy, true), HealthResponse::Serving);
    }

    #[test]
    fn a_request_that_is_too_long_is_called_so_though_the_upstream_refused_it() {
        let policy = Policy::from_json(br#"{"name":"p","probes":{"grpc":{"services":[""]}}}"#).unwrap();
        let mut call = HealthCall::new(true);
        call.receive(&[0; REQUEST + 1], false);
        assert_eq!(call.outcome(&policy, false), HealthResponse::Unreadable);
    }
}
