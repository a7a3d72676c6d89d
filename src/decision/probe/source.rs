//! Who may use a path that is not for everyone: the drain switch, and the status page.
//!
//! The address is that of the connection, as in the proxy's `source.address`. Behind a listener that accepts
//! the PROXY protocol, it is the address in that protocol. A client that may speak the protocol to the
//! listener can therefore choose it.
//!
//! A listener may also take the address from `x-forwarded-for` or another header, which any client can set.
//! The proxy then knows no port. Requests from an address without a port are refused.

use core::net::SocketAddr;

use ipnet::IpNet;

/// Returns the refusal of a request from this source, unless it is in `from`. `what` is the key in `probes` that names the
/// path.
pub fn authorize(what: &str, from: &[IpNet], source: Option<SocketAddr>) -> Result<(), String> {
    let Some(address) = source else {
        return Err(format!("{what} refused: the source has no IP address"));
    };
    let ip = address.ip();
    if address.port() == 0 {
        return Err(format!(
            "{what} refused: {ip} has no port, so the proxy took it from a header, which any client can set"
        ));
    }
    let is_allowed = from.iter().any(|network| network.contains(&ip));
    if is_allowed { Ok(()) } else { Err(format!("{what} refused: {ip} is not in {what}.from")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::request;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn allowed(from: &[&str], source: Option<&str>) -> bool {
        let from: Vec<IpNet> = from.iter().map(|text| text.parse().unwrap()).collect();
        let source = source.and_then(|source| request::address(source.as_bytes()));
        authorize("drain", &from, source).is_ok()
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
