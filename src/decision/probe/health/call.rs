//! One `grpc.health.v1.Health/Check`, from its request to its response.

use crate::decision::reply::{ProbeTarget, ReplyCause};
use crate::policy::Policy;
use crate::readiness::check::grpc;
use crate::value::code::CodeSpec;

/// The grpc-status for a method that a server does not implement.
pub const UNIMPLEMENTED: u32 = 12;

/// The maximum length of a message in bytes. It has the longest name that a policy may hold.
const MAX_MESSAGE: usize = 3 + 4_096;

/// The maximum length of a request in bytes. It is a frame header and a message. A compressed message may be a
/// little longer than the message itself.
const MAX_REQUEST: usize = 5 + MAX_MESSAGE + 32;

/// The number of bytes of a request's body that are kept. One byte more than the maximum shows that the
/// request is too long.
const MAX_KEPT: usize = MAX_REQUEST + 1;

/// The state of one Check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCall {
    /// Whether readiness passes.
    ready: bool,
    /// Whether a compressed message is compressed by gzip.
    gzip: bool,
    /// The part of the request's body that has arrived.
    body: Vec<u8>,
    /// Whether the body is complete.
    whole: bool,
}

/// The response to a Check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum HealthResponse {
    /// Ready.
    Serving,
    /// Not ready.
    NotServing,
    /// The policy does not name the service.
    NotFound,
    /// The message is malformed, or compressed by something other than gzip.
    Unreadable,
    /// The hop gave no usable response.
    NoHop,
}

impl HealthCall {
    /// Creates a Check whose body has not arrived. `ready` is whether readiness passes. `encoding` is the
    /// `grpc-encoding`, by which a compressed message is compressed.
    pub fn new(ready: bool, encoding: Option<&[u8]>) -> Self {
        HealthCall { ready, gzip: encoding == Some(b"gzip"), body: Vec::new(), whole: false }
    }

    /// Returns how many more bytes of the request's body to pass to [`HealthCall::receive`].
    pub fn room(&self) -> usize {
        MAX_KEPT.saturating_sub(self.body.len())
    }

    /// Takes a part of the request's body. `end` is whether it is the last part.
    pub fn receive(&mut self, part: &[u8], end: bool) {
        self.body.extend(part.iter().take(self.room()));
        self.whole |= end;
    }

    /// Returns the response to the Check, once the response of the hop is there. `hop` is whether it is a
    /// valid one.
    pub fn outcome(&self, policy: &Policy, hop: bool) -> HealthResponse {
        // Length comes first, because the upstream may have refused the request for its length.
        if self.body.len() > MAX_REQUEST {
            return HealthResponse::Unreadable;
        }
        if !hop || !self.whole {
            return HealthResponse::NoHop;
        }
        let message = grpc::message(&self.body, self.gzip, MAX_MESSAGE);
        match message.as_deref().and_then(grpc::requested_service) {
            None => HealthResponse::Unreadable,
            Some(service) if !policy.probes.grpc_services.iter().any(|known| known.as_bytes() == service) => {
                HealthResponse::NotFound
            }
            Some(_) if self.ready => HealthResponse::Serving,
            Some(_) => HealthResponse::NotServing,
        }
    }
}

/// The value of `grpc-accept-encoding`: the encodings of a message that can be read.
pub const ENCODINGS: &str = "identity,gzip";

impl HealthResponse {
    /// All of them.
    pub const ALL: [HealthResponse; 5] = [
        HealthResponse::Serving,
        HealthResponse::NotServing,
        HealthResponse::NotFound,
        HealthResponse::Unreadable,
        HealthResponse::NoHop,
    ];

    /// Returns the grpc-status.
    pub fn status(self) -> u32 {
        match self {
            HealthResponse::Serving | HealthResponse::NotServing => 0,
            HealthResponse::NotFound => 5,
            HealthResponse::Unreadable => UNIMPLEMENTED,
            HealthResponse::NoHop => 14,
        }
    }

    /// Returns the grpc-message, which is empty on success.
    pub fn message(self) -> &'static str {
        match self {
            HealthResponse::Serving | HealthResponse::NotServing => "",
            HealthResponse::NotFound => "unknown service",
            HealthResponse::Unreadable => {
                "invalid request: send one HealthCheckRequest, uncompressed or compressed by gzip"
            }
            HealthResponse::NoHop => {
                "no response from the hop: the route for x-graygate-hop must lead to an upstream that responds 200 with a body"
            }
        }
    }

    /// Returns the value of `grpc-accept-encoding`, if the client has to know it.
    pub fn accepted_encodings(self) -> Option<&'static str> {
        (self == HealthResponse::Unreadable).then_some(ENCODINGS)
    }

    /// Returns the response's body, which is a frame with a `HealthCheckResponse` or empty.
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

    /// Returns what it is counted as.
    pub fn cause(self) -> ReplyCause {
        ReplyCause::Probe { asked: ProbeTarget::Grpc, code: self.status(), result: self.spec().code }
    }

    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            HealthResponse::Serving => {
                const { CodeSpec::new("serving", OF_GRPC, "Readiness passes, so the status is SERVING.", "") }
            }
            HealthResponse::NotServing => {
                const {
                    CodeSpec::new(
                        "not-serving",
                        OF_GRPC,
                        "Readiness fails, so the status is NOT_SERVING.",
                        "Ask the HTTP readiness probe with `?verbose` to see why.",
                    )
                }
            }
            HealthResponse::NotFound => {
                const {
                    CodeSpec::new(
                        "not-found",
                        OF_GRPC,
                        "The policy does not name the service that the client asked for.",
                        "Add the service to `probes.grpc.services`. The empty name stands for the whole server.",
                    )
                }
            }
            HealthResponse::Unreadable => {
                const {
                    CodeSpec::new(
                        "unimplemented",
                        OF_GRPC,
                        "The request is not one readable HealthCheckRequest to `Check` by POST.",
                        "Use `Check`, uncompressed or with gzip. `Watch` is not implemented.",
                    )
                }
            }
            HealthResponse::NoHop => {
                const {
                    CodeSpec::new(
                        "error",
                        OF_GRPC,
                        "The route for `x-graygate-hop` led to no upstream that responds with 200 and a body.",
                        "Add the route, cluster and listener of the hop: see `envoy/envoy.yaml`.",
                    )
                }
            }
        }
    }
}

/// Where the codes appear.
const OF_GRPC: &str = "`result` of `graygate_probe_answers_total` with `probe=\"grpc\"`";

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn response_to(ready: bool, parts: &[&[u8]]) -> HealthResponse {
        response_to_encoded(ready, None, parts)
    }

    fn response_to_encoded(ready: bool, encoding: Option<&[u8]>, parts: &[&[u8]]) -> HealthResponse {
        let text = br#"{"name":"p","probes":{"grpc":{"services":["","shop"]}}}"#;
        let policy = Policy::from_json(text).unwrap();
        let mut call = HealthCall::new(ready, encoding);
        for (index, part) in parts.iter().enumerate() {
            call.receive(part, index + 1 == parts.len());
        }
        call.outcome(&policy, true)
    }

    #[test]
    fn a_named_service_serves_while_readiness_passes() {
        let shop: &[u8] = b"\0\0\0\0\x06\x0a\x04shop";
        assert_eq!(response_to(true, &[shop]), HealthResponse::Serving);
        assert_eq!(response_to(false, &[shop]), HealthResponse::NotServing);
        assert_eq!(response_to(true, &[b"\0\0\0\0\0"]), HealthResponse::Serving);
        assert_eq!(response_to(true, &[b"\0\0\0\0\x06\x0a\x04shoq"]), HealthResponse::NotFound);
    }

    #[test]
    fn a_request_may_arrive_in_parts() {
        assert_eq!(
            response_to(true, &[b"\0\0", b"\0\0\x06\x0a", b"", b"\x04shop", b""]),
            HealthResponse::Serving
        );
    }

    /// The frame of a message by gzip that asks for the service `shop`, and for the server.
    const COMPRESSED: [&[u8]; 2] = [
        b"\x01\0\0\0\x1a\x1f\x8b\x08\0\0\0\0\0\x02\x03\xe3b)\xce\xc8/\x00\x00\xbb\xb7\xf7h\x06\x00\x00\x00",
        b"\x01\0\0\0\x14\x1f\x8b\x08\0\0\0\0\0\x02\x03\x03\0\0\0\0\0\0\0\0\0",
    ];

    #[test]
    fn a_message_may_be_compressed_by_gzip() {
        for frame in COMPRESSED {
            assert_eq!(response_to_encoded(true, Some(b"gzip"), &[frame]), HealthResponse::Serving);
            assert_eq!(response_to_encoded(false, Some(b"gzip"), &[frame]), HealthResponse::NotServing);
            for other in [None, Some(&b"identity"[..]), Some(b"deflate"), Some(b"\xff")] {
                let response = response_to_encoded(true, other, &[frame]);
                assert_eq!(response, HealthResponse::Unreadable, "{other:?}");
                assert_eq!(response.accepted_encodings(), Some("identity,gzip"));
            }
        }
        // A message that is not compressed needs no encoding.
        assert_eq!(response_to_encoded(true, Some(b"gzip"), &[b"\0\0\0\0\0"]), HealthResponse::Serving);
        assert_eq!(HealthResponse::Serving.accepted_encodings(), None);
    }

    #[test]
    fn anything_but_one_uncompressed_message_is_unreadable() {
        let long = [&b"\0\0\0\x20\0"[..], &[0x0a; 0x2000]].concat();
        let bodies: [&[u8]; 6] =
            [b"", b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x07\x0a\x04shop", b"\0\0\0\0\0\0\0\0\0\0", &long];
        for body in bodies {
            assert_eq!(response_to(true, &[body]), HealthResponse::Unreadable, "{:?}", body.get(..12));
        }
    }

    #[test]
    fn a_response_before_the_end_of_the_request_counts_as_no_hop() {
        let policy = Policy::from_json(br#"{"name":"p","probes":{"grpc":{"services":[""]}}}"#).unwrap();
        let mut call = HealthCall::new(true, None);
        call.receive(b"\0\0\0\0\0", false);
        assert_eq!(call.outcome(&policy, true), HealthResponse::NoHop);
        call.receive(b"", true);
        assert_eq!(call.outcome(&policy, false), HealthResponse::NoHop);
        assert_eq!(call.outcome(&policy, true), HealthResponse::Serving);
    }

    #[test]
    fn a_request_that_is_too_long_is_unreadable_even_if_the_upstream_refused_it() {
        let policy = Policy::from_json(br#"{"name":"p","probes":{"grpc":{"services":[""]}}}"#).unwrap();
        let mut call = HealthCall::new(true, None);
        call.receive(&[0; MAX_REQUEST + 1], false);
        assert_eq!(call.outcome(&policy, false), HealthResponse::Unreadable);
    }
}
