//! Finds two resources that add graygate to the same listener of one proxy, so that each request would meet it twice.

use super::model::{Filter, GATEWAY_NAME, ListenerScope, ProxySelector, Resource};
use super::waypoint::Waypoints;

/// What decides which proxies a resource applies to, beside the resource.
#[derive(Clone, Copy)]
pub struct MeshFacts<'m> {
    /// The root namespace of the mesh.
    pub root: &'m str,
    /// The waypoints of Services.
    pub waypoints: &'m Waypoints,
}

/// Returns the first listeners of `filter` in which a proxy may also have `other`.
pub fn shared_scope<'r>(
    (one, filter): (&'r Resource, &'r Filter),
    (two, other): (&'r Resource, &'r Filter),
    mesh: MeshFacts<'_>,
) -> Option<&'r ListenerScope> {
    if !share_proxies(one, two, mesh) {
        return None;
    }
    filter.scopes.iter().find(|scope| other.scopes.iter().any(|other| share_listeners(scope, other)))
}

/// Returns whether one proxy may have both resources.
pub fn share_proxies(one: &Resource, two: &Resource, mesh: MeshFacts<'_>) -> bool {
    share_revision(one, two)
        && share_pods((&one.namespace, &one.selector), (&two.namespace, &two.selector), mesh)
}

fn share_revision(one: &Resource, two: &Resource) -> bool {
    one.revision.is_none() || two.revision.is_none() || one.revision == two.revision
}

/// Returns whether one Pod can match both selectors, each given with its resource's namespace.
///
/// In the root namespace, labels apply to all namespaces, but targets only to that one. The class of waypoints has an
/// effect only there, and applies to every waypoint. No labels apply to a waypoint. A resource for a Service applies where
/// its waypoint serves it, beside those for the waypoint itself.
fn share_pods(
    (namespace, one): (&str, &ProxySelector),
    (other_namespace, two): (&str, &ProxySelector),
    mesh: MeshFacts<'_>,
) -> bool {
    let root = mesh.root;
    match (one, two) {
        (ProxySelector::Labels(one), ProxySelector::Labels(two)) => {
            let differs = |(key, value): &(String, String)| {
                two.iter().any(|(other_key, other_value)| key == other_key && value != other_value)
            };
            (namespace == other_namespace || namespace == root || other_namespace == root)
                && !one.iter().any(differs)
        }
        (ProxySelector::Targets(one), ProxySelector::Targets(two)) => {
            let is_every_waypoint = |namespace: &str, targets: &[(String, String)]| {
                namespace == root
                    && targets.iter().any(|(kind, name)| kind == "GatewayClass" && name == WAYPOINT_CLASS)
            };
            let same = namespace == other_namespace && one.iter().any(|target| two.contains(target));
            let serves = |(namespace, gateways): (&str, &[(String, String)]),
                          (of, services): (&str, &[(String, String)])| {
                let gateways = gateways.iter().filter(|(kind, _)| kind == "Gateway");
                gateways.into_iter().any(|(_, gateway)| {
                    services
                        .iter()
                        .filter(|(kind, _)| kind == "Service" || kind == "ServiceEntry")
                        .any(|(kind, name)| mesh.waypoints.may_serve((namespace, gateway), (of, kind, name)))
                })
            };
            same || is_every_waypoint(namespace, one)
                || is_every_waypoint(other_namespace, two)
                || serves((namespace, one), (other_namespace, two))
                || serves((other_namespace, two), (namespace, one))
        }
        (ProxySelector::Labels(labels), ProxySelector::Targets(targets)) => {
            let is_selected = |(kind, name): &(String, String)| {
                kind == "Gateway" && labels.iter().all(|(key, value)| key == GATEWAY_NAME && value == name)
            };
            (namespace == other_namespace || namespace == root) && targets.iter().any(is_selected)
        }
        (ProxySelector::Targets(_), ProxySelector::Labels(_)) => {
            share_pods((other_namespace, two), (namespace, one), mesh)
        }
    }
}

/// Istio's GatewayClass for waypoints.
const WAYPOINT_CLASS: &str = "istio-waypoint";

/// Returns whether one listener may be in both scopes.
pub fn share_listeners(one: &ListenerScope, two: &ListenerScope) -> bool {
    let ports =
        one.ports.is_empty() || two.ports.is_empty() || one.ports.iter().any(|port| two.ports.contains(port));
    // Two different conditions on proxies are taken to exclude each other, as it cannot be decided.
    let proxies = one.proxies.is_none() || two.proxies.is_none() || one.proxies == two.proxies;
    one.direction == two.direction && ports && proxies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> ProxySelector {
        ProxySelector::Labels(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    fn targets(names: &[&str]) -> ProxySelector {
        ProxySelector::Targets(names.iter().map(|name| ("Gateway".to_owned(), name.to_string())).collect())
    }

    fn share(one: (&str, &ProxySelector), two: (&str, &ProxySelector)) -> bool {
        share_pods(one, two, MeshFacts { root: "istio-system", waypoints: &Waypoints::default() })
    }

    fn share_in_one_namespace(one: &ProxySelector, two: &ProxySelector) -> bool {
        share(("shop", one), ("shop", two))
    }

    #[test]
    fn label_selectors_share_pods_unless_they_want_different_values_of_a_key() {
        let app = labels(&[("app", "a")]);
        let version = labels(&[("version", "1")]);
        let other_app = labels(&[("app", "b")]);
        for shared in [&version, &app, &labels(&[])] {
            assert!(share_in_one_namespace(&app, shared), "{shared:?}");
        }
        assert!(!share_in_one_namespace(&app, &other_app));
    }

    #[test]
    fn a_gateway_is_selected_by_its_name_as_target_or_label_and_by_an_empty_selector() {
        let gateway = targets(&["p", "q"]);
        for shared in [targets(&["q"]), labels(&[]), labels(&[(GATEWAY_NAME, "p")])] {
            assert!(share_in_one_namespace(&gateway, &shared), "{shared:?}");
            assert!(share_in_one_namespace(&shared, &gateway), "{shared:?}");
        }
        for separate in [targets(&["r"]), labels(&[("app", "p")]), labels(&[(GATEWAY_NAME, "r")])] {
            assert!(!share_in_one_namespace(&gateway, &separate), "{separate:?}");
            assert!(!share_in_one_namespace(&separate, &gateway), "{separate:?}");
        }
    }

    #[test]
    fn labels_in_the_root_namespace_apply_everywhere_and_targets_there_do_not() {
        let all = labels(&[]);
        let gateway = targets(&["p"]);
        let across = |one: &ProxySelector, two: &ProxySelector| share(("istio-system", one), ("shop", two));
        assert!(across(&all, &all) && across(&all, &gateway));
        assert!(!across(&gateway, &gateway) && !across(&gateway, &all));
        assert!(!share(("other", &all), ("shop", &all)));
    }

    #[test]
    fn the_waypoint_class_applies_to_every_waypoint_only_in_the_root_namespace() {
        let class = ProxySelector::Targets(vec![("GatewayClass".to_owned(), WAYPOINT_CLASS.to_owned())]);
        let service = ProxySelector::Targets(vec![("Service".to_owned(), "a".to_owned())]);
        for other in [&targets(&["p"]), &service, &class] {
            for (namespace, expected) in [("istio-system", true), ("other", false)] {
                assert_eq!(share((namespace, &class), ("shop", other)), expected, "{namespace} {other:?}");
                assert_eq!(share(("shop", other), (namespace, &class)), expected, "{namespace} {other:?}");
            }
        }
        assert!(!share(("istio-system", &class), ("shop", &labels(&[]))));
    }
}
