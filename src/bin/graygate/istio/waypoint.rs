//! Which waypoint serves a Service, by the labels of the Service and of its namespace.

use super::model::Object;

/// The labels by which Services and namespaces choose a waypoint.
#[derive(Default)]
pub struct Waypoints {
    chosen: Vec<WaypointChoice>,
}

/// The waypoint of a Service or ServiceEntry, or of all in a namespace.
struct WaypointChoice {
    namespace: String,
    /// The kind and the name. `None` means all of the namespace.
    target: Option<(String, String)>,
    /// The namespace and the name of the Gateway. `None` means no waypoint.
    gateway: Option<(String, String)>,
}

impl Waypoints {
    /// Reads the labels of these objects.
    pub fn read(objects: &[Object<'_>]) -> Self {
        let chosen = objects.iter().filter_map(|object| {
            let is_namespace = (object.group, object.kind) == ("", "Namespace");
            let is_service = (object.group, object.kind) == ("", "Service")
                || (object.group, object.kind) == ("networking.istio.io", "ServiceEntry");
            let name = object.label("istio.io/use-waypoint").filter(|_| is_namespace || is_service)?;
            let namespace = if is_namespace { object.name } else { object.namespace };
            let gateway_namespace = object.label("istio.io/use-waypoint-namespace").unwrap_or(namespace);
            Some(WaypointChoice {
                namespace: namespace.to_owned(),
                target: (!is_namespace).then(|| (object.kind.to_owned(), object.name.to_owned())),
                gateway: (name != "none").then(|| (gateway_namespace.to_owned(), name.to_owned())),
            })
        });
        Waypoints { chosen: chosen.collect() }
    }

    /// Returns whether the Gateway may be the waypoint of the Service or ServiceEntry. Each is given with its namespace.
    /// Without a label, a waypoint may serve all of its namespace.
    pub fn may_serve(
        &self,
        (namespace, gateway): (&str, &str),
        (of, kind, name): (&str, &str, &str),
    ) -> bool {
        let choices = || self.chosen.iter().filter(|choice| choice.namespace == of);
        let own = choices().find(|choice| {
            choice.target.as_ref().is_some_and(|(target, known)| target == kind && known == name)
        });
        match own.or_else(|| choices().find(|choice| choice.target.is_none())) {
            Some(choice) => choice
                .gateway
                .as_ref()
                .is_some_and(|(known_namespace, known)| known_namespace == namespace && known == gateway),
            None => namespace == of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graygate::policy::document::Node;
    use serde_json::json;

    #[test]
    fn a_service_goes_by_its_own_label_then_by_its_namespaces() {
        let object = |kind: &str, name: &str, labels: serde_json::Value| -> Node {
            let metadata = json!({"name": name, "namespace": "shop", "labels": labels});
            serde_json::from_value(json!({"apiVersion": "v1", "kind": kind, "metadata": metadata})).unwrap()
        };
        let elsewhere = json!({"istio.io/use-waypoint": "big", "istio.io/use-waypoint-namespace": "infra"});
        let nodes = [
            object("Namespace", "shop", elsewhere),
            object("Service", "own", json!({"istio.io/use-waypoint": "small"})),
            object("Service", "none", json!({"istio.io/use-waypoint": "none"})),
            object("Pod", "pod", json!({"istio.io/use-waypoint": "small"})),
        ];
        let objects: Vec<_> = nodes.iter().flat_map(|node| Object::all(node, "f")).collect();
        let waypoints = Waypoints::read(&objects);
        for (gateway, name, serves) in [
            (("infra", "big"), "other", true),
            (("shop", "big"), "other", false),
            (("shop", "small"), "own", true),
            (("infra", "big"), "own", false),
            (("infra", "big"), "none", false),
        ] {
            assert_eq!(waypoints.may_serve(gateway, ("shop", "Service", name)), serves, "{name}");
        }
        assert!(waypoints.may_serve(("more", "any"), ("more", "Service", "a")));
        assert!(!waypoints.may_serve(("more", "any"), ("most", "Service", "a")));
    }
}
