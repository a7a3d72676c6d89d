//! Finds the policy that a request is for, by its authority. The cost does not grow with the number of policies.

use crate::value::authority::Authority;
use crate::value::host::Hosts;

/// The policies of a document by their hosts. A policy is represented by its position in the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIndex {
    /// The first policy of each name, in ascending order of the names.
    names: Vec<(String, usize)>,
    /// The policies with wildcards, by what a host ends with, in document order.
    endings: Vec<(String, usize)>,
    /// The first policy for every host, which takes the requests that are for no other.
    rest: Option<usize>,
}

impl HostIndex {
    /// Indexes the hosts of policies that are in document order.
    pub fn new<'h>(policies: impl Iterator<Item = &'h Hosts>) -> Self {
        let mut index = HostIndex::default();
        for (policy, hosts) in policies.enumerate() {
            if hosts.are_all() {
                index.rest.get_or_insert(policy);
            }
            index.names.extend(hosts.names().iter().map(|name| (name.clone(), policy)));
            let endings = hosts.endings().iter().filter(|ending| !ending.is_empty());
            index.endings.extend(endings.map(|ending| (ending.clone(), policy)));
        }
        // The first policy of a name comes first, and stays.
        index.names.sort();
        index.names.dedup_by(|(later, _), (name, _)| later == name);
        index
    }

    /// Returns whether the authority of a request makes a difference.
    pub fn needs_authority(&self) -> bool {
        !self.names.is_empty() || !self.endings.is_empty()
    }

    /// Returns the position of the policy that a request with this authority is for, if there is one.
    pub fn find(&self, authority: Option<&[u8]>) -> Option<usize> {
        let Some(authority) = authority.filter(|_| self.needs_authority()).map(Authority::of) else {
            return self.rest;
        };
        let named = [authority.with_port(), authority.host()].into_iter().filter_map(|host| {
            let place = self.names.binary_search_by(|(name, _)| name.as_bytes().cmp(host)).ok()?;
            self.names.get(place).map(|(_, policy)| *policy)
        });
        let below = self.endings.iter().find(|(ending, _)| authority.is_below(ending));
        named.chain(below.map(|(_, policy)| *policy)).min().or(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn index(policies: &[&[&str]]) -> HostIndex {
        let policies: Vec<Hosts> = policies
            .iter()
            .map(|texts| {
                let mut hosts = Hosts::default();
                texts.iter().for_each(|text| hosts.add(text, None).unwrap());
                hosts
            })
            .collect();
        HostIndex::new(policies.iter())
    }

    #[test]
    fn a_request_is_for_the_first_policy_whose_hosts_it_meets() {
        let policies: [&[&str]; 6] = [
            &["reviews.shop", "api.example.com:8443"],
            &["*.example.com"],
            &["api.example.com", "www.example.com", "pay.example.org"],
            &["*.example.org", "reviews.shop"],
            &[],
            &["late.example.net"],
        ];
        let index = index(&policies);
        for (authority, expected) in [
            ("Reviews.shop:9080", 0),
            ("reviews.shop.svc.cluster.local", 0),
            ("api.example.com:8443", 0),
            ("api.example.com", 1),
            ("www.example.com:80", 1),
            ("pay.example.org", 2),
            ("a.example.org", 3),
            ("example.org", 4),
            ("10.0.0.1:8080", 4),
            ("late.example.net", 5),
            ("", 4),
        ] {
            assert_eq!(index.find(Some(authority.as_bytes())), Some(expected), "{authority}");
        }
        assert_eq!(index.find(None), Some(4));
    }

    #[test]
    fn a_request_for_no_host_of_any_policy_is_for_none() {
        let named = index(&[&["a.example"], &["*.b.example"]]);
        assert!(named.needs_authority());
        assert_eq!(named.find(Some(b"c.example")), None);
        assert_eq!(named.find(None), None);
        assert_eq!(HostIndex::default().find(Some(b"a.example")), None);
    }

    #[test]
    fn the_authority_makes_no_difference_to_a_policy_for_every_host() {
        for hosts in [&[][..], &["*"]] {
            let index = index(&[hosts]);
            assert!(!index.needs_authority());
            assert_eq!((index.find(None), index.find(Some(b"a"))), (Some(0), Some(0)));
        }
    }
}
