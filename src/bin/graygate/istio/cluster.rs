//! Names of the clusters that Istio makes for services.

use core::fmt;

/// A cluster of a service: `outbound|PORT|SUBSET|HOST`, at a waypoint `inbound-vip|PORT|http/SUBSET|HOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCluster<'c> {
    /// Whether it is one of a waypoint.
    pub is_waypoint: bool,
    /// The port of the service.
    pub port: u16,
    /// The subset. Empty if it is the whole service.
    pub subset: &'c str,
    /// The full name of the host.
    pub host: &'c str,
}

impl<'c> ServiceCluster<'c> {
    /// Parses the name of a cluster. Returns `None` for a name that Istio does not give to a service's.
    pub fn parse(cluster: &'c str) -> Option<Self> {
        let (is_waypoint, rest) = match cluster.strip_prefix("outbound|") {
            Some(rest) => (false, rest),
            None => (true, cluster.strip_prefix("inbound-vip|")?),
        };
        let mut parts = rest.splitn(3, '|');
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        let subset = match (is_waypoint, subset) {
            (true, "http") => "",
            (true, subset) => subset.strip_prefix("http/")?,
            (false, subset) => subset,
        };
        let is_host = !host.is_empty() && !host.contains('|');
        let port = port.parse().ok().filter(|_| is_host)?;
        Some(ServiceCluster { is_waypoint, port, subset, host })
    }
}

impl fmt::Display for ServiceCluster<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceCluster { is_waypoint, port, subset, host } = self;
        match (is_waypoint, subset.is_empty()) {
            (false, _) => write!(f, "outbound|{port}|{subset}|{host}"),
            (true, true) => write!(f, "inbound-vip|{port}|http|{host}"),
            (true, false) => write!(f, "inbound-vip|{port}|http/{subset}|{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_service_clusters_are_parsed_and_written_alike() {
        for (text, port, subset) in [
            ("outbound|9080|v1|a.b", 9080, "v1"),
            ("outbound|80||a.b", 80, ""),
            ("inbound-vip|80|http|a.b", 80, ""),
            ("inbound-vip|80|http/v2|a.b", 80, "v2"),
        ] {
            let cluster = ServiceCluster::parse(text).unwrap();
            assert_eq!((cluster.port, cluster.subset, cluster.host), (port, subset, "a.b"));
            assert_eq!(cluster.to_string(), text);
        }
        for text in
            ["app", "inbound|80||", "outbound|x||a", "outbound|80|a", "outbound|80||", "inbound-vip|80|tcp|a"]
        {
            assert_eq!(ServiceCluster::parse(text), None, "{text}");
        }
    }
}
