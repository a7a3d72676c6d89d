//! What proxies with a policy of the same name do not have in common.

use std::collections::BTreeMap;

use super::report::{Difference, DifferenceGroup, PolicyStatus, ProxyStatus, SourceKind};

/// How far shares may be apart, in percent. Proxies are not read at the same moment, and shares may be on the move.
const MAX_SHARE_GAP: f64 = 1.0;

/// Returns all differences, by policy.
pub fn differences(proxies: &[ProxyStatus]) -> Vec<Difference> {
    let readable: Vec<&ProxyStatus> = proxies.iter().filter(|proxy| proxy.error.is_none()).collect();
    let mut by_policy: BTreeMap<&str, Vec<(&str, &PolicyStatus)>> = BTreeMap::new();
    for proxy in &readable {
        for policy in &proxy.policies {
            by_policy.entry(&policy.policy).or_default().push((&proxy.source, policy));
        }
    }
    let mut differences = Vec::new();
    for (name, rows) in by_policy {
        // A page shows one policy, so it tells nothing of the others.
        let used = readable.iter().filter_map(|proxy| {
            match (proxy.policies.iter().any(|policy| policy.policy == name), proxy.kind) {
                (true, _) => Some((proxy.source.as_str(), yes_or_no(true))),
                (false, Some(SourceKind::Statistics)) => Some((proxy.source.as_str(), yes_or_no(false))),
                (false, _) => None,
            }
        });
        differences.extend(difference(name, "in use", used.collect()));
        let mut add = |what: &'static str, value: &dyn Fn(&PolicyStatus) -> Option<String>| {
            let known = rows.iter().filter_map(|(source, policy)| Some((*source, value(policy)?)));
            differences.extend(difference(name, what, known.collect()));
        };
        add("module", &|policy| {
            Some(format!("{} ({})", policy.module_version.as_deref()?, policy.revision.as_deref()?))
        });
        add("document", &|policy| policy.document.map(|document| document.to_string()));
        // Statistics do not tell shadow from off.
        let is_coarse = rows.iter().any(|(_, policy)| policy.mode.as_deref() == Some("not enforced"));
        add("mode", &|policy| {
            let mode = policy.mode.clone()?;
            Some(if is_coarse && mode != "enforce" { "not enforced".to_owned() } else { mode })
        });
        add("draining", &|policy| policy.draining.map(yes_or_no));
        add("upstreams not ready", &|policy| Some(or_none(not_ready(policy))));
        if shares_differ(&rows) {
            add("shares", &|policy| Some(or_none(shares(policy))));
        }
        add("rolled back", &|policy| Some(or_none(policy.rolled_back.as_ref()?.join(", "))));
    }
    differences
}

fn difference(policy: &str, what: &'static str, values: Vec<(&str, String)>) -> Option<Difference> {
    let mut groups: Vec<DifferenceGroup> = Vec::new();
    for (source, value) in values {
        match groups.iter_mut().find(|group| group.value == value) {
            Some(group) => group.proxies.push(source.to_owned()),
            None => groups.push(DifferenceGroup { value, proxies: vec![source.to_owned()] }),
        }
    }
    groups.sort_by_key(|group| core::cmp::Reverse(group.proxies.len()));
    (groups.len() > 1).then(|| Difference { policy: policy.to_owned(), what, groups })
}

/// Returns whether the share of any version is not about the same on all proxies.
fn shares_differ(rows: &[(&str, &PolicyStatus)]) -> bool {
    let mut seen: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    let all: Vec<(&str, &str)> = rows
        .iter()
        .flat_map(|(_, policy)| &policy.shares)
        .flat_map(|(release, versions)| {
            versions.keys().map(move |version| (release.as_str(), version.as_str()))
        })
        .collect();
    for (_, policy) in rows {
        for (release, version) in &all {
            let held = policy.shares.get(*release).and_then(|versions| versions.get(*version));
            let held = held.copied().unwrap_or_default();
            let (least, most) = seen.entry((release, version)).or_insert((held, held));
            (*least, *most) = (least.min(held), most.max(held));
        }
    }
    seen.values().any(|(least, most)| most - least > MAX_SHARE_GAP)
}

/// Returns the names of the upstreams that are not ready.
fn not_ready(policy: &PolicyStatus) -> String {
    // An upstream on its ramp serves, and statistics show it as ready.
    let down = policy.not_ready.iter().filter(|upstream| upstream.state != "ramp");
    let mut names: Vec<&str> = down.map(|upstream| upstream.upstream.as_str()).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Returns the shares of all releases in words.
pub fn shares(policy: &PolicyStatus) -> String {
    let several = policy.shares.len() > 1;
    let releases = policy.shares.iter().filter(|(_, versions)| !versions.is_empty());
    let releases = releases.map(|(release, versions)| {
        let shares: Vec<String> =
            versions.iter().map(|(version, share)| format!("{version} {share} %")).collect();
        let shares = shares.join(", ");
        if several { format!("{release}: {shares}") } else { shares }
    });
    releases.collect::<Vec<_>>().join("; ")
}

/// Returns the word for a fact.
pub fn yes_or_no(fact: bool) -> String {
    if fact { "yes" } else { "no" }.to_owned()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::report::NotReadyUpstream;
    use super::*;

    fn proxy(source: &str, document: u64, share: f64, down: &[(&str, &str)]) -> ProxyStatus {
        let not_ready = down.iter().map(|(upstream, state)| NotReadyUpstream {
            upstream: (*upstream).to_owned(),
            state: (*state).to_owned(),
            reason: None,
        });
        let versions = BTreeMap::from([("v1".to_owned(), 100.0 - share), ("v2".to_owned(), share)]);
        let policy = PolicyStatus {
            policy: "shop".to_owned(),
            document: Some(document),
            mode: Some("enforce".to_owned()),
            not_ready: not_ready.collect(),
            shares: BTreeMap::from([("web".to_owned(), versions)]),
            ..PolicyStatus::default()
        };
        ProxyStatus { source: source.to_owned(), policies: vec![policy], ..ProxyStatus::default() }
    }

    fn found(proxies: &[ProxyStatus]) -> Vec<&'static str> {
        differences(proxies).iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn proxies_that_tell_the_same_do_not_differ() {
        assert!(found(&[proxy("a", 1, 10.0, &[]), proxy("b", 1, 10.4, &[])]).is_empty());
        let down = [("app", "not-ready")];
        assert!(found(&[proxy("a", 1, 10.0, &down), proxy("b", 1, 10.0, &down)]).is_empty());
        assert!(found(&[proxy("a", 1, 10.0, &[("app", "ramp")]), proxy("b", 1, 10.0, &[])]).is_empty());
    }

    #[test]
    fn proxies_of_which_one_drains_differ_and_one_that_does_not_tell_does_not() {
        let draining = |source: &str, draining| {
            let mut proxy = proxy(source, 1, 10.0, &[]);
            proxy.policies[0].draining = draining;
            proxy
        };
        assert_eq!(found(&[draining("a", Some(true)), draining("b", Some(false))]), ["draining"]);
        assert!(found(&[draining("a", Some(true)), draining("b", None)]).is_empty());
    }

    #[test]
    fn a_policy_that_statistics_lack_is_a_difference_and_one_that_a_page_lacks_is_none() {
        let other = |kind| ProxyStatus { source: "b".to_owned(), kind: Some(kind), ..ProxyStatus::default() };
        let shop = proxy("a", 1, 10.0, &[]);
        let differences = differences(&[shop, other(SourceKind::Statistics)]);
        let groups: Vec<&str> = differences[0].groups.iter().map(|group| group.value.as_str()).collect();
        assert_eq!((differences[0].what, groups), ("in use", vec!["yes", "no"]));
        assert!(found(&[proxy("a", 1, 10.0, &[]), other(SourceKind::Page)]).is_empty());
    }

    #[test]
    fn what_is_rolled_back_differs_only_if_both_tell_it() {
        let back = |source: &str, back: Option<&str>| {
            let mut proxy = proxy(source, 1, 10.0, &[]);
            proxy.policies[0].rolled_back = back.map(|back| vec![back.to_owned()]);
            proxy.policies[0].rollbacks.insert(source.to_owned(), 1);
            proxy
        };
        assert_eq!(found(&[back("a", Some("web/v2")), back("b", Some("web/v1"))]), ["rolled back"]);
        assert!(found(&[back("a", Some("web/v2")), back("b", None)]).is_empty());
    }

    #[test]
    fn each_difference_names_the_proxies_of_each_value_and_the_most_common_first() {
        let odd = proxy("c", 2, 30.0, &[("app", "not-ready")]);
        let proxies = [odd, proxy("a", 1, 10.0, &[]), proxy("b", 1, 10.0, &[])];
        assert_eq!(found(&proxies), ["document", "upstreams not ready", "shares"]);
        let document = differences(&proxies).remove(0);
        let groups: Vec<_> =
            document.groups.iter().map(|group| (group.value.as_str(), group.proxies.join(" "))).collect();
        assert_eq!(groups, [("1", "a b".to_owned()), ("2", "c".to_owned())]);
    }
}
