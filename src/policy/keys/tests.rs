//! Walks the whole table, and proves for each key that the reader agrees with it.
#![cfg(feature = "tool")]

use super::spec::{Format, KeyRule, KeySpec, ObjectSpec, Shape};
use super::*;
use crate::policy::Policy;
use crate::policy::document::Node;

/// A name that every example uses for what the user may name: the upstream, the version, a header.
const NAME: &str = "v1";

/// A step from a value to one below it.
#[derive(Clone, Copy)]
enum Step {
    Key(&'static KeySpec),
    /// The one entry of a map.
    Entry,
    /// The one item of a list.
    Item,
}

/// One place of the document that holds an object of the table.
struct Place {
    steps: Vec<Step>,
    spec: &'static ObjectSpec,
}

impl Place {
    /// Returns the path as problems write it.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Item => path += "[0]",
                Step::Key(KeySpec { name, .. }) if path.is_empty() => path += name,
                Step::Key(KeySpec { name, .. }) => path += &format!(".{name}"),
                Step::Entry => path += &format!(".{NAME}"),
            }
        }
        path
    }

    fn path_of(&self, key: &str) -> String {
        let path = self.path();
        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
    }

    /// Returns a document with this object in it, and what leads there.
    fn document(&self, object: Node) -> Node {
        fn put(spec: &'static ObjectSpec, steps: &[Step], object: Node) -> Node {
            let Some((Step::Key(key), rest)) = steps.split_first() else {
                return object;
            };
            let lists = rest.iter().take_while(|step| !matches!(step, Step::Key(_))).count();
            let (wrappers, rest) = rest.split_at(lists);
            let inner = put(object_in(&key.shape).unwrap(), rest, object);
            let value = wrappers.iter().rev().fold(inner, |inner, step| match step {
                Step::Item => Node::List(vec![inner]),
                _ => Node::Object(vec![(NAME.to_owned(), inner)]),
            });
            example(spec, Some((key.name, value)))
        }
        put(&POLICY, &self.steps, object)
    }

    /// Returns the problems of a document with this object.
    fn problems(&self, object: Node) -> Vec<(String, String)> {
        match Policy::from_document(&self.document(object)) {
            Ok(_) => Vec::new(),
            Err(problems) => {
                problems.iter().map(|problem| (problem.path.clone(), problem.message.clone())).collect()
            }
        }
    }

    /// Returns the problems at this path for a document with this object.
    fn problems_at(&self, path: &str, object: Node) -> Vec<String> {
        let all = self.problems(object).into_iter();
        all.filter(|(at, _)| at == path).map(|(_, message)| message).collect()
    }
}

/// Returns the object that a value of this shape holds, at any depth of lists and maps.
fn object_in(shape: &Shape) -> Option<&'static ObjectSpec> {
    shape.object().or_else(|| object_in(shape.inner()?))
}

/// Returns every place of the document. An object that holds itself is followed once.
fn places() -> Vec<Place> {
    fn walk(spec: &'static ObjectSpec, steps: &[Step], places: &mut Vec<Place>) {
        places.push(Place { steps: steps.to_vec(), spec });
        for key in spec.keys {
            let Some(inner) = object_in(&key.shape).filter(|inner| !std::ptr::eq(*inner, spec)) else {
                continue;
            };
            let mut steps = steps.to_vec();
            steps.push(Step::Key(key));
            let mut shape = &key.shape;
            loop {
                match shape {
                    Shape::Map(inner) => {
                        steps.push(Step::Entry);
                        shape = inner;
                    }
                    Shape::List(inner) => {
                        steps.push(Step::Item);
                        shape = inner;
                    }
                    _ => break,
                }
            }
            walk(inner, &steps, places);
        }
    }
    let mut places = Vec::new();
    walk(&POLICY, &[], &mut places);
    places
}

fn text(value: &str) -> Node {
    Node::Text(value.to_owned())
}

/// Returns the smallest object that the table allows, with this key in it as well.
fn example(spec: &'static ObjectSpec, with: Option<(&str, Node)>) -> Node {
    let given = |name: &str| with.as_ref().is_some_and(|(key, _)| *key == name);
    let alternatives: &[&str] = match spec.rule {
        KeyRule::ExactlyOne(keys) | KeyRule::AtLeastOne(keys) | KeyRule::AtLeastOneUnlessFalse(keys, _) => {
            keys
        }
        KeyRule::AtMostOne(_) | KeyRule::Free => &[],
    };
    let alternative = alternatives.first().filter(|_| !alternatives.iter().any(|key| given(key)));
    // What else the reader wants before it reads all other keys of the object.
    let more: &[&str] = match spec.name {
        "a policy" => &["upstreams"],
        "a release" => &["versions"],
        "a version" => &["default"],
        "httpCookie" => &["ttl"],
        "readiness" | "a probe" if !given("passThrough") => &["checks", "minimumScore"],
        "a check of a probe" => &["weight"],
        "fallback" if given("clusterHeader") => &["upstream"],
        _ => &[],
    };
    let needed = |key: &&KeySpec| {
        key.is_required() || alternative.is_some_and(|name| *name == key.name) || more.contains(&key.name)
    };
    let needed = spec.keys.iter().filter(needed).filter(|key| !given(key.name));
    let mut fields: Vec<_> = needed.map(|key| (key.name.to_owned(), value(&key.shape))).collect();
    fields.extend(with.map(|(key, value)| (key.to_owned(), value)));
    Node::Object(fields)
}

/// Returns a value of this shape.
fn value(shape: &Shape) -> Node {
    match shape {
        Shape::Object(spec) => example(spec, None),
        Shape::Map(inner) => Node::Object(vec![(NAME.to_owned(), value(inner))]),
        Shape::List(inner) => Node::List(vec![value(inner)]),
        Shape::Either(shapes) => value(&shapes[0]),
        Shape::Text(format) => text(match format {
            Format::Path | Format::ProbePath => "/v1",
            Format::Network => "10.0.0.0/8",
            Format::Date => "2026-12-01T10:00:00Z",
            Format::ErrorStatus => "429",
            _ => NAME,
        }),
        Shape::Boolean | Shape::True => Node::Bool(true),
        Shape::Whole(low, _) => Node::Integer((*low).max(1).into()),
        Shape::Seconds([_, high]) => Node::Integer((*high / 1_000).into()),
        Shape::Duration([_, high]) => text(&format!("{high}ms")),
        Shape::Choice(words) => text(words[0]),
        Shape::Upstream => text(NAME),
        Shape::Null => Node::Null,
        Shape::Refused(_) => Node::Integer(1),
    }
}

/// Returns a value that no key takes, unless it wants a list.
fn wrong(shape: &Shape) -> Node {
    if matches!(shape, Shape::List(_)) { Node::Bool(true) } else { Node::List(Vec::new()) }
}

/// Returns strings of the right type that this format does not allow.
fn badly_formatted(format: Format) -> &'static [&'static str] {
    match format {
        Format::Any => &[],
        Format::NotEmpty => &[""],
        Format::DnsLabel => &["", "V1", "v1.", "-v1"],
        Format::Label => &["", "-v1", "v 1"],
        Format::Cluster => &["", "a\nb"],
        Format::KeyHeader => &["", "a b"],
        Format::CheckHeader => &["", "a b", "content-length"],
        Format::Domain => &["", "a b", "a..b"],
        Format::HeaderName | Format::CookieName | Format::MemberKey => &["", "a b"],
        Format::WrittenHeader => &["", "a b", "content-length"],
        Format::HeaderValue => &["a\nb"],
        Format::Path => &["", "v1", "/v1?a", "/é"],
        Format::ProbePath => &["/é", "/a b"],
        Format::Host => &["", "v1/"],
        Format::HostPattern => &["", "a/", "a.*"],
        Format::Network => &["", "v1", "10.0.0.0/33"],
        Format::Regex => &["", "("],
        Format::Date => &["", "2026-12-01"],
        Format::ErrorStatus => &["", "399", "600"],
    }
}

/// Ranges that depend on the rest of the document. The table has the widest.
const DEPENDENT: [&str; 2] = ["minimumScore", "maxNotReadyFor"];

fn is_about_the_key(message: &str) -> bool {
    message.starts_with("unknown field") || message.starts_with("missing")
}

#[test]
fn the_reader_accepts_every_key_of_the_table_with_a_value_of_its_shape() {
    for place in places() {
        for key in place.spec.keys {
            let path = place.path_of(key.name);
            let found = place.problems_at(&path, example(place.spec, Some((key.name, value(&key.shape)))));
            if matches!(key.shape, Shape::Refused(_)) {
                let refused = found.iter().any(|message| !is_about_the_key(message));
                assert!(refused, "{path} is a key that is refused: {found:?}");
            } else {
                let refused = |message: &&String| {
                    is_about_the_key(message) || message.contains("is not allowed; allowed: ")
                };
                assert_eq!(found.iter().find(refused), None, "{path}");
            }
        }
    }
}

#[test]
fn the_reader_refuses_keys_that_the_table_does_not_have() {
    for place in places() {
        for key in place.spec.keys {
            let other = format!("{}{}", &key.name[..1], key.name);
            let path = place.path_of(&other);
            let found = place.problems_at(&path, example(place.spec, Some((&other, Node::Bool(true)))));
            assert!(found.iter().any(|message| message.starts_with("unknown field")), "{path}: {found:?}");
        }
    }
}

#[test]
fn the_reader_refuses_a_value_of_another_shape_and_names_the_one_in_the_table() {
    for place in places() {
        for key in place.spec.keys.iter().filter(|key| !matches!(key.shape, Shape::Refused(_))) {
            let path = place.path_of(key.name);
            // Each shape within a list or a map is tried as well, down to the next object.
            let mut tried = vec![(path, key.shape, vec![])];
            while let Some((path, shape, wrappers)) = tried.pop() {
                let (wrong, allowed) = (wrong(&shape), shape.to_string());
                let wrap = |node| {
                    wrappers.iter().rev().fold(node, |inner, is_list| match is_list {
                        true => Node::List(vec![inner]),
                        false => Node::Object(vec![(NAME.to_owned(), inner)]),
                    })
                };
                let found = place.problems_at(&path, example(place.spec, Some((key.name, wrap(wrong)))));
                let says = |message: &&String| match DEPENDENT.contains(&key.name) {
                    false => message.contains(&format!("allowed: {allowed}")),
                    true => message.contains(" is not allowed; allowed: "),
                };
                assert!(found.iter().any(|message| says(&message)), "{path}: {allowed:?} not in {found:?}");
                let inner = |step: &str, is_list, inner: &'static Shape| {
                    (format!("{path}{step}"), *inner, [&wrappers[..], &[is_list]].concat())
                };
                match shape {
                    Shape::List(item) => tried.push(inner("[0]", true, item)),
                    Shape::Map(entry) => tried.push(inner(&format!(".{NAME}"), false, entry)),
                    Shape::Text(format) => {
                        for bad in badly_formatted(format) {
                            let object = example(place.spec, Some((key.name, wrap(text(bad)))));
                            assert!(!place.problems_at(&path, object).is_empty(), "{path}: {bad:?}");
                        }
                    }
                    Shape::Upstream => {
                        let object = example(place.spec, Some((key.name, wrap(text("nobody")))));
                        let found = place.problems_at(&path, object);
                        let wanted = r#""nobody" is not an upstream; allowed: v1"#;
                        assert!(found.iter().any(|message| message == wanted), "{path}: {found:?}");
                    }
                    Shape::True => {
                        let object = example(place.spec, Some((key.name, wrap(Node::Bool(false)))));
                        assert!(!place.problems_at(&path, object).is_empty(), "{path}: false");
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn every_choice_of_the_table_is_the_readers() {
    let mut words_seen = 0;
    for place in places() {
        for key in place.spec.keys {
            let (words, is_list) = match key.shape {
                Shape::Choice(words) => (words, false),
                Shape::List(Shape::Either([Shape::Choice(words), ..])) => (*words, true),
                _ => continue,
            };
            let wrap = |word: &str| if is_list { Node::List(vec![text(word)]) } else { text(word) };
            let path = place.path_of(key.name) + if is_list { "[0]" } else { "" };
            for word in words {
                words_seen += 1;
                let found = place.problems_at(&path, example(place.spec, Some((key.name, wrap(word)))));
                let refused = |message: &&String| message.contains("is not allowed; allowed: ");
                assert_eq!(found.iter().find(refused), None, "{path}: {word}");
            }
            let found = place.problems_at(&path, example(place.spec, Some((key.name, wrap("no-such-word")))));
            let all = format!(r#""no-such-word" is not allowed; allowed: {}"#, words.join(", "));
            assert!(found.iter().any(|message| message.starts_with(&all)), "{path}: {all:?} in {found:?}");
        }
    }
    assert!(words_seen > 50, "{words_seen}");
}

#[test]
fn the_reader_misses_exactly_the_keys_that_the_table_requires() {
    for place in places() {
        let Node::Object(all) = example(place.spec, None) else { panic!("no object") };
        for key in place.spec.keys {
            let rest = all.iter().filter(|(name, _)| name != key.name).cloned().collect();
            let found = place.problems_at(&place.path_of(key.name), Node::Object(rest));
            let missed = found.iter().any(|message| message.starts_with("missing"));
            // Whether these are required depends on another key.
            let depends = matches!(
                (place.spec.name, key.name),
                ("a release", "versions")
                    | ("readiness" | "a probe", "minimumScore")
                    | ("readinessProbe", "httpGet")
                    | ("fallback", "clusterHeader")
            );
            assert!(missed == key.is_required() || depends, "{}: {found:?}", place.path_of(key.name));
        }
    }
}

#[test]
fn the_reader_has_the_rules_of_the_table_for_keys_that_exclude_each_other() {
    for place in places() {
        let Node::Object(all) = example(place.spec, None) else { panic!("no object") };
        let path = place.path();
        let below = |problems: Vec<(String, String)>| {
            problems.into_iter().any(|(at, _)| at == path || at.starts_with(&path))
        };
        let (keys, needs_one, allows_two) = match place.spec.rule {
            KeyRule::Free => continue,
            KeyRule::AtMostOne(keys) => (keys, false, false),
            KeyRule::ExactlyOne(keys) => (keys, true, false),
            KeyRule::AtLeastOne(keys) | KeyRule::AtLeastOneUnlessFalse(keys, _) => (keys, true, true),
        };
        let rest: Vec<_> = all.into_iter().filter(|(name, _)| !keys.contains(&name.as_str())).collect();
        let with = |chosen: &[&str]| {
            let chosen = place.spec.keys.iter().filter(|key| chosen.contains(&key.name));
            let chosen = chosen.map(|key| (key.name.to_owned(), value(&key.shape)));
            Node::Object(rest.iter().cloned().chain(chosen).collect())
        };
        assert_eq!(below(place.problems(with(&[]))), needs_one, "{path} with none of {keys:?}");
        if !allows_two {
            let two = below(place.problems(with(&keys[..2])));
            assert!(two, "{path} with two of {keys:?}");
        }
    }
}

#[test]
fn no_object_of_the_table_has_a_key_twice_or_a_rule_on_a_key_that_it_lacks() {
    for place in places() {
        let names: Vec<_> = place.spec.keys.iter().map(|key| key.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{}", place.path_of(name));
        }
        let keys = match place.spec.rule {
            KeyRule::Free => continue,
            KeyRule::AtMostOne(keys) | KeyRule::ExactlyOne(keys) | KeyRule::AtLeastOne(keys) => keys,
            KeyRule::AtLeastOneUnlessFalse(keys, switch) => {
                assert!(names.contains(&switch), "{}: {switch}", place.path());
                keys
            }
        };
        assert!(keys.iter().all(|key| names.contains(key)), "{}: {keys:?}", place.path());
    }
}

/// A document and what is expected of it: the path and the suggestion.
type Misspelling = (Node, String, String);

/// Returns the document with each key of the table misspelt in turn, and with each name of an upstream.
fn misspellings(document: &Node) -> Vec<Misspelling> {
    fn misspell(word: &str) -> String {
        let (start, end) = word.split_at(word.len() / 2);
        format!("{start}q{end}")
    }
    fn walk(
        node: &Node,
        shape: &Shape,
        path: &str,
        put: &dyn Fn(Node) -> Node,
        found: &mut Vec<Misspelling>,
    ) {
        match (node, shape) {
            (node, Shape::Either(shapes)) => {
                for shape in shapes.iter().filter(|shape| shape.object().is_some()) {
                    walk(node, shape, path, put, found);
                }
            }
            (Node::Text(name), Shape::Upstream) => {
                found.push((put(text(&misspell(name))), path.to_owned(), name.clone()));
            }
            (Node::List(items), Shape::List(inner)) => {
                for (index, item) in items.iter().enumerate() {
                    let put = |node| {
                        let mut items = items.clone();
                        items[index] = node;
                        put(Node::List(items))
                    };
                    walk(item, inner, &format!("{path}[{index}]"), &put, found);
                }
            }
            (Node::Object(fields), Shape::Object(_) | Shape::Map(_)) => {
                for (index, (key, value)) in fields.iter().enumerate() {
                    let replace = |key: String, value: Node| {
                        let mut fields = fields.clone();
                        fields[index] = (key, value);
                        put(Node::Object(fields))
                    };
                    let at =
                        |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    let inner = match shape {
                        Shape::Object(spec) => {
                            let other = misspell(key);
                            found.push((replace(other.clone(), value.clone()), at(&other), key.clone()));
                            &spec.key(key).unwrap().shape
                        }
                        Shape::Map(inner) => *inner,
                        _ => continue,
                    };
                    walk(value, inner, &at(key), &|value| replace(key.clone(), value), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, &Shape::Object(&POLICY), "", &|node| node, &mut found);
    found
}

#[test]
fn one_misspelt_key_or_name_is_one_problem_with_a_suggestion() {
    let full: Node = serde_json::from_str(include_str!("../../../tests/data/full-policy.json")).unwrap();
    let all = misspellings(&full);
    assert!(all.len() > 150, "{}", all.len());
    let mut wrong = Vec::new();
    for (document, path, suggestion) in all {
        let problems = Policy::from_document(&document).unwrap_err();
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let hint = format!("did you mean {suggestion:?}?");
        // Two letters are too few to tell which name is meant.
        let suggests =
            |problem: &str| problem.contains(&hint) || suggestion.len() < 3 && problem.contains("allowed");
        let is_right = matches!(found.as_slice(), [one] if one.starts_with(&path) && suggests(one));
        if !is_right {
            wrong.push((path, suggestion, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
