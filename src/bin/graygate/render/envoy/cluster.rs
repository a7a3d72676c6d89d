//! Clusters with the addresses from `--endpoint`.

use core::net::IpAddr;

use graygate::policy::document::Node;

use crate::tree::{list, number, object, or_null, text};

/// One address of a cluster, from `--endpoint CLUSTER=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The cluster's name.
    pub cluster: String,
    /// An IP address, or a name that Envoy looks up.
    pub host: String,
    /// The port, which is not 0.
    pub port: u16,
}

impl Endpoint {
    fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }
}

/// Parses the value of `--endpoint`. The name of the cluster may have any character but `=`.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let parts = text.split_once('=').filter(|(cluster, _)| !cluster.is_empty());
    let parsed = parts.and_then(|(cluster, address)| {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<core::net::Ipv6Addr>().ok()?.to_string(),
            None => Some(host).filter(|host| is_host(host))?.to_owned(),
        };
        Some(Endpoint { cluster: cluster.to_owned(), host, port })
    });
    parsed.ok_or_else(|| {
        "write CLUSTER=HOST:PORT, such as app=127.0.0.1:8080, app=[::1]:8080 or app=app.internal:8080"
            .to_owned()
    })
}

/// Returns whether the text is an IPv4 address or a name of DNS.
fn is_host(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.len() <= 253 && text.split('.').all(|part| !part.is_empty() && part.bytes().all(is_allowed))
}

/// Returns a cluster with these addresses. `http2` is whether its hosts speak HTTP/2, which gRPC needs.
pub fn cluster(name: &str, endpoints: &[&Endpoint], http2: bool) -> Node {
    let is_looked_up = endpoints.iter().any(|endpoint| endpoint.is_name());
    // By default, Envoy would take an IPv6 address that a server on IPv4 does not listen at.
    let family = is_looked_up.then(|| text("V4_PREFERRED"));
    let hosts = endpoints.iter().map(|endpoint| {
        let socket = object([("address", text(&endpoint.host)), ("port_value", number(endpoint.port))]);
        host(object([("socket_address", socket)]))
    });
    object([
        ("name", text(name)),
        ("type", text(if is_looked_up { "STRICT_DNS" } else { "STATIC" })),
        ("dns_lookup_family", or_null(family)),
        ("connect_timeout", text("1s")),
        ("typed_extension_protocol_options", or_null(http2.then(http2_options))),
        ("load_assignment", assignment(name, hosts)),
    ])
}

/// Returns a host of a cluster.
pub fn host(address: Node) -> Node {
    object([("endpoint", object([("address", address)]))])
}

/// Returns the `load_assignment` of a cluster with these hosts.
pub fn assignment(name: &str, hosts: impl IntoIterator<Item = Node>) -> Node {
    let endpoints = list([object([("lb_endpoints", list(hosts))])]);
    object([("cluster_name", text(name)), ("endpoints", endpoints)])
}

/// Returns the protocol options of a cluster whose hosts speak HTTP/2.
pub fn http2_options() -> Node {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let explicit = object([("http2_protocol_options", Node::Object(Vec::new()))]);
    let protocol = object([
        ("@type", text(format!("type.googleapis.com/{options}"))),
        ("explicit_http_config", explicit),
    ]);
    object([(options, protocol)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_cluster_name_and_a_host_with_a_port() {
        for (text, cluster, host, port) in [
            ("a=127.0.0.1:80", "a", "127.0.0.1", 80),
            ("outbound|80||a=[::1]:8080", "outbound|80||a", "::1", 8080),
            ("a=app-1.internal:1", "a", "app-1.internal", 1),
        ] {
            let expected = Endpoint { cluster: cluster.to_owned(), host: host.to_owned(), port };
            assert_eq!(parse_endpoint(text), Ok(expected), "{text}");
        }
        for text in [
            "a",
            "=a:1",
            "a=",
            "a=b",
            "a=b:",
            "a=b:0",
            "a=b:65536",
            "a=::1:80",
            "a=[::1]",
            "a=[b]:1",
            "a=b..c:1",
            "a=http://b:1",
            "a=:1",
        ] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cluster_with_a_name_to_look_up_is_strict_dns() {
        let of = |text: &str| {
            let endpoint = parse_endpoint(text).unwrap();
            crate::tree::get_text(&cluster("a", &[&endpoint], false), &["type"]).map(str::to_owned)
        };
        assert_eq!(of("a=127.0.0.1:1").as_deref(), Some("STATIC"));
        assert_eq!(of("a=[::1]:1").as_deref(), Some("STATIC"));
        assert_eq!(of("a=localhost:1").as_deref(), Some("STRICT_DNS"));
    }
}
