//! Names of the clusters that Envoy Gateway makes.

/// A cluster of Envoy Gateway, by what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayCluster<'c> {
    /// The cluster of a rule of a route: `httproute/NAMESPACE/NAME/rule/NUMBER`. If a rule needs a cluster for each of its
    /// backends, `/backend/NUMBER` follows.
    Rule {
        /// The kind of the route in lower case.
        kind: &'c str,
        /// The namespace of the route.
        namespace: &'c str,
        /// The name of the route.
        name: &'c str,
        /// The number of the rule, from 0.
        rule: usize,
        /// The number of the backend, if the name has it.
        backend: Option<usize>,
    },
    /// The cluster that all rules share for one backend, while `mergeBackends` is set: `service/NAMESPACE/NAME/PORT`.
    Merged,
}

impl<'c> GatewayCluster<'c> {
    /// Parses the name of a cluster. Returns `None` for a name that Envoy Gateway does not give to a backend's.
    pub fn parse(cluster: &'c str) -> Option<Self> {
        let parts: Vec<&str> = cluster.split('/').collect();
        match *parts.as_slice() {
            [kind @ ("httproute" | "grpcroute"), namespace, name, "rule", rule] => {
                Some(GatewayCluster::Rule { kind, namespace, name, rule: rule.parse().ok()?, backend: None })
            }
            [kind @ ("httproute" | "grpcroute"), namespace, name, "rule", rule, "backend", backend] => {
                let backend = Some(backend.parse().ok()?);
                Some(GatewayCluster::Rule { kind, namespace, name, rule: rule.parse().ok()?, backend })
            }
            ["service" | "serviceimport" | "backend", _, _, port]
            | ["service" | "serviceimport" | "backend", _, _, port, _] => {
                port.parse::<u16>().ok().map(|_| GatewayCluster::Merged)
            }
            _ => None,
        }
    }
}

/// Returns the name of the cluster of a rule of an HTTPRoute.
pub fn of_rule(namespace: &str, name: &str, rule: usize) -> String {
    format!("httproute/{namespace}/{name}/rule/{rule}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_are_parsed() {
        let rule = |kind, rule, backend| GatewayCluster::Rule {
            kind,
            namespace: "shop",
            name: "reviews",
            rule,
            backend,
        };
        for (cluster, parsed) in [
            (of_rule("shop", "reviews", 3), Some(rule("httproute", 3, None))),
            ("grpcroute/shop/reviews/rule/0".to_owned(), Some(rule("grpcroute", 0, None))),
            ("httproute/shop/reviews/rule/0/backend/2".to_owned(), Some(rule("httproute", 0, Some(2)))),
            ("service/shop/reviews/80".to_owned(), Some(GatewayCluster::Merged)),
            ("service/shop/reviews/80/http2".to_owned(), Some(GatewayCluster::Merged)),
        ] {
            assert_eq!(GatewayCluster::parse(&cluster), parsed, "{cluster}");
        }
        for cluster in [
            "app",
            "httproute/shop/reviews/rule/x",
            "httproute/shop/reviews",
            "service/a/b/c",
            "outbound|80||a",
        ] {
            assert_eq!(GatewayCluster::parse(cluster), None, "{cluster}");
        }
    }
}
