//! Which of many releases, or gates, a request may be for: found by its path and authority, so that what a request
//! costs does not go by how many there are.

use std::borrow::Cow;

use super::matcher::{Matches, PathCondition};
use crate::value::request::{self, Headers, Request};

/// AuthorityMap in a list, by what their matches say of path and authority. What it finds may match; what it does not, can't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Those that say nothing of the path that can be looked up.
    anywhere: AuthorityMap,
    /// Those that do, in the order of the paths.
    nodes: Vec<TrieNode>,
}

/// What is said of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TrieNode {
    path: String,
    /// The longest other path that this one begins with.
    parent: Option<usize>,
    exact: AuthorityMap,
    prefix: AuthorityMap,
}

/// AuthorityMap, each list in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AuthorityMap {
    whatever_authority: Vec<usize>,
    /// In the order of the authorities.
    by_authority: Vec<(String, Vec<usize>)>,
}

impl Index {
    /// Indexes these by their matches.
    pub fn new<'m>(all: impl Iterator<Item = &'m Matches>) -> Self {
        let mut tree = Index::default();
        for (index, matches) in all.enumerate() {
            for (path, authority) in matches.lookup_conditions() {
                tree.at(path).insert(authority, index);
            }
        }
        let parents: Vec<_> = (0..tree.nodes.len()).map(|node| tree.parent(node)).collect();
        for (node, parent) in tree.nodes.iter_mut().zip(parents) {
            node.parent = parent;
        }
        tree
    }

    fn at(&mut self, condition: PathCondition<'_>) -> &mut AuthorityMap {
        let (path, exact) = match condition {
            PathCondition::Any => return &mut self.anywhere,
            PathCondition::Exact(path) => (path, true),
            PathCondition::Prefix(path) => (path, false),
        };
        let index = self.nodes.partition_point(|node| node.path.as_str() < path);
        if self.nodes.get(index).is_none_or(|node| node.path != path) {
            let none = AuthorityMap::default;
            let node = TrieNode { path: path.to_owned(), parent: None, exact: none(), prefix: none() };
            self.nodes.insert(index, node);
        }
        match self.nodes.get_mut(index) {
            Some(node) if exact => &mut node.exact,
            Some(node) => &mut node.prefix,
            // It has just been put there.
            None => &mut self.anywhere,
        }
    }

    /// All paths that a path begins with come before it, the longest of them last.
    fn parent(&self, index: usize) -> Option<usize> {
        let path = &self.nodes.get(index)?.path;
        let begins = |node: &TrieNode| path.starts_with(&node.path);
        self.nodes.get(..index)?.iter().rposition(begins)
    }

    /// The indexes of those that the request may be for, in ascending order. The authority is asked for only where it
    /// makes a difference.
    pub fn find<'p: 'r, 'r, R: Request>(&'p self, request: &mut Headers<'r, R>) -> Cow<'p, [usize]> {
        let mut found = Cow::Borrowed(&[][..]);
        self.anywhere.find(request, &mut found);
        if !self.nodes.is_empty()
            && let Some(path) = request.get(":path").map(request::path)
        {
            let (mut index, is_whole) = self.last_beginning(path);
            let mut exact = is_whole;
            while let Some(node) = index.and_then(|index| self.nodes.get(index)) {
                if core::mem::take(&mut exact) {
                    node.exact.find(request, &mut found);
                }
                node.prefix.find(request, &mut found);
                index = node.parent;
            }
        }
        if let Cow::Owned(indexes) = &mut found {
            indexes.sort_unstable();
            indexes.dedup();
        }
        found
    }

    /// The longest known path that this one begins with, and whether it is the whole of it. Between a path and whatever
    /// begins with it, in their order, all begin with it; so each beginning of a path is one of the last path's before
    /// it.
    fn last_beginning(&self, path: &[u8]) -> (Option<usize>, bool) {
        let after = self.nodes.partition_point(|node| node.path.as_bytes() <= path);
        let mut index = after.checked_sub(1);
        while let Some(node) = index.and_then(|index| self.nodes.get(index)) {
            if path.starts_with(node.path.as_bytes()) {
                return (index, path.len() == node.path.len());
            }
            index = node.parent;
        }
        (None, false)
    }
}

impl AuthorityMap {
    fn insert(&mut self, authority: Option<&str>, index: usize) {
        let list = match authority {
            None => &mut self.whatever_authority,
            Some(authority) => {
                let found = self.by_authority.binary_search_by(|(known, _)| known.as_str().cmp(authority));
                let at = found.unwrap_or_else(|at| {
                    self.by_authority.insert(at, (authority.to_owned(), Vec::new()));
                    at
                });
                match self.by_authority.get_mut(at) {
                    Some((_, list)) => list,
                    None => return,
                }
            }
        };
        if list.last() != Some(&index) {
            list.push(index);
        }
    }

    fn find<'p: 'r, 'r, R: Request>(&'p self, request: &mut Headers<'r, R>, found: &mut Cow<'p, [usize]>) {
        join(found, &self.whatever_authority);
        if self.by_authority.is_empty() {
            return;
        }
        let Some(authority) = request.get(":authority") else {
            return;
        };
        let at = self.by_authority.binary_search_by(|(known, _)| known.as_bytes().cmp(authority));
        if let Some((_, list)) = at.ok().and_then(|at| self.by_authority.get(at)) {
            join(found, list);
        }
    }
}

/// Most often one list is all there is, and nothing is copied.
fn join<'p>(found: &mut Cow<'p, [usize]>, list: &'p [usize]) {
    if found.is_empty() {
        *found = Cow::Borrowed(list);
    } else if !list.is_empty() {
        found.to_mut().extend(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::Node as Document;
    use crate::policy::problem::ProblemLog;
    use crate::policy::reader::Value;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct To(&'static str, &'static str);

    impl Request for To {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            let value = match name {
                ":path" => self.0,
                ":authority" => self.1,
                name => panic!("asked for {name}"),
            };
            Some(Cow::Borrowed(value.as_bytes()))
        }
    }

    fn matches(text: &str) -> Matches {
        let document: Document = serde_json::from_str(text).unwrap();
        let log = ProblemLog::default();
        let matches = Matches::read(&Value::root(&document, &log));
        log.finish(matches).unwrap()
    }

    /// What is found for a request.
    fn found(all: &[&str], path: &'static str, authority: &'static str) -> Vec<usize> {
        let all: Vec<Matches> = all.iter().map(|text| matches(text)).collect();
        let index = Index::new(all.iter());
        index.find(&mut Headers::new(&To(path, authority), &[])).into_owned()
    }

    #[test]
    fn a_path_leads_to_all_that_begin_it_and_to_itself() {
        let all = [
            r#"[{"uri":{"prefix":"/"}}]"#,
            r#"[{"uri":{"prefix":"/a"}}]"#,
            r#"[{"uri":{"exact":"/a/b"}}]"#,
            r#"[{"uri":{"prefix":"/a/b"}}]"#,
            r#"[{"uri":{"prefix":"/a/b/c"}},{"uri":{"exact":"/z"}}]"#,
            r#"[{"uri":{"prefix":"/ab"}}]"#,
        ];
        for (path, expected) in [
            ("/", &[0][..]),
            ("/a/b?x=/z", &[0, 1, 2, 3]),
            ("/a/b/c/d", &[0, 1, 3, 4]),
            ("/a/bb", &[0, 1, 3]),
            ("/a/a", &[0, 1]),
            ("/abc", &[0, 1, 5]),
            ("/z", &[0, 4]),
            ("/zz", &[0]),
            ("*", &[]),
        ] {
            assert_eq!(found(&all, path, "any"), expected, "{path}");
        }
    }

    #[test]
    fn an_authority_leads_to_those_that_name_it_and_to_those_that_name_none() {
        let all = [
            r#"[{"authority":{"exact":"b"}}]"#,
            r#"[{"uri":{"prefix":"/a"},"authority":{"exact":"b"}}]"#,
            r#"[{"uri":{"prefix":"/a"}},{"authority":{"exact":"a"}}]"#,
            r#"[{"authority":{"prefix":"b"}}]"#,
        ];
        for (path, authority, expected) in [
            ("/a", "a", &[2, 3][..]),
            ("/a", "b", &[0, 1, 2, 3]),
            ("/x", "a", &[2, 3]),
            ("/x", "b", &[0, 3]),
            ("/x", "c", &[3]),
        ] {
            assert_eq!(found(&all, path, authority), expected, "{path} {authority}");
        }
    }

    #[test]
    fn what_can_not_be_looked_up_is_always_found() {
        let all = [
            "[]",
            r#"[{"uri":{"regex":"/a"}}]"#,
            r#"[{"uri":{"prefix":"/A"},"ignoreUriCase":true}]"#,
            r#"[{"headers":{"x":{"exact":"1"}}}]"#,
            r#"[{"uri":{"exact":"/b"}}]"#,
        ];
        assert_eq!(found(&all, "/x", "a"), [0, 1, 2, 3]);
    }
}
