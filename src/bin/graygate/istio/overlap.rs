//! Two resources that put graygate twice into one listener of one proxy, so that each request meets it twice.

use super::model::{Filter, GATEWAY_NAME, ListenerScope, Reach, Resource};

/// The first listeners in which a proxy may have both filters.
pub fn between<'r>(
    (one, filter): (&'r Resource, &'r Filter),
    (two, other): (&'r Resource, &'r Filter),
    root: &str,
) -> Option<&'r ListenerScope> {
    if !share_proxies(one, two, root) {
        return None;
    }
    filter.scopes.iter().find(|scope| other.scopes.iter().any(|against| share_listeners(scope, against)))
}

/// Whether one proxy may have both.
pub fn share_proxies(one: &Resource, two: &Resource, root: &str) -> bool {
    share_revision(one, two) && share_pods((&one.namespace, &one.reach), (&two.namespace, &two.reach), root)
}

fn share_revision(one: &Resource, two: &Resource) -> bool {
    one.revision.is_none() || two.revision.is_none() || one.revision == two.revision
}

/// Whether one Pod can meet both. Labels in the root namespace are for all namespaces, targets there for its own alone;
/// but the class of waypoints, which counts only there, is for every waypoint, which no labels are.
fn share_pods((home, one): (&str, &Reach), (other, two): (&str, &Reach), root: &str) -> bool {
    match (one, two) {
        (Reach::Labels(one), Reach::Labels(two)) => {
            let differs = |(key, value): &(String, String)| {
                two.iter().any(|(other, against)| key == other && value != against)
            };
            (home == other || home == root || other == root) && !one.iter().any(differs)
        }
        (Reach::Targets(one), Reach::Targets(two)) => {
            let all = |namespace: &str, targets: &[(String, String)]| {
                namespace == root
                    && targets.iter().any(|(kind, name)| kind == "GatewayClass" && name == WAYPOINTS)
            };
            let same = home == other && one.iter().any(|target| two.contains(target));
            same || all(home, one) || all(other, two)
        }
        (Reach::Labels(labels), Reach::Targets(targets)) => {
            let named = |(kind, name): &(String, String)| {
                kind == "Gateway" && labels.iter().all(|(key, value)| key == GATEWAY_NAME && value == name)
            };
            (home == other || home == root) && targets.iter().any(named)
        }
        (Reach::Targets(_), Reach::Labels(_)) => share_pods((other, two), (home, one), root),
    }
}

/// Istio's class of Gateways that are waypoints.
const WAYPOINTS: &str = "istio-waypoint";

/// Whether one listener may be of both.
pub fn share_listeners(one: &ListenerScope, two: &ListenerScope) -> bool {
    let ports =
        one.ports.is_empty() || two.ports.is_empty() || one.ports.iter().any(|port| two.ports.contains(port));
    // Whether two patterns of proxies have one in common, nobody can say.
    let proxies = one.proxies.is_none() || two.proxies.is_none() || one.proxies == two.proxies;
    one.direction == two.direction && ports && proxies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Reach {
        Reach::Labels(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    fn targets(names: &[&str]) -> Reach {
        Reach::Targets(names.iter().map(|name| ("Gateway".to_owned(), name.to_string())).collect())
    }

    fn meet(one: &Reach, two: &Reach) -> bool {
        share_pods(("shop", one), ("shop", two), "istio-system")
    }

    #[test]
    fn one_pod_meets_two_selectors_unless_they_want_different_values_of_a_key() {
        let (app, version, other) =
            (labels(&[("app", "a")]), labels(&[("version", "1")]), labels(&[("app", "b")]));
        assert!(meet(&app, &version) && meet(&app, &app) && meet(&labels(&[]), &app));
        assert!(!meet(&app, &other));
    }

    #[test]
    fn a_gateway_is_met_by_its_name_as_a_target_and_as_a_label_and_by_no_selector_at_all() {
        let gateway = targets(&["p", "q"]);
        for met in [targets(&["q"]), labels(&[]), labels(&[(GATEWAY_NAME, "p")])] {
            assert!(meet(&gateway, &met) && meet(&met, &gateway), "{met:?}");
        }
        for missed in [targets(&["r"]), labels(&[("app", "p")]), labels(&[(GATEWAY_NAME, "r")])] {
            assert!(!meet(&gateway, &missed) && !meet(&missed, &gateway), "{missed:?}");
        }
    }

    #[test]
    fn labels_in_the_root_namespace_are_for_all_and_a_gateway_there_is_its_own() {
        let (all, gateway) = (labels(&[]), targets(&["p"]));
        let across =
            |one: &Reach, two: &Reach| share_pods(("istio-system", one), ("shop", two), "istio-system");
        assert!(across(&all, &all) && across(&all, &gateway));
        assert!(!across(&gateway, &gateway) && !across(&gateway, &all));
        assert!(!share_pods(("other", &all), ("shop", &all), "istio-system"));
    }

    #[test]
    fn the_class_of_waypoints_is_for_all_of_them_from_the_root_namespace_alone() {
        let class = Reach::Targets(vec![("GatewayClass".to_owned(), WAYPOINTS.to_owned())]);
        let service = Reach::Targets(vec![("Service".to_owned(), "a".to_owned())]);
        for met in [&targets(&["p"]), &service, &class] {
            for (home, expected) in [("istio-system", true), ("other", false)] {
                let meets = share_pods((home, &class), ("shop", met), "istio-system");
                assert_eq!(meets, expected, "{home} {met:?}");
                assert_eq!(
                    share_pods(("shop", met), (home, &class), "istio-system"),
                    expected,
                    "{home} {met:?}"
                );
            }
        }
        assert!(!share_pods(("istio-system", &class), ("shop", &labels(&[])), "istio-system"));
    }
}
