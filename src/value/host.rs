//! Hosts that a policy names, and the names that Istio gives a Service of Kubernetes.
//!
//! - A host is compared as an [`Authority`]: without case, and without the port unless the policy names one.
//! - `*.example.com` is any host below, and `*` is every host.
//! - `NAME.NAMESPACE`, also with `.svc` or `.svc.DOMAIN`, is a Service with all its names. On a proxy in its namespace,
//!   these include `NAME` alone.

use core::net::Ipv6Addr;
use core::str::FromStr;

use super::authority::Authority;

/// A list of hosts, with all names of those that are Services.
///
/// ```
/// use graygate::value::authority::Authority;
/// use graygate::value::host::{Hosts, MeshPlace};
///
/// let place = MeshPlace::of_node(b"sidecar~10.0.0.1~cart-7.shop~shop.svc.cluster.local");
/// let mut hosts = Hosts::default();
/// hosts.add("reviews.shop", place)?;
/// hosts.add("*.example.com", place)?;
/// for authority in ["reviews", "reviews.shop:9080", "Reviews.shop.svc.cluster.local", "a.example.com"] {
///     assert!(hosts.include(&Authority::of(authority.as_bytes())), "{authority}");
/// }
/// assert!(!hosts.include(&Authority::of(b"payments.shop")));
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hosts {
    /// The names as [`Authority`] writes them, each once, in ascending order.
    names: Vec<String>,
    /// What the other hosts end with, such as `.example.com`. Every host ends with an empty text.
    endings: Vec<String>,
    /// See [`Hosts::count`].
    count: usize,
}

/// Where a proxy is in an Istio mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshPlace<'n> {
    namespace: &'n str,
    /// The DNS domain of the cluster, such as `cluster.local`.
    domain: &'n str,
}

/// The DNS domain of a cluster that says no other.
const DEFAULT_DOMAIN: &str = "cluster.local";

/// The longest name of DNS.
const MAX_HOST_BYTES: usize = 253;

/// Describes for messages what a host is.
pub const ALLOWED: &str = "a host such as reviews.shop or www.example.com:8443, \"*.example.com\" for all below, or \"*\" for every host";

impl<'n> MeshPlace<'n> {
    /// Returns the place of the proxy with this node ID, or `None` if it is not one that Istio gives. Istio's have the form
    /// `sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN`.
    pub fn of_node(id: &'n [u8]) -> Option<Self> {
        let mut parts = core::str::from_utf8(id).ok()?.splitn(4, '~');
        let (namespace, domain) = parts.nth(3)?.split_once(".svc.")?;
        Some(MeshPlace { namespace, domain })
    }
}

impl Hosts {
    /// Adds a host, for a proxy at this place.
    ///
    /// # Errors
    ///
    /// Says what is allowed, if the text is no host.
    #[inline(never)]
    pub fn add(&mut self, text: &str, place: Option<MeshPlace<'_>>) -> Result<(), &'static str> {
        self.count += 1;
        if text == "*" {
            self.endings.push(String::new());
            return Ok(());
        }
        let authority = Authority::of(text.as_bytes());
        let host = core::str::from_utf8(authority.host()).unwrap_or_default();
        let port = core::str::from_utf8(authority.with_port()).unwrap_or_default().get(host.len()..);
        let port = port.unwrap_or_default();
        validate(text, host, port)?;
        if let Some(ending) = host.strip_prefix('*') {
            self.endings.push([ending, port].concat());
            return Ok(());
        }
        self.add_name(&[host, port]);
        if let Some(Service { name, namespace, domain }) = Service::of(host) {
            self.count += 3;
            let domain = domain.or(place.map(|place| place.domain)).unwrap_or(DEFAULT_DOMAIN);
            for more in [&[][..], &[".svc"], &[".svc.", domain]] {
                self.add_name(&[&[name, ".", namespace], more, &[port]].concat());
            }
            if place.is_some_and(|place| place.namespace == namespace) {
                self.add_name(&[name, port]);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn add_name(&mut self, parts: &[&str]) {
        let name = parts.concat();
        if let Err(position) = self.names.binary_search(&name) {
            self.names.insert(position, name);
        }
    }

    /// Returns whether the authority is one of these hosts.
    #[inline(never)]
    pub fn include(&self, authority: &Authority) -> bool {
        [authority.with_port(), authority.host()]
            .into_iter()
            .any(|host| self.names.binary_search_by(|name| name.as_bytes().cmp(host)).is_ok())
            || self.endings.iter().any(|ending| authority.is_below(ending))
    }

    /// Returns the names of all hosts but wildcards, as [`Authority`] writes them, in ascending order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns how many names the hosts have that were added, whatever the proxy's place.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns what the hosts of wildcards end with, such as `.example.com`. Every host ends with an empty text.
    pub fn endings(&self) -> &[String] {
        &self.endings
    }

    /// Returns whether there are no hosts.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.endings.is_empty()
    }

    /// Returns whether these are the hosts of a policy for every host: there are none, or one is `*`.
    pub fn are_all(&self) -> bool {
        self.is_empty() || self.endings.iter().any(String::is_empty)
    }

    /// Returns whether each request for this one of the [`names`](Hosts::names) or [`endings`](Hosts::endings) of another
    /// list is also for these hosts.
    pub fn cover(&self, other: &str) -> bool {
        let authority = Authority::of(other.as_bytes());
        let is_ending = other.is_empty() || other.starts_with('.');
        let ends_with = |ending: &String| {
            [authority.with_port(), authority.host()].iter().any(|host| host.ends_with(ending.as_bytes()))
        };
        !is_ending && self.include(&authority) || is_ending && self.endings.iter().any(ends_with)
    }

    /// Returns whether there is a wildcard. Without one, the authority of each request that is for these hosts equals one
    /// of the [`names`](Hosts::names), with its port or without.
    pub fn has_wildcard(&self) -> bool {
        !self.endings.is_empty()
    }
}

/// A name of a Service, in its parts.
struct Service<'h> {
    name: &'h str,
    namespace: &'h str,
    domain: Option<&'h str>,
}

impl<'h> Service<'h> {
    fn of(host: &'h str) -> Option<Self> {
        let mut labels = host.splitn(4, '.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        let is_service = name != "*" && labels.next().is_none_or(|label| label == "svc");
        is_service.then(|| Service { name, namespace, domain: labels.next() })
    }
}

/// Returns an error that says what is allowed, unless `text` is this host with this port.
#[inline(never)]
fn validate(text: &str, host: &str, port: &str) -> Result<(), &'static str> {
    if text.contains('/') {
        return Err(
            "a host alone, such as reviews.shop. A scheme is not part of it, and a path belongs into uri.",
        );
    }
    let digits = port.strip_prefix(':').unwrap_or("1");
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if !u16::from_str(digits).is_ok_and(|port| port > 0) || inner.is_none() && host.contains(':') {
        return Err(
            "a host with a port from 1 to 65535, or without one. An IPv6 address has brackets, such as [::1].",
        );
    }
    if let Some(address) = inner {
        return Ipv6Addr::from_str(address).map(drop).map_err(|_| ALLOWED);
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_allowed);
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_valid = host.len() <= MAX_HOST_BYTES && name.split('.').all(is_label);
    if is_valid { Ok(()) } else { Err(ALLOWED) }
}

/// Returns the host of a cluster that Istio made for requests to a service, such as
/// `outbound|9080|v1|reviews.shop.svc.cluster.local`. Returns `None` for any other cluster.
///
/// ```
/// use graygate::value::host::of_cluster;
///
/// let host = of_cluster("outbound_.9080_.v1_.reviews.shop.svc.cluster.local");
/// assert_eq!(host, Some("reviews.shop.svc.cluster.local"));
/// let at_waypoint = of_cluster("inbound-vip|9080|http/v1|reviews.shop.svc.cluster.local");
/// assert_eq!(at_waypoint, host);
/// assert_eq!(of_cluster("inbound|9080||"), None);
/// ```
pub fn of_cluster(cluster: &str) -> Option<&str> {
    let rest = cluster.strip_prefix("outbound").or_else(|| cluster.strip_prefix("inbound-vip"))?;
    let separator = ["|", "_."].into_iter().find(|separator| rest.starts_with(separator))?;
    let mut parts = rest.splitn(4, separator).skip(1);
    let (port, _subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    (u16::from_str(port).is_ok() && !host.is_empty()).then_some(host)
}

/// Returns the shortest name that stands for all names of a Service, such as `reviews.shop`. Returns any other host as it
/// is.
pub fn shortest(host: &str) -> &str {
    let length = Service::of(host).map(|service| service.name.len() + 1 + service.namespace.len());
    length.and_then(|length| host.get(..length)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NODE: &[u8] = b"sidecar~10.0.0.1~cart-7.shop~shop.svc.cluster.local";

    fn read(texts: &[&str], node: &[u8]) -> Hosts {
        let mut hosts = Hosts::default();
        for text in texts {
            hosts.add(text, MeshPlace::of_node(node)).unwrap();
        }
        hosts
    }

    fn includes(hosts: &[&str], node: &[u8], authority: &str) -> bool {
        read(hosts, node).include(&Authority::of(authority.as_bytes()))
    }

    #[test]
    fn each_name_of_a_service_stands_for_all_of_them() {
        for host in ["reviews.shop", "Reviews.Shop.", "reviews.shop.svc", "reviews.shop.svc.cluster.local"] {
            for (authority, expected) in [
                ("reviews.shop", true),
                ("reviews.shop:9080", true),
                ("REVIEWS.shop.svc", true),
                ("reviews.shop.svc.cluster.local.:9080", true),
                ("reviews", true),
                ("reviews:9080", true),
                ("reviews.shop.svc.k8s.example", false),
                ("reviews.pay", false),
                ("xreviews.shop", false),
                ("payments.shop", false),
                ("", false),
            ] {
                assert_eq!(includes(&[host], NODE, authority), expected, "{host}: {authority}");
            }
        }
    }

    #[test]
    fn a_name_without_its_namespace_is_a_service_only_on_a_proxy_of_the_mesh_in_that_namespace() {
        for (node, expected) in [
            (NODE, true),
            (b"waypoint~10.0.0.1~w-7.shop~shop.svc.k8s.example", true),
            (b"sidecar~10.0.0.1~cart-7.pay~pay.svc.cluster.local", false),
            (b"shop", false),
            (b"sidecar~10.0.0.1~cart-7.shop", false),
            (b"", false),
            (b"\xff~~~shop.svc.cluster.local", false),
        ] {
            assert_eq!(includes(&["reviews.shop"], node, "reviews"), expected, "{node:?}");
            assert!(includes(&["reviews.shop"], node, "reviews.shop.svc"));
        }
    }

    #[test]
    fn a_service_is_in_the_domain_that_its_host_names_or_else_in_that_of_the_proxy() {
        let node = b"sidecar~10.0.0.1~cart-7.shop~shop.svc.k8s.example";
        assert!(includes(&["reviews.shop"], node, "reviews.shop.svc.k8s.example"));
        assert!(!includes(&["reviews.shop"], node, "reviews.shop.svc.cluster.local"));
        assert!(includes(&["reviews.shop.svc.cluster.local"], node, "reviews.shop.svc.cluster.local"));
        assert!(includes(&["reviews.shop"], b"", "reviews.shop.svc.cluster.local"));
        assert!(includes(&["reviews.shop.svc.a.b"], b"", "reviews.shop.svc.a.b"));
    }

    #[test]
    fn a_port_counts_only_if_the_host_names_one() {
        assert!(includes(&["www.example.com"], b"", "www.example.com:8443"));
        assert!(includes(&["www.example.com:8443"], b"", "www.example.com:8443"));
        assert!(!includes(&["www.example.com:8443"], b"", "www.example.com"));
        assert!(!includes(&["www.example.com:8443"], b"", "www.example.com:80"));
        assert!(includes(&["reviews.shop:9080"], NODE, "reviews:9080"));
        assert!(!includes(&["reviews.shop:9080"], NODE, "reviews"));
        assert!(includes(&["[::1]"], b"", "[::1]:80"));
        assert!(includes(&["*.example.com:8443"], b"", "a.example.com:8443"));
        assert!(!includes(&["*.example.com:8443"], b"", "a.example.com"));
    }

    #[test]
    fn a_wildcard_is_any_host_below_and_an_asterisk_is_every_host() {
        for (authority, expected) in [
            ("a.example.com", true),
            ("A.b.Example.com.:80", true),
            ("example.com", false),
            (".example.com", false),
            ("aexample.com", false),
            ("a.example.com.org", false),
        ] {
            assert_eq!(includes(&["other", "*.EXAMPLE.com"], b"", authority), expected, "{authority}");
        }
        assert!(includes(&["*"], b"", "any:80"));
        assert!(includes(&["*"], b"", ""));
    }

    #[test]
    fn a_host_of_more_labels_is_no_service() {
        assert_eq!(read(&["www.example.com"], NODE).names(), ["www.example.com"]);
        assert!(!includes(&["reviews.shop.global"], NODE, "reviews.shop"));
        assert!(!includes(&["10.0.0.1"], NODE, "10.0"));
        assert!(includes(&["reviews"], NODE, "reviews"));
        assert!(!includes(&["reviews"], NODE, "reviews.shop"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let error = |text: &str| Hosts::default().add(text, None).err();
        for text in [
            "",
            "http://reviews.shop",
            "reviews.shop/api",
            "reviews shop",
            "reviews..shop",
            ".shop",
            "a.*.com",
            "*a.com",
            "**",
            "*.",
            "*.*",
            "münchen.example",
            "shop:0",
            "shop:65536",
            "shop:http",
            "::1",
            "[::1",
            "[shop]",
            ":80",
            "*:80",
            "a\0b",
            "user@shop",
            &"a".repeat(64),
            &["a"; 128].join("."),
        ] {
            assert!(error(text).is_some(), "{text:?}");
        }
        assert!(error("shop:0").is_some_and(|allowed| allowed.contains("1 to 65535")));
        assert!(error("https://shop").is_some_and(|allowed| allowed.contains("scheme")));
        for text in ["a_b", "xn--mnchen-3ya.example", "1.2.3.4:80", "shop:", "shop.:80", "[::1]:80", "SHOP"] {
            assert_eq!(error(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_cluster_of_istio_names_the_host_of_its_service() {
        for (cluster, host) in [
            ("outbound|9080||reviews.shop.svc.cluster.local", Some("reviews.shop.svc.cluster.local")),
            ("outbound|9080|v1|reviews.shop.svc.cluster.local", Some("reviews.shop.svc.cluster.local")),
            ("outbound_.9080_._.reviews.shop.svc.cluster.local", Some("reviews.shop.svc.cluster.local")),
            ("outbound|443||*.example.com", Some("*.example.com")),
            ("outbound|9080|v1|", None),
            ("outbound|x||reviews", None),
            ("outbound|9080|reviews", None),
            ("outbound-reviews", None),
            ("inbound|9080||reviews", None),
            ("inbound|9080||", None),
            ("reviews", None),
            ("", None),
        ] {
            assert_eq!(of_cluster(cluster), host, "{cluster}");
        }
    }

    #[test]
    fn the_shortest_name_of_a_service_has_its_namespace() {
        for (host, expected) in [
            ("reviews.shop.svc.cluster.local", "reviews.shop"),
            ("reviews.shop.svc", "reviews.shop"),
            ("reviews.shop", "reviews.shop"),
            ("www.example.com", "www.example.com"),
            ("*.shop.svc.cluster.local", "*.shop.svc.cluster.local"),
            ("reviews", "reviews"),
        ] {
            assert_eq!(shortest(host), expected);
        }
    }
}
