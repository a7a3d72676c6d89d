//! The Services that a policy's clusters stand for. Envoy Gateway names clusters by the rules of a route, so the name in a
//! policy does not tell the Service.

use graygate::policy::document::Node;

use super::super::options;
use crate::istio::cluster::ServiceCluster;
use crate::tree::{number, object, or_null, text};

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The namespace. If absent, it is the one of the route.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// The Service behind one cluster of the policy, from `--backend CLUSTER=SERVICE:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The cluster, as the policy names it.
    pub cluster: String,
    /// Its Service.
    pub service: ServicePort,
}

/// Parses the value of `--backend`. The name of the cluster may have any character but `=`.
pub fn parse_backend(text: &str) -> Result<Backend, String> {
    let parts = text.split_once('=').filter(|(cluster, _)| !cluster.is_empty());
    let parsed = parts.and_then(|(cluster, address)| {
        let (service, port) = address.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(options::parse_short_name(namespace).ok()?), name),
            None => (None, service),
        };
        let name = options::parse_short_name(name).ok()?;
        Some(Backend { cluster: cluster.to_owned(), service: ServicePort { namespace, name, port } })
    });
    parsed.ok_or_else(|| {
        "write CLUSTER=SERVICE:PORT or CLUSTER=NAMESPACE/SERVICE:PORT, such as app=reviews-v1:9080".to_owned()
    })
}

impl ServicePort {
    /// Returns the Service that a cluster of Istio names. Returns `None` for one with a subset, which is not a Service of its
    /// own.
    pub fn of_istio(cluster: &str) -> Option<Self> {
        let ServiceCluster { port, subset, host, .. } = ServiceCluster::parse(cluster)?;
        let mut labels = host.split('.');
        let (name, namespace, kind) = (labels.next()?, labels.next()?, labels.next()?);
        let is_service = subset.is_empty() && kind == "svc";
        is_service.then(|| ServicePort { namespace: Some(namespace.to_owned()), name: name.to_owned(), port })
    }

    /// Returns the item of `backendRefs` in a route of this namespace.
    pub fn reference(&self, route_namespace: &str) -> Node {
        let namespace = self.namespace.as_deref().filter(|namespace| *namespace != route_namespace);
        object([
            ("name", text(&self.name)),
            ("namespace", or_null(namespace.map(text))),
            ("port", number(self.port)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_backend_is_a_cluster_a_service_and_a_port() {
        let backend = parse_backend("outbound|80||a=shop/reviews-v1:9080").unwrap();
        assert_eq!(backend.cluster, "outbound|80||a");
        let service =
            ServicePort { namespace: Some("shop".to_owned()), name: "reviews-v1".to_owned(), port: 9080 };
        assert_eq!(backend.service, service);
        assert_eq!(parse_backend("app=app:80").unwrap().service.namespace, None);
        for text in ["app", "=a:80", "app=a", "app=a:0", "app=A:80", "app=a/b/c:80", "app=/a:80", "app=:80"] {
            assert!(parse_backend(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cluster_of_istio_tells_its_service_unless_it_is_a_subset() {
        let service = ServicePort::of_istio("outbound|9080||reviews-v1.shop.svc.cluster.local").unwrap();
        assert_eq!((service.name.as_str(), service.port), ("reviews-v1", 9080));
        assert_eq!(service.namespace.as_deref(), Some("shop"));
        for cluster in ["outbound|9080|v1|reviews.shop.svc.cluster.local", "outbound|80||example.com", "app"]
        {
            assert_eq!(ServicePort::of_istio(cluster), None, "{cluster}");
        }
    }

    #[test]
    fn a_reference_within_the_namespace_does_not_name_it() {
        let service = parse_backend("a=shop/app:80").unwrap().service;
        let written = |namespace| serde_json::to_value(service.reference(namespace)).unwrap();
        assert_eq!(written("shop"), json!({"name": "app", "port": 80}));
        assert_eq!(written("edge"), json!({"name": "app", "namespace": "shop", "port": 80}));
    }
}
