//! Tests of `hosts` in a match: their problems, and the names of a Service on a proxy of a mesh.

use super::*;
use crate::value::authority::Authority;
use crate::value::request::{Headers, Request};
use std::borrow::Cow;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns the problem of these hosts in a match.
fn problem(hosts: &str) -> String {
    problems(&with_match(&format!(r#"{{"hosts":{hosts}}}"#))).join("\n")
}

const PLACE: &str = "releases[0].versions[0].match[0].hosts";

#[test]
fn an_invalid_host_is_named_with_what_is_allowed() {
    for (hosts, at, message) in [
        ("[]", "", r#"empty; add at least one entry"#),
        (r#""reviews.shop""#, "", r#""reviews.shop" is not a list. Write it in brackets: ["reviews.shop"]"#),
        (
            r#"["ok","http://reviews.shop/"]"#,
            "[1]",
            r#""http://reviews.shop/" is not allowed; allowed: a host alone, such as reviews.shop. A scheme is not part of it, and a path belongs into uri."#,
        ),
        (
            r#"["reviews.shop:70000"]"#,
            "[0]",
            r#""reviews.shop:70000" is not allowed; allowed: a host with a port from 1 to 65535, or without one. An IPv6 address has brackets, such as [::1]."#,
        ),
        (
            r#"["www.*.com"]"#,
            "[0]",
            r#""www.*.com" is not allowed; allowed: a host such as reviews.shop or www.example.com:8443, "*.example.com" for all below, or "*" for every host"#,
        ),
        ("[8080]", "[0]", "8080 is not a string. Write it in quotes: \"8080\""),
    ] {
        assert_eq!(problem(hosts), format!("{PLACE}{at}: {message}"));
    }
    assert_eq!(problem("null"), format!("{PLACE}: null is not allowed; allowed: a list"));
    let many = vec![r#""a""#; 1_001].join(",");
    assert!(problem(&format!("[{many}]")).contains("1001 entries; allowed: at most 1000"));
}

#[test]
fn each_further_name_of_a_host_counts_as_an_alternative() {
    let entry = |host: &str| format!(r#"{{"hosts":[{}]}}"#, vec![format!("{host:?}"); 1_000].join(","));
    let refused = |entries: &[String]| {
        let entries = entries.join(",");
        problems(&format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"gates":[{{"upstream":"a","match":[{entries}]}}]}}"#
        ))
    };
    let (plain, service) = (entry("www.example.com"), entry("reviews.shop"));
    for most in [vec![plain.clone(); 5], vec![plain.clone(), service.clone()]] {
        assert_eq!(refused(&most), Vec::<String>::new());
        let more = refused(&[most, vec![r#"{"hosts":["a"]}"#.to_owned()]].concat()).join("\n");
        assert!(more.starts_with("5001 alternatives and names of hosts in all matches"), "{more}");
    }
}

/// A request for this host.
struct For(&'static str);

impl Request for For {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == ":authority").then_some(Cow::Borrowed(self.0.as_bytes()))
    }
}

#[test]
fn the_short_name_of_a_service_is_known_on_a_proxy_in_its_namespace() {
    let text = r#"{"name":"p","upstreams":{"a":{"cluster":"a"}},
        "gates":[{"upstream":"a","match":[{"hosts":["reviews.shop.svc.cluster.local"]}]}]}"#;
    for (node, expected) in [
        ("sidecar~10.0.0.1~cart-7.shop~shop.svc.cluster.local", true),
        ("sidecar~10.0.0.1~cart-7.pay~pay.svc.cluster.local", false),
        ("envoy-7", false),
    ] {
        let policy = Policy::for_node(text.as_bytes(), node.as_bytes()).unwrap();
        for (host, expected) in [("reviews", expected), ("reviews.shop", true), ("reviews.pay", false)] {
            let request = For(host);
            let found = policy.gate_index.find(&mut Headers::new(&request, &[]));
            assert_eq!(found.len(), usize::from(expected), "{node}: {host}");
            let mut headers = Headers::new(&request, &[]);
            assert_eq!(policy.gates[0].matches.hold(&mut headers), expected, "{node}: {host}");
        }
    }
}

#[test]
fn hosts_alone_are_a_match() {
    let read = matches(r#"[{"hosts":["a","B."]}]"#);
    let mut hosts = crate::value::host::Hosts::default();
    hosts.add("a", None).unwrap();
    hosts.add("b", None).unwrap();
    assert!(hosts.include(&Authority::of(b"B:80")));
    assert_eq!(read, Matches::of_hosts(hosts));
}
