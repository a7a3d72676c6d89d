//! Two resources that put graygate twice into one listener of one proxy, so that each request meets it twice.

use super::resource::{Filter, GATEWAY_NAME, Reach, Resource, Slot};

/// The first place in which a proxy may have both filters.
pub fn between<'r>(
    (one, filter): (&'r Resource, &'r Filter),
    (two, other): (&'r Resource, &'r Filter),
    root: &str,
) -> Option<&'r Slot> {
    if !share_namespace(one, two, root) || !share_revision(one, two) || !share_proxies(&one.reach, &two.reach)
    {
        return None;
    }
    filter.slots.iter().find(|slot| other.slots.iter().any(|against| share_listeners(slot, against)))
}

/// A resource in the root namespace is for all.
fn share_namespace(one: &Resource, two: &Resource, root: &str) -> bool {
    one.namespace == two.namespace || one.namespace == root || two.namespace == root
}

fn share_revision(one: &Resource, two: &Resource) -> bool {
    one.revision.is_none() || two.revision.is_none() || one.revision == two.revision
}

/// Whether one Pod can meet both.
fn share_proxies(one: &Reach, two: &Reach) -> bool {
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
