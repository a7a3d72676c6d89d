//! The drain switch. An order from an allowed address fails readiness until it is taken back.
//!
//! The address is that of the connection, as in the proxy's `source.address`. Behind a listener that accepts
//! the PROXY protocol, it is the address in that protocol. A client that may speak the protocol to the
//! listener can therefore choose it.
//!
//! A listener may also take the address from `x-forwarded-for` or another header, which any client can set.
//! The proxy then knows no port. Orders from an address without a port are refused.

use core::net::SocketAddr;

use crate::decision::action::Action;
use crate::decision::reply::{ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::Drain;
use crate::readiness::Readiness;
use crate::value::code::CodeSpec;
use crate::value::request::{Headers, Request};

/// What a reply of the switch says, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum DrainReply {
    /// The proxy drains.
    Draining,
    /// The proxy does not drain.
    NotDraining,
    /// The order was refused.
    Refused,
}

/// Where the codes appear.
const OF_DRAIN: &str = "`result` of `graygate_probe_answers_total` with `probe=\"drain\"`";

impl DrainReply {
    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            DrainReply::Draining => {
                const { CodeSpec::new("draining", OF_DRAIN, "The proxy drains, so its readiness fails.", "") }
            }
            DrainReply::NotDraining => {
                const { CodeSpec::new("not-draining", OF_DRAIN, "The proxy does not drain.", "") }
            }
            DrainReply::Refused => {
                const {
                    CodeSpec::new(
                        "refused",
                        OF_DRAIN,
                        "The order was not carried out: wrong source, wrong method, or the state could not be written.",
                        "The body says why. Allow the source in `probes.drain.from`, as the connection's own address.",
                    )
                }
            }
        }
    }
}

/// Returns what happens to a request for the switch.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &Policy,
    drain: &'p Drain,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    if let Err(why) = authorize(drain, request.source()) {
        return Action::Reply(reply(policy, 403, &why, DrainReply::Refused));
    }
    let order = match request.get(":method") {
        Some(b"POST") => true,
        Some(b"DELETE") => false,
        Some(b"GET" | b"HEAD") => {
            return Action::Reply(state_reply(policy, readiness.lifecycle().draining));
        }
        _ => {
            let mut reply =
                reply(policy, 405, "method not allowed: use POST, DELETE, GET or HEAD", DrainReply::Refused);
            reply.headers.push(("allow".into(), "GET, HEAD, POST, DELETE".into()));
            return Action::Reply(reply);
        }
    };
    Action::Drain { draining: order, reply: state_reply(policy, order) }
}

/// Returns the reply to an order that could not be carried out.
pub fn failed(policy: &Policy) -> Reply {
    reply(policy, 503, "the order could not be stored: try again", DrainReply::Refused)
}

fn state_reply(policy: &Policy, draining: bool) -> Reply {
    let (text, result) =
        if draining { ("draining", DrainReply::Draining) } else { ("not draining", DrainReply::NotDraining) };
    reply(policy, 200, text, result)
}

/// Returns the refusal of an order from this source, if it is not allowed.
fn authorize(drain: &Drain, source: Option<SocketAddr>) -> Result<(), String> {
    let Some(address) = source else {
        return Err("drain refused: the source has no IP address".to_owned());
    };
    let ip = address.ip();
    if address.port() == 0 {
        return Err(format!(
            "drain refused: {ip} has no port, so the proxy took it from a header, which any client can set"
        ));
    }
    let is_allowed = drain.from.iter().any(|network| network.contains(&ip));
    if is_allowed { Ok(()) } else { Err(format!("drain refused: {ip} is not in drain.from")) }
}

fn reply(policy: &Policy, status: u32, text: &str, result: DrainReply) -> Reply {
    Reply::line_to_probe(policy, ProbeTarget::Drain, status, result.spec().code, text)
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
    fn an_address_of_the_connection_is_allowed_if_a_network_contains_it() {
        let local = ["127.0.0.0/8", "::1/128"];
        for source in ["127.0.0.1:50000", "127.255.255.255:1", "[::1]:50000", "[::ffff:127.0.0.1]:50000"] {
            assert!(allowed(&local, Some(source)), "{source}");
        }
        for source in ["128.0.0.1:50000", "10.0.0.1:50000", "[::2]:50000", "[fe80::1]:1"] {
            assert!(!allowed(&local, Some(source)), "{source}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        assert!(!allowed(&["127.0.0.0/8"], Some("127.0.0.1:0")));
        assert!(!allowed(&["::1/128"], Some("[::1]:0")));
    }

    #[test]
    fn a_source_that_is_not_an_ip_address_is_refused() {
        for source in [None, Some(""), Some("127.0.0.1"), Some("/run/envoy.sock"), Some("envoy://internal/")]
        {
            assert!(!allowed(&["0.0.0.0/0", "::/0"], source), "{source:?}");
        }
    }
}
