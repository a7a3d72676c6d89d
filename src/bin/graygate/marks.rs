//! Where the values of a document stand in its text.
//!
//! [`Marks`] is a tree of the same form as that of [`Node`]. It is made only when a problem is to be placed, as most
//! documents have none.

use core::fmt;
use std::ops::Range;

use graygate::policy::document::Node;
use graygate::policy::problem::Position;
use graygate::policy::reader::segment;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::syntax;
use crate::tree::{fields, items};

/// The place of a value, of its key, and of the values in it.
#[derive(Debug, Default)]
pub struct Marks {
    /// The key. Empty if the value has none.
    pub key: Range<usize>,
    /// The value. A list or an object is marked where it begins.
    pub value: Range<usize>,
    /// The values in it, in document order.
    pub inner: Vec<Marks>,
}

impl Marks {
    /// Returns the marks of each document in a YAML or JSON text that was parsed before. Returns none if JSON has
    /// something that YAML does not allow.
    pub fn read(text: &str) -> Vec<Marks> {
        serde_saphyr::from_multiple_with_options(text, syntax::yaml_options()).unwrap_or_default()
    }

    /// Follows the steps as far as there are values.
    pub fn at(&self, steps: &[usize]) -> &Marks {
        match steps.split_first().and_then(|(step, rest)| Some((self.inner.get(*step)?, rest))) {
            Some((inner, rest)) => inner.at(rest),
            None => self,
        }
    }

    /// Returns the range of a problem.
    pub fn range(&self, position: &Position) -> Range<usize> {
        let found = self.at(&position.steps);
        if position.is_key && !found.key.is_empty() { found.key.clone() } else { found.value.clone() }
    }
}

/// Returns the steps to the value at a path, as messages write it. Follows it as far as there are values.
pub fn steps_of(node: &Node, path: &str) -> Vec<usize> {
    let mut steps = Vec::new();
    let mut at = (node, String::new());
    loop {
        let (node, known) = &at;
        let keyed =
            fields(node).iter().map(|(key, value)| (format!("{known}{}", segment(known, key)), value));
        let listed =
            items(Some(node)).iter().enumerate().map(|(index, value)| (format!("{known}[{index}]"), value));
        let mut children = keyed.chain(listed).enumerate();
        let is_on_path = |known: &str| {
            path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let Some((step, (known, value))) = children.find(|(_, (known, _))| is_on_path(known)) else {
            return steps;
        };
        drop(children);
        steps.push(step);
        at = (value, known);
    }
}

fn range_of(location: &Location) -> Range<usize> {
    let number =
        |number: Option<_>| number.and_then(|number| usize::try_from(number).ok()).unwrap_or_default();
    let start = number(location.span().byte_offset());
    start..start + number(location.span().byte_len())
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let inner = Spanned::<Inner>::deserialize(deserializer)?;
        // Of an alias or a merged key, the text to change is where the anchor is.
        Ok(Marks { key: 0..0, value: range_of(&inner.defined), inner: inner.value.0 })
    }
}

/// The values in a value.
struct Inner(Vec<Marks>);

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InnerVisitor)
    }
}

struct InnerVisitor;

impl<'de> Visitor<'de> for InnerVisitor {
    type Value = Inner;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_none<E>(self) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inner, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Inner, E> {
        Ok(Inner(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inner, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Inner(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Inner, A::Error> {
        let mut list = Vec::new();
        while let Some((key, marks)) = fields.next_entry::<Spanned<String>, Marks>()? {
            list.push(Marks { key: range_of(&key.defined), ..marks });
        }
        Ok(Inner(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_at<'t>(text: &'t str, steps: &[usize], is_key: bool) -> &'t str {
        let marks = Marks::read(text);
        let range = marks[0].range(&Position { steps: steps.to_vec(), is_key });
        let rest = &text[range.start..];
        if range.is_empty() { rest.split_whitespace().next().unwrap() } else { &text[range] }
    }

    #[test]
    fn values_and_keys_are_marked_in_yaml_and_json() {
        let yaml = "é: ü\nb:\n- x\n-  c: {'d': 1, d: \"2\"}\n";
        let json = "{\t\"é\": \"ü\",\n\t\"b\": [\"x\", {\"c\": {\"d\": 1, \"d\": \"2\"}}]}";
        for (steps, in_yaml, in_json) in [
            (&[0][..], ("é", "ü"), ("\"é\"", "\"ü\"")),
            (&[1, 0], ("x", "x"), ("\"x\"", "\"x\"")),
            (&[1, 1, 0], ("c", "{"), ("\"c\"", "{")),
            (&[1, 1, 0, 0], ("'d'", "1"), ("\"d\"", "1")),
            (&[1, 1, 0, 1], ("d", "\"2\""), ("\"d\"", "\"2\"")),
        ] {
            for (text, (key, value)) in [(yaml, in_yaml), (json, in_json)] {
                assert_eq!((text_at(text, steps, true), text_at(text, steps, false)), (key, value));
            }
        }
    }

    #[test]
    fn aliases_and_merged_keys_are_marked_where_the_anchor_is() {
        let text = "x-base: &base {p: 1}\nuse:\n  <<: *base\n  r: 3\nall: *base\n";
        assert_eq!(text_at(text, &[2, 0], false), "1");
        assert_eq!(text_at(text, &[1, 0], false), "3");
        assert_eq!(text_at(text, &[1, 1], false), "1");
    }

    #[test]
    fn a_path_leads_to_the_value_that_a_message_means() {
        let node: Node =
            serde_json::from_str(r#"{"a": [0, {"b c": {"d": 1}, "b": 2}], "ab": 3, "@t": 4}"#).unwrap();
        for (path, steps) in [
            ("a[1].b", &[0, 1, 1][..]),
            ("a[1][\"b c\"].d", &[0, 1, 0, 0]),
            ("a[1].missing", &[0, 1]),
            ("ab", &[1]),
            ("[\"@t\"]", &[2]),
            ("", &[]),
        ] {
            assert_eq!(steps_of(&node, path), steps, "{path}");
        }
    }
}
