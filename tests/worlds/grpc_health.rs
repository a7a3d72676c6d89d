//! `grpc.health.v1.Health`, which the filter implements with the help of a hop.

use serde_json::{Value, json};

use super::sim::{Answer, Manner, Request, World};
use super::{SECOND, check_each_second};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVICE: &str = "shop.Reviews";

fn document(services: &[&str]) -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": check},
            "mq": {"cluster": "mq", "readinessProbe": check},
        },
        "probes": {
            "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}, {"upstream": "mq", "required": false}]},
            "drain": {"path": "/drainz"},
            "grpc": {"services": services},
        },
    })
}

fn world() -> World {
    let mut world = World::new(&document(&["", SERVICE]), 3);
    world.pass(2 * SECOND);
    world
}

/// Returns a request's message in its wire format.
fn framed(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message = [&[0x0a, u8::try_from(service.len()).unwrap()], service.as_bytes()].concat();
    }
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

fn call(path: &str) -> Request {
    Request::of("POST", path).with("content-type", "application/grpc").with("te", "trailers").unfinished()
}

/// The grpc-status, the grpc-message and the bytes of the response.
type HealthResponse = (String, String, Vec<u8>);

/// Responds to a check as the hop does, with this status and with or without a body.
fn respond_by_hop(world: &mut World, id: u32, status: u16, body: bool) -> HealthResponse {
    let headers = [("content-type", "text/plain"), ("content-length", "2")];
    world.respond(id, status, "via_upstream", &headers, !body);
    let answer = world.answer(id);
    assert_eq!(
        (answer.header(":status"), answer.header("content-length")),
        (Some("200"), None),
        "{answer:?}"
    );
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    if !body {
        let header = |name| answer.header(name).unwrap_or_default().to_owned();
        return (header("grpc-status"), header("grpc-message"), Vec::new());
    }
    world.body(id, "ok", true);
    let trailer = |name| world.trailer(id, name).unwrap_or_default();
    (trailer("grpc-status"), trailer("grpc-message"), world.answer(id).body.into_bytes())
}

/// Sends a check with this body, to which the hop responds 200.
fn health_response(world: &mut World, vm: usize, body: &[u8]) -> HealthResponse {
    let id = world.send(vm, &call(CHECK));
    assert!(world.is_open(id));
    world.request_body(id, body, true);
    respond_by_hop(world, id, 200, true)
}

/// Returns the status of a service, which is the same on all workers.
fn status_of(world: &mut World, service: &str) -> &'static str {
    let all: Vec<HealthResponse> = (0..3).map(|vm| health_response(world, vm, &framed(service))).collect();
    assert!(all.iter().all(|response| *response == all[0]), "{all:?}");
    let (status, message, body) = &all[0];
    match (status.as_str(), message.as_str(), &body[..]) {
        ("0", "", b"\0\0\0\0\x02\x08\x01") => "SERVING",
        ("0", "", b"\0\0\0\0\x02\x08\x02") => "NOT_SERVING",
        ("5", "unknown service", b"") => "NOT_FOUND",
        _ => panic!("{all:?}"),
    }
}

#[test]
fn a_listed_service_follows_readiness_and_any_other_is_not_found() {
    let mut world = world();
    for (manner, word) in [(200, "SERVING"), (500, "NOT_SERVING"), (200, "SERVING")] {
        world.set_checks("app", Manner::Status(manner));
        world.pass(3 * SECOND);
        assert_eq!((status_of(&mut world, ""), status_of(&mut world, SERVICE)), (word, word));
        for other in ["shop", "shop.Review", "shop.Reviews.", "Shop.Reviews", "ü"] {
            assert_eq!(status_of(&mut world, other), "NOT_FOUND", "{other}");
        }
    }
    let mut named = World::new(&document(&[SERVICE]), 3);
    named.pass(2 * SECOND);
    assert_eq!((status_of(&mut named, ""), status_of(&mut named, SERVICE)), ("NOT_FOUND", "SERVING"));
}

#[test]
fn grpc_health_is_answered_where_traffic_is_not_enforced() {
    for (key, value) in [("mode", json!("shadow")), ("rollout", json!({"percent": 0}))] {
        let mut document = document(&["", SERVICE]);
        document[key] = value;
        let mut world = World::new(&document, 3);
        world.pass(2 * SECOND);
        assert_eq!(status_of(&mut world, SERVICE), "SERVING", "{key}");
        world.set_checks("app", Manner::Status(500));
        world.pass(3 * SECOND);
        assert_eq!(
            (status_of(&mut world, SERVICE), status_of(&mut world, "x")),
            ("NOT_SERVING", "NOT_FOUND")
        );
        assert_eq!(world.metric("probe_answers_total", &["probe=grpc", "result=serving"]), 3);
        assert_eq!(world.metric("probe_answers_total", &["mode=shadow"]), 0);
    }
}

#[test]
fn a_degraded_proxy_serves_but_not_one_that_drains_or_has_not_started() {
    let mut document = document(&[""]);
    document["probes"]["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "mq"}]});
    let mut world = World::new(&document, 3);
    world.set_checks("mq", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(status_of(&mut world, ""), "NOT_SERVING");
    world.set_checks("mq", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(status_of(&mut world, ""), "SERVING");
    world.set_checks("mq", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(status_of(&mut world, ""), "SERVING");
    for (method, word) in [("POST", "NOT_SERVING"), ("DELETE", "SERVING")] {
        world.ask(0, &Request::of(method, "/drainz"));
        world.pass(SECOND);
        assert_eq!(status_of(&mut world, ""), word);
    }
}

#[test]
fn a_grpc_check_goes_to_the_hop_as_a_plain_request_and_each_result_is_counted() {
    let mut world = world();
    let id = world.send(0, &call(CHECK).with("x-graygate-hop", "mine"));
    assert_eq!(world.sent_header(id, "x-graygate-hop").as_deref(), Some("grpc-health"));
    assert_eq!(world.sent_header(id, "content-type").as_deref(), Some("application/x-graygate"));
    world.request_body(id, &framed("shop"), true);
    respond_by_hop(&mut world, id, 200, true);
    for _ in 0..2 {
        health_response(&mut world, 1, &framed(SERVICE));
    }
    world.set_checks("app", Manner::Status(500));
    world.pass(3 * SECOND);
    health_response(&mut world, 2, &framed(""));
    let counted = [("0", "serving", 2), ("0", "not-serving", 1), ("5", "not-found", 1), ("14", "error", 0)];
    for (code, result, count) in counted {
        let labels = ["probe=grpc", &format!("code={code}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), count, "{result}");
    }
}

#[test]
fn a_grpc_check_may_arrive_late_and_in_pieces_and_delays_no_others() {
    let mut world = world();
    for service in ["", SERVICE] {
        let id = world.send(0, &call(CHECK));
        for byte in framed(service) {
            world.request_body(id, &[byte], false);
            assert_eq!(status_of(&mut world, SERVICE), "SERVING");
        }
        world.pass(60 * SECOND);
        world.finish_request(id);
        assert_eq!(respond_by_hop(&mut world, id, 200, true).0, "0");
    }
}

#[test]
fn an_invalid_message_or_one_of_an_unknown_encoding_is_unimplemented() {
    let mut compressed = framed(SERVICE);
    compressed[0] = 1;
    let short = framed(SERVICE)[..10].to_vec();
    let bodies =
        [compressed, short, [framed(""), framed("")].concat(), Vec::new(), b"\0\xff\xff\xff\xff".to_vec()];
    let mut world = world();
    for body in bodies {
        let (status, message, bytes) = health_response(&mut world, 0, &body);
        assert_eq!((status.as_str(), bytes.as_slice()), ("12", &b""[..]), "{body:?}");
        assert_eq!(
            message,
            "invalid request: send one HealthCheckRequest, uncompressed or compressed by gzip"
        );
    }
    assert_eq!(world.metric("probe_answers_total", &["probe=grpc", "code=12", "result=unimplemented"]), 5);
    assert_eq!(status_of(&mut world, SERVICE), "SERVING");
}

#[test]
fn a_message_by_gzip_gets_the_response_of_any_other_and_another_encoding_a_list_of_encodings() {
    let shop_reviews = b"\x01\0\0\0\x22\x1f\x8b\x08\0\0\0\0\0\x02\x03\xe3\xe2)\xce\xc8/\xd0\x0bJ-\xcbL-/\x06\0\x7f\xdf\xe7'\x0e\0\0\0";
    let mut world = world();
    for (encoding, status, accepted) in [("gzip", "0", None), ("deflate", "12", Some("identity,gzip"))] {
        let id = world.send(1, &call(CHECK).with("grpc-encoding", encoding));
        world.request_body(id, shop_reviews, true);
        assert_eq!(respond_by_hop(&mut world, id, 200, true).0, status, "{encoding}");
        assert_eq!(world.answer(id).header("grpc-accept-encoding"), accepted);
    }
}

#[test]
fn without_a_working_hop_the_client_gets_an_error() {
    let words = "no response from the hop: the route for x-graygate-hop must lead to an upstream that responds 200 with a body";
    // The hop responds with another status, without a body, or before the request has ended.
    for (status, body, whole) in
        [(503, true, true), (404, false, true), (200, false, true), (200, true, false)]
    {
        let mut world = world();
        let id = world.send(0, &call(CHECK));
        if whole {
            world.request_body(id, &framed(SERVICE), true);
        }
        let response = respond_by_hop(&mut world, id, status, body);
        assert_eq!(response, ("14".to_owned(), words.to_owned(), Vec::new()), "{status} {body} {whole}");
        assert_eq!(world.metric("probe_answers_total", &["probe=grpc", "code=14", "result=error"]), 1);
    }
}

#[test]
fn trailers_of_the_hops_response_are_replaced() {
    let mut world = world();
    let id = world.send(0, &call(CHECK));
    world.request_body(id, &framed(SERVICE), true);
    world.respond(id, 200, "via_upstream", &[], false);
    world.body(id, "o", false);
    world.body(id, "k", false);
    world.trailers(id, &[("grpc-status", "13")]);
    assert_eq!(world.trailer(id, "grpc-status").as_deref(), Some("0"));
    assert_eq!(world.answer(id).body.as_bytes(), b"\0\0\0\0\x02\x08\x01");
}

fn refused(world: &mut World, request: &Request) -> Answer {
    let id = world.send(0, request);
    assert!(!world.is_open(id));
    world.answer(id)
}

#[test]
fn other_grpc_methods_are_unimplemented_and_other_content_types_refused() {
    let mut world = world();
    for method in ["Watch", "List", "check", "Check/", ""] {
        let answer = refused(&mut world, &call(&format!("/grpc.health.v1.Health/{method}")));
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(answer.body, "policy shop: only Check is implemented (by POST)");
    }
    assert_eq!(world.metric("probe_answers_total", &["probe=grpc", "code=12", "result=unimplemented"]), 5);
    for content_type in ["json", "x-graygate", "grpc-web", "grpcx"] {
        let request = Request::of("POST", CHECK).with("content-type", &format!("application/{content_type}"));
        assert_eq!(refused(&mut world, &request).status, 415, "{content_type}");
    }
    assert_eq!(refused(&mut world, &Request::get(CHECK)).status, 415);
}

#[test]
fn a_client_that_leaves_during_a_grpc_check_does_no_harm() {
    let mut world = world();
    for part in 0..framed(SERVICE).len() {
        let id = world.send(0, &call(CHECK));
        world.request_body(id, &framed(SERVICE)[..part], false);
        world.leave(id);
    }
    let id = world.send(0, &call(CHECK));
    world.request_body(id, &framed(SERVICE), true);
    world.respond(id, 200, "via_upstream", &[], false);
    world.leave(id);
    assert_eq!(status_of(&mut world, SERVICE), "SERVING");
}

#[test]
fn without_probes_grpc_the_health_service_is_left_to_the_app() {
    let mut document = document(&[""]);
    document["probes"].as_object_mut().unwrap().remove("grpc");
    let mut world = World::new(&document, 3);
    let request = call(CHECK);
    let id = world.send(0, &request);
    assert_eq!(world.forwarded_headers(id), request.headers);
    world.set("app", Manner::Grpc(0));
    assert_eq!(world.ask(0, &request).cluster, "app");
}
