//! The settings that differ between two documents, by their paths.
//!
//! Items of a list that have names are compared by name, as in `releases[reviews]`, and gates by their upstream. What
//! the filter ignores, such as keys that begin with `x-`, is left out.

use graygate::policy::document::Node;
use graygate::policy::reader::segment;
use serde::Serialize;

use crate::tree::{fields, get_text};

/// A setting that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// The path to it.
    pub path: String,
    /// Its value before. `None` if it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its value now. `None` if it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl SettingChange {
    /// Describes the change in one line. Cuts long values.
    pub fn describe(&self) -> String {
        let path = &self.path;
        match (self.before.as_deref().map(cut), self.after.as_deref().map(cut)) {
            (Some(before), Some(after)) => format!("{path}: {before} -> {after}"),
            (None, Some(after)) => format!("{path}: new, {after}"),
            (Some(before), None) => format!("{path}: removed, was {before}"),
            (None, None) => path.clone(),
        }
    }
}

/// Shortens a text to what fits a line.
fn cut(text: &str) -> String {
    const MOST: usize = 60;
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(MOST).collect();
    if characters.next().is_none() { start } else { format!("{start}…") }
}

/// Returns what differs between two policies.
pub fn of(old: &Node, new: &Node) -> Vec<SettingChange> {
    let mut changes = Vec::new();
    compare(&without_extensions(old), &without_extensions(new), "", &mut changes);
    changes
}

fn without_extensions(policy: &Node) -> Node {
    let kept = fields(policy).iter().filter(|(key, value)| !key.starts_with("x-") && *value != Node::Null);
    Node::Object(kept.cloned().collect())
}

fn compare(old: &Node, new: &Node, path: &str, changes: &mut Vec<SettingChange>) {
    match (old, new) {
        (Node::Object(old), Node::Object(new)) => {
            let entries = |fields: &[(String, Node)]| -> Vec<(String, Node)> {
                fields.iter().map(|(key, value)| (segment(path, key), value.clone())).collect()
            };
            compare_entries(&entries(old), &entries(new), path, changes);
        }
        (Node::List(old_items), Node::List(new_items)) => match (named(old_items), named(new_items)) {
            (Some(old), Some(new)) => {
                compare_entries(&old, &new, path, changes);
                let order = |own: &[(String, Node)], other: &[(String, Node)]| -> Vec<String> {
                    let common = own.iter().map(|(name, _)| name.trim_matches(['[', ']']).to_owned());
                    let is_in =
                        |name: &String| other.iter().any(|(known, _)| known.trim_matches(['[', ']']) == name);
                    common.filter(is_in).collect()
                };
                let (before, after) = (order(&old, &new), order(&new, &old));
                if before != after {
                    let path = format!("the order of {path}");
                    changes.push(change(&path, Some(before.join(", ")), Some(after.join(", "))));
                }
            }
            _ => compare_items(old_items, new_items, path, changes),
        },
        (old, new) if is_same(old, new) => {}
        (old, new) => changes.push(change(path, Some(describe(old)), Some(describe(new)))),
    }
}

/// Compares the values of two objects, or the items of two lists, by their keys. A key is the end of the path.
fn compare_entries(
    old: &[(String, Node)],
    new: &[(String, Node)],
    path: &str,
    changes: &mut Vec<SettingChange>,
) {
    let find = |entries: &'_ [(String, Node)], key: &str| -> Option<Node> {
        entries.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    for (key, before) in old {
        let path = format!("{path}{key}");
        match find(new, key) {
            Some(after) => compare(before, &after, &path, changes),
            None => changes.push(change(&path, Some(describe(before)), None)),
        }
    }
    for (key, after) in new.iter().filter(|(key, _)| find(old, key).is_none()) {
        changes.push(change(&format!("{path}{key}"), None, Some(describe(after))));
    }
}

/// Compares lists of items without names. Words are compared as a set, and all else by position.
fn compare_items(old: &[Node], new: &[Node], path: &str, changes: &mut Vec<SettingChange>) {
    let is_text = |items: &[Node]| items.iter().all(|item| matches!(item, Node::Text(_)));
    if is_text(old) && is_text(new) {
        let removed: Vec<_> = old.iter().filter(|item| !new.contains(item)).collect();
        let added: Vec<_> = new.iter().filter(|item| !old.contains(item)).collect();
        if removed.is_empty() && added.is_empty() && old != new {
            let list = |items: &[Node]| items.iter().map(describe).collect::<Vec<_>>().join(", ");
            changes.push(change(&format!("the order of {path}"), Some(list(old)), Some(list(new))));
        }
        changes.extend(removed.into_iter().map(|item| change(path, Some(describe(item)), None)));
        changes.extend(added.into_iter().map(|item| change(path, None, Some(describe(item)))));
        return;
    }
    for index in 0..old.len().max(new.len()) {
        let path = format!("{path}[{index}]");
        match (old.get(index), new.get(index)) {
            (Some(before), Some(after)) => compare(before, after, &path, changes),
            (before, after) => changes.push(change(&path, before.map(describe), after.map(describe))),
        }
    }
}

/// Returns the items with their names, if each has a name of its own. A gate has that of its upstream.
fn named(items: &[Node]) -> Option<Vec<(String, Node)>> {
    let name = |item: &Node| get_text(item, &["name"]).or(get_text(item, &["upstream"])).map(str::to_owned);
    let names: Vec<String> = items.iter().map(name).collect::<Option<_>>()?;
    let is_repeated = |(index, name): (usize, &String)| names.iter().take(index).any(|other| other == name);
    if names.iter().enumerate().any(is_repeated) {
        return None;
    }
    Some(names.into_iter().map(|name| format!("[{name}]")).zip(items.iter().cloned()).collect())
}

fn is_same(old: &Node, new: &Node) -> bool {
    match (old, new) {
        (Node::Integer(whole), Node::Number(number)) | (Node::Number(number), Node::Integer(whole)) => {
            *whole as f64 == *number
        }
        _ => old == new,
    }
}

fn change(path: &str, before: Option<String>, after: Option<String>) -> SettingChange {
    SettingChange { path: path.to_owned(), before, after }
}

/// Writes a value in one line.
fn describe(node: &Node) -> String {
    match node {
        Node::Text(text) => text.clone(),
        node => node.to_json(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(old: &str, new: &str) -> Vec<String> {
        let [old, new] = [old, new].map(|text| serde_json::from_str::<Node>(text).unwrap());
        of(&old, &new).iter().map(SettingChange::describe).collect()
    }

    #[test]
    fn settings_are_compared_by_names_and_not_by_places() {
        let old = r#"{"name": "a", "releases": [{"name": "r", "versions": [{"name": "v1", "weight": 9}, {"name": "v2", "weight": 1}]}]}"#;
        let new = r#"{"name": "a", "mode": "off", "releases": [{"name": "q"}, {"versions": [{"weight": 5, "name": "v2"}, {"name": "v1", "weight": 9}], "name": "r"}]}"#;
        assert_eq!(
            changes(old, new),
            [
                "releases[r].versions[v2].weight: 1 -> 5",
                "the order of releases[r].versions: v1, v2 -> v2, v1",
                r#"releases[q]: new, {"name":"q"}"#,
                "mode: new, off",
            ]
        );
    }

    #[test]
    fn words_are_compared_as_a_set_and_other_items_by_place() {
        let old = r#"{"allow": ["a", "b"], "gates": [{"upstream": "u"}, {"upstream": "u", "x": 1}], "order": ["a", "b"]}"#;
        let new = r#"{"allow": ["c", "b"], "gates": [{"upstream": "u"}], "order": ["b", "a"]}"#;
        assert_eq!(
            changes(old, new),
            [
                "allow: removed, was a",
                "allow: new, c",
                r#"gates[1]: removed, was {"upstream":"u","x":1}"#,
                "the order of order: a, b -> b, a",
            ]
        );
    }

    #[test]
    fn what_the_filter_ignores_is_no_change() {
        assert_eq!(changes(r#"{"x-a": 1, "b": null, "c": 1}"#, r#"{"x-a": 2, "c": 1.0}"#), [""; 0]);
    }
}
