//! Two resources that put graygate twice into one listener of one proxy, so that each request meets it twice.

use super::resource::{Filter, GATEWAY_NAME, Reach, Resource, Slot};

/// The first place in which a proxy may have both filters.
pub fn between<'r>(
    (one, filter): (&'r Resource, &'r Filter),
    (two, other): (&'r Resource, &'r Filter),
    root: &str,
) -> Option<&'r Slot> {
    if !share_proxies(one, two, root) {
        return None;
    }
    filter.slots.iter().find(|slot| other.slots.iter().any(|against| share_listeners(slot, against)))
}

/// Whether one proxy may have both.
pub fn share_proxies(one: &Resource, two: &Resource, root: &str) -> bool {
    share_namespace(one, two, root) && share_revision(one, two) && share_pods(&one.reach, &two.reach)
}

/// A resource in the root namespace is for all.
fn share_namespace(one: &Resource, two: &Resource, root: &str) -> bool {
    one.namespace == two.namespace || one.namespace == root || two.namespace == root
}

fn share_revision(one: &Resource, two: &Resource) -> bool {
    one.revision.is_none() || two.revision.is_none() || one.revision == two.revision
}

/// Whether one Pod can meet both.
fn share_pods(one: &Reach, two: &Reach) -> bool {
    match (one, two) {
        (Reach::Labels(one), Reach::Labels(two)) => {
            let differs = |(key, value): &(String, String)| {
                two.iter().any(|(other, against)| key == other && value != against)
            };
            !one.iter().any(differs)
        }
        (Reach::Targets(one), Reach::Targets(two)) => one.iter().any(|target| two.contains(target)),
        (Reach::Labels(labels), Reach::Targets(targets))
        | (Reach::Targets(targets), Reach::Labels(labels)) => {
            let named = |(kind, name): &(String, String)| {
                kind == "Gateway" && labels.iter().all(|(key, value)| key == GATEWAY_NAME && value == name)
            };
            targets.iter().any(named)
        }
    }
}

/// Whether one listener may be of both.
pub fn share_listeners(one: &Slot, two: &Slot) -> bool {
    let ports =
        one.ports.is_empty() || two.ports.is_empty() || one.ports.iter().any(|port| two.ports.contains(port));
    // Whether two patterns of proxies have one in common, nobody can say.
    let proxies = one.proxies.is_none() || two.proxies.is_none() || one.proxies == two.proxies;
    one.place == two.place && ports && proxies
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

    #[test]
    fn one_pod_meets_two_selectors_unless_they_want_different_values_of_a_key() {
        let (app, version, other) =
            (labels(&[("app", "a")]), labels(&[("version", "1")]), labels(&[("app", "b")]));
        assert!(share_pods(&app, &version) && share_pods(&app, &app) && share_pods(&labels(&[]), &app));
        assert!(!share_pods(&app, &other));
    }

    #[test]
    fn a_gateway_is_met_by_its_name_as_a_target_and_as_a_label_and_by_no_selector_at_all() {
        let gateway = targets(&["p", "q"]);
        for met in [targets(&["q"]), labels(&[]), labels(&[(GATEWAY_NAME, "p")])] {
            assert!(share_pods(&gateway, &met) && share_pods(&met, &gateway), "{met:?}");
        }
        for missed in [targets(&["r"]), labels(&[("app", "p")]), labels(&[(GATEWAY_NAME, "r")])] {
            assert!(!share_pods(&gateway, &missed) && !share_pods(&missed, &gateway), "{missed:?}");
        }
    }
}
