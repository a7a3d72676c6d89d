//! Messages of gRPC's health protocol: requests to the proxy, and answers to its checks.
//!
//! The first byte says how the message comes: compressed or not, whole or in parts.

use core::time::Duration;

use graygate::decision::probe::health::call::{HealthCall, HealthResponse};
use graygate::policy::Policy;
use graygate::readiness::check::grpc::{self, GrpcResponse};
use graygate::value::gzip;
use serde_json::{Value, json};

use super::worlds::sim::call::CallEnd;
use super::worlds::sim::{Request, World};

/// The most bytes that a message may become.
const LIMIT: usize = 4_096;

pub fn run(input: &[u8]) {
    let Some((flags, body)) = input.split_first() else { return };
    let is_gzip = flags & 1 == 1;
    let size = usize::from(flags >> 2).max(1);
    let framed = frame(is_gzip, body);
    for body in [body, &framed] {
        let response = answer(is_gzip, size, body);
        // It does not matter how the bytes are cut.
        assert_eq!(response, answer(is_gzip, usize::MAX, body));
        judge(is_gzip, body);
    }
    let _ = grpc::requested_service(body);
    assert!(gzip::decompress(body, LIMIT).is_none_or(|message| message.len() <= LIMIT));
    if let Ok(service) = core::str::from_utf8(body) {
        let request = grpc::request(service);
        let message = grpc::message(&request, false, usize::MAX).unwrap();
        assert_eq!(grpc::requested_service(&message), Some(body));
    }
    serve(flags & 2 == 2, is_gzip, size, &framed);
}

/// Returns the message with its length, as gRPC sends it.
fn frame(is_gzip: bool, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[u8::from(is_gzip)][..], &length.to_be_bytes(), message].concat()
}

fn document() -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": {"grpc": {"service": "shop.App"}, "periodSeconds": 1}}},
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}, "grpc": {"services": ["", "shop.Reviews"]}},
    })
}

fn answer(is_gzip: bool, size: usize, body: &[u8]) -> HealthResponse {
    let policy = Policy::from_json(document().to_string().as_bytes()).unwrap();
    let mut call = HealthCall::new(true, is_gzip.then_some(b"gzip"));
    for part in body.chunks(size) {
        call.receive(part, false);
    }
    call.receive(b"", true);
    let response = call.outcome(&policy, true);
    assert_ne!(response, HealthResponse::NoHop);
    assert_ne!(response, HealthResponse::NotServing);
    response
}

fn judge(is_gzip: bool, body: &[u8]) {
    let response = GrpcResponse {
        status: Some(200),
        from_upstream: true,
        grpc_status: Some(0),
        grpc_message: b"",
        content_type: b"application/grpc",
        encoding: if is_gzip { b"gzip" } else { b"identity" },
        body,
    };
    let passed = grpc::judge(&response).is_ok();
    assert!(!passed || !body.is_empty(), "no message says that it serves");
}

/// Gives the message to the real worker: as the answer to its check, and as a client's request.
fn serve(is_whole: bool, is_gzip: bool, size: usize, framed: &[u8]) {
    let encoding = if is_gzip { "gzip" } else { "identity" };
    let mut world = World::new(&document(), 1);
    let headers = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-encoding", encoding),
        ("x-envoy-upstream-service-time", "1"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
    let end =
        CallEnd { headers, body: framed.to_vec(), trailers: vec![("grpc-status".to_owned(), b"0".to_vec())] };
    world.around.call_ends.borrow_mut().push_back(end);
    world.pass(Duration::from_millis(1_500));
    let request = Request::of("POST", "/grpc.health.v1.Health/Check")
        .with("content-type", "application/grpc")
        .with("grpc-encoding", encoding)
        .unfinished();
    let id = world.send(0, &request);
    for part in framed.chunks(if is_whole { usize::MAX } else { size }) {
        world.request_body(id, part, false);
    }
    world.request_body(id, b"", true);
    world.respond(id, 200, "via_upstream", &[], false);
    world.body(id, "ok", true);
    assert_eq!(world.answer(id).status, 200);
    // OK, NOT_FOUND or UNIMPLEMENTED.
    let status = world.trailer(id, "grpc-status").unwrap();
    assert!(["0", "5", "12"].contains(&&*status), "{status}");
}
