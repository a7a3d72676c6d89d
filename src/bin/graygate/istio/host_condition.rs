//! The hosts whose requests a release or gate is for, as its policy names them.

use graygate::policy::document::Node;

use super::condition::{TextMatch, Verdict};
use crate::tree::{get, items};

/// The hosts that a policy and a list of matches name.
pub struct HostCondition<'n> {
    /// `hosts` of the policy. `None` means every host.
    policy: Option<Vec<&'n str>>,
    /// The condition of each alternative. Empty means every request.
    alternatives: Vec<Alternative<'n>>,
}

/// The hosts of one alternative.
enum Alternative<'n> {
    /// It names none.
    Any,
    /// `hosts`.
    Hosts(Vec<&'n str>),
    /// `authority`.
    Authority(TextMatch<'n>),
}

impl<'n> HostCondition<'n> {
    /// Reads the condition of a policy and of a release or gate in it.
    pub fn read(policy: &'n Node, owner: &'n Node) -> Self {
        let alternatives = items(get(owner, &["match"])).iter().map(|item| {
            match (get(item, &["hosts"]), get(item, &["authority"])) {
                (Some(hosts), _) => Alternative::Hosts(texts(hosts)),
                (None, Some(authority)) => Alternative::Authority(TextMatch::read(authority)),
                (None, None) => Alternative::Any,
            }
        });
        HostCondition { policy: get(policy, &["hosts"]).map(texts), alternatives: alternatives.collect() }
    }

    /// Returns whether it names any host.
    pub fn is_given(&self) -> bool {
        self.policy.is_some()
            || self.alternatives.iter().any(|alternative| !matches!(alternative, Alternative::Any))
    }

    /// Returns whether requests for a host by one of these names may meet it.
    pub fn accepts(&self, names: &[String]) -> bool {
        let in_list = |hosts: &[&str]| hosts.iter().any(|host| names.iter().any(|name| is_host(host, name)));
        let by_policy = self.policy.as_ref().is_none_or(|hosts| in_list(hosts));
        by_policy
            && (self.alternatives.is_empty()
                || self.alternatives.iter().any(|alternative| match alternative {
                    Alternative::Any => true,
                    Alternative::Hosts(hosts) => in_list(hosts),
                    Alternative::Authority(TextMatch::Exact(host)) => in_list(&[host]),
                    Alternative::Authority(text) => {
                        names.iter().any(|name| text.holds_for(name, true) != Verdict::Never)
                    }
                }))
    }

    /// Returns the names that are written in full.
    pub fn names(&self) -> Vec<&'n str> {
        let of_alternatives = self.alternatives.iter().flat_map(|alternative| match alternative {
            Alternative::Hosts(hosts) => hosts.clone(),
            Alternative::Authority(TextMatch::Exact(host)) => vec![*host],
            Alternative::Any | Alternative::Authority(_) => Vec::new(),
        });
        self.policy.iter().flatten().copied().chain(of_alternatives).collect()
    }
}

fn texts(node: &Node) -> Vec<&str> {
    let all = items(Some(node)).iter();
    all.filter_map(|item| match item {
        Node::Text(text) => Some(text.as_str()),
        _ => None,
    })
    .collect()
}

/// Returns whether a host of a policy, perhaps with a port or a wildcard, is the host with this name.
fn is_host(host: &str, name: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    match host.strip_prefix('*') {
        Some(domain) => name.len() > domain.len() && name.ends_with(domain),
        None => host.trim_end_matches('.').eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn accepts(policy: serde_json::Value, owner: serde_json::Value, names: &[&str]) -> bool {
        let policy: Node = serde_json::from_value(policy).unwrap();
        let owner: Node = serde_json::from_value(owner).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        HostCondition::read(&policy, &owner).accepts(&names)
    }

    #[test]
    fn a_host_is_accepted_if_the_policy_and_one_alternative_name_it() {
        let names = ["reviews", "reviews.shop"];
        for (owner, expected) in [
            (json!({}), true),
            (json!({"match": [{"uri": {"prefix": "/"}}]}), true),
            (json!({"match": [{"hosts": ["ratings.shop"]}, {"hosts": ["*.shop"]}]}), true),
            (json!({"match": [{"hosts": ["Reviews.shop.:80"]}]}), true),
            (json!({"match": [{"authority": {"exact": "reviews:80"}}]}), true),
            (json!({"match": [{"authority": {"regex": "revews"}}]}), false),
            (json!({"match": [{"authority": {"prefix": "reviews"}}]}), true),
            (json!({"match": [{"hosts": ["ratings.shop"]}]}), false),
        ] {
            assert_eq!(accepts(json!({}), owner.clone(), &names), expected, "{owner}");
            assert!(!accepts(json!({"hosts": ["other"]}), owner.clone(), &names), "{owner}");
        }
    }
}
