//! The two ends of an exchange.

use serde::{Deserialize, Serialize};

use super::hash;

/// The host that a request went to and the client that it came from, as hashes of their addresses.
///
/// Zero stands for an unknown address. All unknown addresses count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// The host. Behind a service address or a mesh's own proxy, all hosts of an upstream may be one.
    pub host: u32,
    /// The client, without its port. All clients behind one address are one.
    pub client: u32,
}

impl Peers {
    /// Returns the peers with these addresses, each in the form `address:port`.
    pub fn new(host: Option<&[u8]>, client: Option<&[u8]>) -> Self {
        let digest = |address: &[u8]| (hash::key(0, address) >> 32) as u32;
        Peers { host: host.map_or(0, digest), client: client.map(without_port).map_or(0, digest) }
    }
}

/// Returns the address without its port. The port of a client changes with each connection.
fn without_port(address: &[u8]) -> &[u8] {
    let colon = address.iter().rposition(|byte| *byte == b':');
    colon.and_then(|colon| address.get(..colon)).unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_client_is_the_same_on_each_of_its_connections() {
        let client = |address: &str| Peers::new(None, Some(address.as_bytes())).client;
        assert_eq!(client("10.0.0.1:4711"), client("10.0.0.1:4712"));
        assert_eq!(client("[fd00::1]:4711"), client("[fd00::1]:80"));
        assert_ne!(client("10.0.0.1:4711"), client("10.0.0.2:4711"));
        assert_ne!(client("10.0.0.1:4711"), 0);
    }

    #[test]
    fn two_ports_of_one_address_are_two_hosts() {
        let host = |address: &str| Peers::new(Some(address.as_bytes()), None).host;
        assert_ne!(host("10.0.0.1:80"), host("10.0.0.1:81"));
    }
}
