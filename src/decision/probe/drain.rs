//! The drain switch: an order from an allowed address fails readiness, until it is taken back.
//!
//! The address is that of the connection, as the proxy's `source.address` gives it. Behind a listener that
//! takes the PROXY protocol it is the one which that names: who may speak it to the listener may choose. Where
//! a listener takes the address from `x-forwarded-for` or another header, anybody could; the proxy then knows
//! no port, and no order from such an address is followed.

use core::net::SocketAddr;

use crate::decision::action::Action;
use crate::decision::reply::{ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::Drain;
use crate::readiness::Readiness;
use crate::value::request::{Headers, Request};

/// What is to happen to a request for the switch.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &Policy,
    drain: &'p Drain,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    if let Err(why) = authorize(drain, request.source()) {
        return Action::Reply(reply(policy, 403, &why, "refused"));
    }
    let order = match request.get(":method") {
        Some(b"POST") => true,
        Some(b"DELETE") => false,
        Some(b"GET" | b"HEAD") => {
            return Action::Reply(stands(policy, readiness.lifecycle().draining));
        }
        _ => {
            let mut reply = reply(policy, 405, "allowed are POST, DELETE, GET and HEAD", "refused");
            reply.headers.push(("allow".into(), "GET, HEAD, POST, DELETE".into()));
            return Action::Reply(reply);
        }
    };
    Action::Drain { draining: order, reply: stands(policy, order) }
}

/// The reply to an order that could not be put through.
pub fn failed(policy: &Policy) -> Reply {
    reply(policy, 503, "the order could not be put through; ask again", "refused")
}

fn stands(policy: &Policy, draining: bool) -> Reply {
    match draining {
        true => reply(policy, 200, "draining", "draining"),
        false => reply(policy, 200, "not draining", "not-draining"),
    }
}

/// Why no order from there is followed.
fn authorize(drain: &Drain, source: Option<SocketAddr>) -> Result<(), String> {
    let Some(address) = source else {
        return Err("no drain from what is no IP address".to_owned());
    };
    let ip = address.ip();
    if address.port() == 0 {
        return Err(format!(
            "no drain from {ip}, which has no port: the proxy takes such an address from a header"
        ));
    }
    let allowed = drain.from.iter().any(|network| network.contains(&ip));
    if allowed { Ok(()) } else { Err(format!("no drain from {ip}")) }
}

fn reply(policy: &Policy, status: u32, words: &str, result: &'static str) -> Reply {
    Reply::line_to_probe(policy, ProbeTarget::Drain, status, result, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::request;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn allowed(from: &[&str], source: Option<&str>) -> bool {
        let from = from.iter().map(|text| text.parse().unwrap()).collect();
        let source = source.and_then(|source| request::address(source.as_bytes()));
        authorize(&Drain { path: "/drainz".to_owned(), from }, source).is_ok()
    }

    #[test]
    fn an_address_of_the_connection_is_allowed_where_a_network_holds_it() {
        let local = ["127.0.0.0/8", "::1/128"];
        for source in ["127.0.0.1:50000", "127.255.255.255:1", "[::1]:50000", "[::ffff:127.0.0.1]:50000"] {
            assert!(allowed(&local, Some(source)), "{source}");
        }
        for source in ["128.0.0.1:50000", "10.0.0.1:50000", "[::2]:50000", "[fe80::1]:1"] {
            assert!(!allowed(&local, Some(source)), "{source}");
        }
    }

    #[test]
    fn an_address_with_no_port_came_from_a_header() {
        assert!(!allowed(&["127.0.0.0/8"], Some("127.0.0.1:0")));
        assert!(!allowed(&["::1/128"], Some("[::1]:0")));
    }

    #[test]
    fn what_is_no_address_is_not_allowed() {
        for source in [None, Some(""), Some("127.0.0.1"), Some("/run/envoy.sock"), Some("envoy://internal/")]
        {
            assert!(!allowed(&["0.0.0.0/0", "::/0"], source), "{source:?}");
        }
    }
}
