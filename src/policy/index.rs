//! Finds the releases, or gates, that a request may match, by its path and authority. The cost of a request then does
//! not grow with their number.
//!
//! The index only narrows the search. An entry that it leaves out cannot match the request. An entry that it returns
//! still has to be matched, unless its matches have nothing but a path that the index looks up.

use std::borrow::Cow;

use super::matcher::{Matches, PathCondition};
use crate::value::authority::Authority;
use crate::value::request::{AUTHORITY, Headers, Request};

/// The entries of a list, such as all releases, by their conditions on path and authority. An entry is represented by
/// its position in that list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The entries without a condition on the path that can be looked up.
    any_path: AuthorityMap,
    /// The other entries, in ascending order of their paths.
    nodes: Vec<TrieNode>,
    /// For each entry, whether it matches every request for which the index finds it.
    decided: Vec<bool>,
}

/// The entries with a condition on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TrieNode {
    path: String,
    /// The node with the longest other path that this one begins with.
    parent: Option<usize>,
    /// The entries that match only this path.
    exact: AuthorityMap,
    /// The entries that match every path that begins with this one.
    prefix: AuthorityMap,
}

/// Entries by their condition on the authority. Each list is in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AuthorityMap {
    /// The entries without a condition on the authority that can be looked up.
    any_authority: Vec<usize>,
    /// The entries that match one authority, in ascending order of the authorities.
    by_authority: Vec<(String, Vec<usize>)>,
}

impl Index {
    /// Builds the index of a list, given the matches of each of its entries.
    pub fn new<'m>(entries: impl Iterator<Item = &'m Matches>) -> Self {
        let mut index = Index::default();
        for (entry, matches) in entries.enumerate() {
            index.insert(entry, matches);
            index.decided.push(matches.are_looked_up());
        }
        index.find_parents();
        index
    }

    #[inline(never)]
    fn insert(&mut self, entry: usize, matches: &Matches) {
        matches.each_lookup(&mut |path, authority| self.map_for(path).insert(authority, entry));
    }

    #[inline(never)]
    fn find_parents(&mut self) {
        let parents: Vec<_> = (0..self.nodes.len()).map(|node| self.find_parent(node)).collect();
        for (node, parent) in self.nodes.iter_mut().zip(parents) {
            node.parent = parent;
        }
    }

    /// Returns the map for this condition on the path. Adds a node for the path if there is none.
    fn map_for(&mut self, condition: PathCondition<'_>) -> &mut AuthorityMap {
        let (path, exact) = match condition {
            PathCondition::Any => return &mut self.any_path,
            PathCondition::Exact(path) => (path, true),
            PathCondition::Prefix(path) => (path, false),
        };
        let position = self.nodes.partition_point(|node| node.path.as_str() < path);
        if self.nodes.get(position).is_none_or(|node| node.path != path) {
            let node = TrieNode {
                path: path.to_owned(),
                parent: None,
                exact: AuthorityMap::default(),
                prefix: AuthorityMap::default(),
            };
            self.nodes.insert(position, node);
        }
        match self.nodes.get_mut(position) {
            Some(node) if exact => &mut node.exact,
            Some(node) => &mut node.prefix,
            // Unreachable, as the node was just inserted.
            None => &mut self.any_path,
        }
    }

    /// Returns the parent of a node. In ascending order, all beginnings of a path come before it, the longest last.
    fn find_parent(&self, position: usize) -> Option<usize> {
        let path = &self.nodes.get(position)?.path;
        let is_beginning = |node: &TrieNode| path.starts_with(&node.path);
        self.nodes.get(..position)?.iter().rposition(is_beginning)
    }

    /// Returns whether this entry matches every request for which the index finds it.
    pub fn decides(&self, entry: usize) -> bool {
        self.decided.get(entry).is_some_and(|is_decided| *is_decided)
    }

    /// Returns the positions of the entries that the request may match, in ascending order. Reads the authority only if
    /// it makes a difference, as each header read costs a host call.
    pub fn find<'p: 'r, 'r, R: Request>(&'p self, request: &mut Headers<'r, R>) -> Cow<'p, [usize]> {
        let mut found = Cow::Borrowed(&[][..]);
        self.any_path.find(request, &mut found);
        if !self.nodes.is_empty()
            && let Some(path) = request.path()
        {
            let mut next = self.longest_beginning(path);
            if let Some(node) = next
                && node.path.len() == path.len()
            {
                node.exact.find(request, &mut found);
            }
            while let Some(node) = next {
                node.prefix.find(request, &mut found);
                next = self.parent(node);
            }
        }
        if let Cow::Owned(entries) = &mut found {
            entries.sort_unstable();
            entries.dedup();
        }
        found
    }

    /// Returns the node with the longest path that this path begins with.
    ///
    /// Every path that sorts between a beginning of a path and that path also starts with the beginning. So each
    /// beginning is the last node at or before the path, or one of that node's ancestors.
    fn longest_beginning(&self, path: &[u8]) -> Option<&TrieNode> {
        let after = self.nodes.partition_point(|node| node.path.as_bytes() <= path);
        let mut next = self.nodes.get(after.checked_sub(1)?);
        while let Some(node) = next {
            if path.starts_with(node.path.as_bytes()) {
                return Some(node);
            }
            next = self.parent(node);
        }
        None
    }

    fn parent(&self, node: &TrieNode) -> Option<&TrieNode> {
        self.nodes.get(node.parent?)
    }
}

impl AuthorityMap {
    fn insert(&mut self, authority: Option<&str>, entry: usize) {
        let list = match authority {
            None => &mut self.any_authority,
            Some(authority) => {
                let found = self.by_authority.binary_search_by(|(known, _)| known.as_str().cmp(authority));
                let position = found.unwrap_or_else(|position| {
                    self.by_authority.insert(position, (authority.to_owned(), Vec::new()));
                    position
                });
                match self.by_authority.get_mut(position) {
                    Some((_, list)) => list,
                    None => return,
                }
            }
        };
        if list.last() != Some(&entry) {
            list.push(entry);
        }
    }

    fn find<'p: 'r, 'r, R: Request>(&'p self, request: &mut Headers<'r, R>, found: &mut Cow<'p, [usize]>) {
        add(found, &self.any_authority);
        if self.by_authority.is_empty() {
            return;
        }
        let Some(authority) = request.get(AUTHORITY).map(Authority::of) else {
            return;
        };
        add(found, self.exact(authority.with_port()));
        if authority.host().len() < authority.with_port().len() {
            add(found, self.exact(authority.host()));
        }
    }
}

impl AuthorityMap {
    /// Returns the entries that match this authority.
    fn exact(&self, authority: &[u8]) -> &[usize] {
        let position = self.by_authority.binary_search_by(|(known, _)| known.as_bytes().cmp(authority));
        let found = position.ok().and_then(|position| self.by_authority.get(position));
        found.map_or(&[], |(_, list)| list)
    }
}

/// Adds a list to what was found. Most requests find only one list, which is then not copied.
fn add<'p>(found: &mut Cow<'p, [usize]>, list: &'p [usize]) {
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

    /// A request by its path and authority. Panics when asked for another header.
    struct PathAndAuthority(&'static str, &'static str);

    impl Request for PathAndAuthority {
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
        let matches = Matches::read(&Value::root(&document, &log, crate::policy::keys::MATCHES));
        log.finish(matches).unwrap()
    }

    /// Indexes these matches and returns what the index finds for a request.
    fn find(entries: &[&str], path: &'static str, authority: &'static str) -> Vec<usize> {
        let entries: Vec<Matches> = entries.iter().map(|text| matches(text)).collect();
        let index = Index::new(entries.iter());
        index.find(&mut Headers::new(&PathAndAuthority(path, authority), &[])).into_owned()
    }

    #[test]
    fn an_entry_is_decided_by_the_index_if_it_has_nothing_but_paths_that_are_looked_up() {
        for (text, expected) in [
            (r#"[{"uri":{"prefix":"/a"}}]"#, true),
            (r#"[{"uri":{"prefix":"/a"}},{"name":"b","uri":{"exact":"/b"}}]"#, true),
            (r#"[{"uri":{"prefix":"/a"}},{"uri":{"regex":"/b+"}}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"ignoreUriCase":true}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"hosts":["a.example"]}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"headers":{"x":{"exact":"1"}}}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"method":{"exact":"GET"}}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"queryParams":{"x":{"exact":"1"}}}]"#, false),
            (r#"[{"uri":{"prefix":"/a"},"sourceIpBlocks":["10.0.0.0/8"]}]"#, false),
            (r#"[{"authority":{"exact":"a.example"}}]"#, false),
            ("[]", false),
        ] {
            let index = Index::new([matches(text)].iter());
            assert_eq!(index.decides(0), expected, "{text}");
            assert!(!index.decides(1));
        }
    }

    #[test]
    fn a_path_finds_its_exact_match_and_every_prefix() {
        let entries = [
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
            assert_eq!(find(&entries, path, "any"), expected, "{path}");
        }
    }

    #[test]
    fn an_authority_finds_entries_with_that_authority_and_entries_without_any() {
        let entries = [
            r#"[{"authority":{"exact":"b"}}]"#,
            r#"[{"uri":{"prefix":"/a"},"authority":{"exact":"b"}}]"#,
            r#"[{"uri":{"prefix":"/a"}},{"authority":{"exact":"a"}}]"#,
            r#"[{"authority":{"prefix":"b"}}]"#,
            r#"[{"headers":{"Host":{"exact":"B:80"}}}]"#,
            r#"[{"hosts":["A","b.c"]},{"uri":{"prefix":"/a"},"hosts":["B:80"]}]"#,
            r#"[{"hosts":["a","*.c"]}]"#,
            r#"[{"hosts":["c"],"authority":{"exact":"d"}}]"#,
        ];
        for (path, authority, expected) in [
            ("/a", "a", &[2, 3, 5, 6][..]),
            ("/a", "b", &[0, 1, 2, 3, 6]),
            ("/x", "a", &[2, 3, 5, 6]),
            ("/x", "b", &[0, 3, 6]),
            ("/x", "c", &[3, 6]),
            ("/x", "B.:80", &[0, 3, 4, 6]),
            ("/a", "b:80", &[0, 1, 2, 3, 4, 5, 6]),
            ("/x", "b:81", &[0, 3, 6]),
            ("/x", "b.c.svc:9", &[3, 5, 6]),
            ("/x", "d", &[3, 6, 7]),
        ] {
            assert_eq!(find(&entries, path, authority), expected, "{path} {authority}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_looked_up_is_always_found() {
        let entries = [
            "[]",
            r#"[{"uri":{"regex":"/a"}}]"#,
            r#"[{"uri":{"prefix":"/A"},"ignoreUriCase":true}]"#,
            r#"[{"headers":{"x":{"exact":"1"}}}]"#,
            r#"[{"uri":{"exact":"/b"}}]"#,
        ];
        assert_eq!(find(&entries, "/x", "a"), [0, 1, 2, 3]);
    }
}
