//! `grpc.health.v1.Health`, answered at the proxy.
//!
//! A proxy's own reply to a gRPC request can carry a status and no message, and `SERVING` is a message. So a
//! Check goes on to an upstream that answers anything at all, dressed as a plain request, by a header that the
//! route table knows ([`HOP`]); on its way back the answer is made the gRPC response it is to be. All other
//! methods need no message: they are not implemented.

pub mod call;

use crate::decision::action::{Action, HeaderEdit};
use crate::decision::reply::{ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::GRPC_HEALTH;
use crate::readiness::Readiness;
use crate::readiness::check::grpc;
use crate::value::request::{self, Headers, Request};
use call::{HealthCall, UNIMPLEMENTED};

/// The request header that leads a Check to its upstream, and its value.
pub const HOP: (&str, &str) = ("x-graygate-hop", "grpc-health");

/// The `content-type` of a Check on its way there. As gRPC it would be answered with no body.
const PLAIN: &str = "application/x-graygate";

/// What is to happen to a request for the health service.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    if !request.get("content-type").is_some_and(is_grpc) {
        let words = "this path takes gRPC alone; allowed: content-type application/grpc";
        return Action::Reply(reply(policy, 415, false, words));
    }
    let path = request::path(request.get(":path").unwrap_or_default());
    let is_check = path.strip_prefix(GRPC_HEALTH.as_bytes()) == Some(grpc::METHOD.as_bytes());
    if !is_check || request.get(":method") != Some(b"POST") {
        let words = "of grpc.health.v1.Health the proxy answers Check alone, by POST";
        return Action::Reply(reply(policy, UNIMPLEMENTED, true, words));
    }
    let edits = [("content-type", PLAIN), HOP].map(|(header, value)| HeaderEdit::set(header, value));
    let call = HealthCall::new(super::result::is_ready(policy, readiness));
    Action::GrpcCheck { call, edits: edits.to_vec() }
}

/// `application/grpc`, or with a message format behind it.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// A reply in words. Where it is by gRPC, they are its message and `code` its grpc-status.
fn reply(policy: &Policy, code: u32, grpc: bool, words: &str) -> Reply {
    let body = format!("policy {}: {words}", policy.name).into_bytes();
    let reply = Reply::to_probe(policy, ProbeTarget::Grpc, code, "unimplemented", Vec::new(), body);
    if grpc { Reply { status: 200, grpc_status: Some(code), ..reply } } else { reply }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for yes in [&b"application/grpc"[..], b"application/grpc+proto", b"application/grpc;x=1"] {
            assert!(is_grpc(yes));
        }
        for no in [&b"application/grpc-web"[..], b"application/json", b"", PLAIN.as_bytes()] {
            assert!(!is_grpc(no));
        }
    }
}
