//! What a policy says about `host` is about the request's `:authority`, however many headers the request has.

use serde_json::{Value, json};

use super::releases::{assigned, by, shop, version, world_of};
use super::sim::{Request, World};

/// Returns a request to this host with this number of headers.
fn to(host: &str, headers: usize) -> Request {
    let mut request = by("alice");
    request.headers[2].1 = host.to_owned();
    for number in request.headers.len()..headers {
        request = request.with(&format!("x-{number}"), "1");
    }
    request
}

/// Few enough headers to be read at once, and more.
const SIZES: [usize; 2] = [6, 50];

/// Returns the name of the cluster of each of these hosts' requests.
fn versions(document: &Value, hosts: &[&str], headers: usize) -> Vec<String> {
    let mut world = world_of(document, 1);
    hosts.iter().map(|host| version(&mut world, 0, &to(host, headers))).collect()
}

#[test]
fn a_condition_on_the_host_header_is_one_on_the_authority() {
    for headers in SIZES {
        for name in ["host", "Host", ":authority"] {
            let mut document = shop(&[1, 0]);
            document["releases"][0]["versions"][1]["match"] =
                json!([{"headers": {name: {"exact": "beta.example.com"}}}]);
            let hosts = ["www.example.com", "beta.example.com", "BETA.example.com", "beta.example.com:8443"];
            assert_eq!(versions(&document, &hosts, headers), ["v1", "v2", "v2", "v2"], "{name} {headers}");

            document["releases"][0]["versions"][1]["match"] =
                json!([{"withoutHeaders": {name: {"prefix": "www."}}}]);
            assert_eq!(versions(&document, &hosts[..2], headers), ["v1", "v2"], "{name} {headers}");
        }
    }
}

#[test]
fn a_release_skips_by_host() {
    for headers in SIZES {
        let mut document = shop(&[0, 1]);
        document["releases"][0]["skip"] = json!([{"headers": {"host": {"exact": "www.example.com"}}}]);
        let hosts = ["www.example.com", "beta.example.com"];
        assert_eq!(versions(&document, &hosts, headers), ["v1", "v2"], "{headers}");
    }
}

#[test]
fn a_gate_and_a_probe_match_by_host() {
    let document = json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "probes": {
            "readiness": {"path": "/readyz", "checks": []},
            "match": [{"headers": {"host": {"exact": "probe"}}}],
        },
        "gates": [{"upstream": "app", "match": [{"headers": {"host": {"exact": "shop.example.com"}}}]}],
    });
    for headers in SIZES {
        let mut world = World::new(&document, 1);
        assert!(world.ask(0, &to("SHOP.example.com:80", headers)).is_gated());
        assert!(!world.ask(0, &to("help.example.com", headers)).is_gated());
        let mut probe = to("probe", headers);
        probe.headers[1].1 = "/readyz".to_owned();
        assert_eq!(world.ask(0, &probe).details.split('{').next(), Some("graygate_probe"));
        probe.headers[2].1 = "other".to_owned();
        assert_ne!(world.ask(0, &probe).details.split('{').next(), Some("graygate_probe"));
    }
}

#[test]
fn the_host_is_a_key_without_its_port_and_in_lower_case() {
    for headers in SIZES {
        for name in ["host", "Host", ":authority"] {
            let mut document = shop(&[1, 1]);
            document["releases"][0]["hashOn"] = json!([{"httpHeaderName": name}]);
            document["releases"][0]["versions"][1]["allow"] = json!(["tenant-7.example.com"]);
            let hosts: Vec<String> = (0..40).map(|tenant| format!("tenant-{tenant}.example.com")).collect();
            let mut world = world_of(&document, 1);
            let mut held = |suffix: &str, upper: bool| -> Vec<String> {
                let name = |host: &String| if upper { host.to_uppercase() } else { host.clone() };
                let requests = hosts.iter().map(|host| to(&format!("{}{suffix}", name(host)), headers));
                requests.map(|request| version(&mut world, 0, &request)).collect()
            };
            let plain = held("", false);
            assert_eq!(plain[7], "v2");
            assert!((10..30).contains(&plain.iter().filter(|version| *version == "v1").count()));
            assert_eq!(held(":8443", false), plain);
            assert_eq!(held("", true), plain);
            let reasons: Vec<&str> = assigned(&world).keys().map(|(_, reason)| *reason).collect();
            assert_eq!(reasons, ["sticky", "allowed", "sticky"]);
        }
    }
}
