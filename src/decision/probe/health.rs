//! `grpc.health.v1.Health`, served at the proxy.
//!
//! A proxy's own reply to a gRPC request can carry a status but no message, and `SERVING` is a message. A
//! Check is therefore forwarded to an upstream that sends any response, as a plain request with a header that
//! the route table knows ([`HOP`]). On the way back its response is turned into the gRPC response. All other
//! methods are unimplemented, which needs no message.

pub mod call;

use std::rc::Rc;

use crate::decision::action::{Action, HeaderEdit};
use crate::decision::reply::{ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::GRPC_HEALTH;
use crate::readiness::Readiness;
use crate::readiness::check::grpc;
use crate::value::content_type;
use crate::value::request::{Headers, Request};
use call::{HealthCall, HealthResponse, UNIMPLEMENTED};

/// The request header that routes a Check to its upstream, and its value.
pub const HOP: (&str, &str) = ("x-graygate-hop", "grpc-health");

/// The `content-type` of a Check on its way there. As gRPC it would get a response without a body.
const PLAIN: &str = "application/x-graygate";

/// The status of the reply to a request that is not gRPC.
pub const NOT_GRPC: u32 = 415;

/// Returns what happens to a request for the health service.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    if !request.get("content-type").is_some_and(content_type::is_grpc) {
        let text = "only gRPC is answered at this path. Send content-type: application/grpc";
        return Action::Reply(Rc::new(reply(policy, NOT_GRPC, false, text)));
    }
    let path = request.path().unwrap_or_default();
    let is_check = path.strip_prefix(GRPC_HEALTH.as_bytes()) == Some(grpc::METHOD.as_bytes());
    if !is_check || request.get(":method") != Some(b"POST") {
        let text = "only Check is implemented (by POST)";
        return Action::Reply(Rc::new(reply(policy, UNIMPLEMENTED, true, text)));
    }
    let edits = [("content-type", PLAIN), HOP].map(|(header, value)| HeaderEdit::set(header, value));
    let encoding = request.get("grpc-encoding");
    let call = HealthCall::new(super::result::is_ready(policy, readiness), encoding);
    Action::GrpcCheck { call, edits: edits.to_vec() }
}

/// Returns a reply with a text. If it is gRPC, the text is the grpc-message and `code` the grpc-status.
fn reply(policy: &Policy, code: u32, grpc: bool, text: &str) -> Reply {
    let result = HealthResponse::Unreadable.spec().code;
    if !grpc {
        return Reply::line_to_probe(policy, ProbeTarget::Grpc, code, result, text);
    }
    let body = format!("policy {}: {text}", policy.name).into_bytes();
    let reply = Reply::to_probe(policy, ProbeTarget::Grpc, code, result, Vec::new(), body);
    Reply { status: 200, grpc_status: Some(code), ..reply }
}
