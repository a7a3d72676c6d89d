//! Expressions in CEL, the language of Kubernetes' own rules.
//!
//! They use what Kubernetes 1.30 has, the first release with this kind of rule, so neither two-variable comprehensions nor
//! `flatten`. Each part of the policy is one variable: a text with all that is wrong there, or an empty one. An API server
//! isolates the variables: one that fails leaves the others as they are.

use graygate::policy::keys;
use graygate::policy::keys::spec::{ObjectSpec, Shape};

use super::table::{Table, Variable, quote_list};

/// The way from an object to some of those in it, which all have the same keys.
#[derive(Clone)]
enum Level {
    /// Each item of the list under this key.
    Items(&'static str),
    /// Each value of the map under one of these keys.
    Entries(Vec<&'static str>),
    /// The object under one of these keys.
    One(Vec<&'static str>),
}

/// One place of the policy, or of an entry of a match, that has objects.
struct ObjectPlace {
    levels: Vec<Level>,
    spec: &'static ObjectSpec,
}

impl Level {
    fn keys(&self) -> Vec<&'static str> {
        match self {
            Level::Items(key) => vec![key],
            Level::Entries(keys) | Level::One(keys) => keys.clone(),
        }
    }

    /// Adds the keys of another way to the same kind of object. Returns whether it could.
    fn join(&mut self, other: &Level) -> bool {
        match (self, other) {
            (Level::Entries(keys), Level::Entries(more)) | (Level::One(keys), Level::One(more)) => {
                keys.extend(more);
                true
            }
            _ => false,
        }
    }
}

impl ObjectPlace {
    /// Returns the place as a word.
    fn name(&self, root: &str) -> String {
        let levels = self.levels.iter().map(|level| level.keys().join("_or_"));
        core::iter::once(root.to_owned())
            .chain(levels)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("_")
    }
}

/// Returns the ways from an object to those in it.
fn ways(spec: &'static ObjectSpec) -> Vec<(Level, &'static ObjectSpec)> {
    let mut ways: Vec<(Level, &'static ObjectSpec)> = Vec::new();
    for key in spec.keys {
        let (level, inner) = match &key.shape {
            Shape::Object(inner) => (Level::One(vec![key.name]), *inner),
            Shape::List(Shape::Object(inner)) => (Level::Items(key.name), *inner),
            Shape::Map(Shape::Object(inner) | Shape::Either([_, Shape::Object(inner)])) => {
                (Level::Entries(vec![key.name]), *inner)
            }
            Shape::List(Shape::Either(shapes)) => match shapes.last() {
                Some(Shape::Object(inner)) => (Level::Items(key.name), *inner),
                _ => continue,
            },
            _ => continue,
        };
        let mut same = ways.iter_mut().filter(|(_, other)| core::ptr::eq(*other, inner));
        if !same.any(|(other, _)| other.join(&level)) {
            ways.push((level, inner));
        }
    }
    ways
}

fn is_match(spec: &'static ObjectSpec) -> bool {
    core::ptr::eq(spec, &keys::MATCH)
}

/// Returns the places below an object, itself included. Leaves the entries of matches out, which are in many places. A
/// source of keys that holds others is followed once.
fn places(spec: &'static ObjectSpec) -> Vec<ObjectPlace> {
    fn walk(place: ObjectPlace, above: &[&'static ObjectSpec], places: &mut Vec<ObjectPlace>) {
        for (level, inner) in ways(place.spec) {
            let times = above.iter().filter(|other| core::ptr::eq(**other, inner)).count();
            if !is_match(inner) && times < 2 {
                let levels = place.levels.iter().cloned().chain([level]).collect();
                let above: Vec<_> = above.iter().copied().chain([inner]).collect();
                walk(ObjectPlace { levels, spec: inner }, &above, places);
            }
        }
        places.push(place);
    }
    let mut places = Vec::new();
    walk(ObjectPlace { levels: Vec::new(), spec }, &[], &mut places);
    places.reverse();
    places
}

/// The variables of the rendered rule.
pub struct Variables {
    /// The table of keys, and the entries of all matches.
    pub tables: Vec<Variable>,
    /// What is wrong at each place.
    pub problems: Vec<PlaceProblem>,
}

/// What may be wrong at one place.
///
/// The two parts are apart because of time. An API server takes the square of the length of a list for a loop that makes a
/// list or a text, so what is right is found out by loops that make none.
pub struct PlaceProblem {
    /// The place as a word.
    pub place: String,
    /// Whether anything is wrong there.
    pub is_wrong: String,
    /// What is wrong.
    pub tells: String,
}

/// Returns the variables of the rule. They use the variables `at`, the path to the document, `policies`, the policies in
/// it, and `types`.
pub fn variables() -> Variables {
    let of_policy = places(&keys::POLICY);
    let of_match = places(&keys::MATCH);
    let mut tables: Vec<Variable> = Vec::new();
    for place in of_policy.iter().chain(&of_match) {
        for table in Table::of(place.spec).variables() {
            if !tables.iter().any(|known| known.name == table.name) {
                tables.push(table);
            }
        }
    }
    tables.push(Variable { name: "matches".to_owned(), expression: matches(&of_policy) });
    let policies = of_policy.iter().map(|place| {
        let path = format!("variables.at + {}", policy_path("p"));
        let root = if place.levels.is_empty() { "policy" } else { "" };
        let tells = below(&place.levels, "p", &path, 0, place.spec);
        let is_wrong = any_below(&place.levels, "p", 0, place.spec);
        PlaceProblem {
            place: place.name(root),
            is_wrong: format!("variables.policies.exists(p, {is_wrong})"),
            tells: joined("variables.policies", "p", &tells),
        }
    });
    let matches = of_match.iter().map(|place| {
        let path = format!("variables.at + {} + {MATCH_PATH}", policy_path("e.policy"));
        let entry = below(&place.levels, "m", &path, 0, place.spec);
        let lists = [("e.is", "m"), ("b", "e"), ("a", "b"), ("variables.matches", "a")];
        let tells = lists.iter().fold(entry, |text, (all, item)| joined(all, item, &text));
        let is_wrong: Vec<String> = match_places(&of_policy)
            .map(|(levels, key)| {
                let levels: Vec<Level> = levels
                    .iter()
                    .cloned()
                    .chain([Level::Items(key)])
                    .chain(place.levels.iter().cloned())
                    .collect();
                any_below(&levels, "p", 0, place.spec)
            })
            .collect();
        PlaceProblem {
            place: place.name("match"),
            is_wrong: format!("variables.policies.exists(p,\n  {}\n)", is_wrong.join("\n  || ")),
            tells,
        }
    });
    let document = Table::of(&keys::DOCUMENT);
    tables.extend(document.variables());
    let document = PlaceProblem {
        place: "document".to_owned(),
        is_wrong: format!("variables.many && {}", document.is_wrong("variables.config")),
        tells: document.problems("variables.config", "variables.at"),
    };
    Variables { problems: core::iter::once(document).chain(policies).chain(matches).collect(), tables }
}

/// Returns each key of the policy that holds a match, with the way to its object.
fn match_places(places: &[ObjectPlace]) -> impl Iterator<Item = (&[Level], &'static str)> {
    places.iter().flat_map(|place| {
        let ways = ways(place.spec).into_iter().filter(|(_, inner)| is_match(inner));
        ways.flat_map(|(level, _)| level.keys()).map(|key| (place.levels.as_slice(), key))
    })
}

/// Returns the condition that anything is wrong below `object`.
fn any_below(levels: &[Level], object: &str, depth: usize, spec: &'static ObjectSpec) -> String {
    let Some((level, rest)) = levels.split_first() else {
        return Table::of(spec).is_wrong(object);
    };
    let item = format!("x{depth}");
    let inner = |object: &str| any_below(rest, object, depth + 1, spec);
    match level {
        Level::Items(key) => format!("{object}.?{key}.orValue([]).exists({item}, {})", inner(&item)),
        Level::Entries(keys) => match keys.as_slice() {
            [key] => {
                let map = format!("{object}.{key}");
                let entries = inner(&format!("{map}[{item}]"));
                format!("(has({map}) && {map} != null && {map}.exists({item}, {entries}))")
            }
            keys => {
                let name = format!("y{depth}");
                let entries = inner(&format!("{object}[{name}][{item}]"));
                let entries = format!("{object}[{name}].exists({item}, {entries})");
                format!("{object}.exists({name}, {} && {entries})", is_present(object, &name, keys))
            }
        },
        Level::One(keys) => match keys.as_slice() {
            [key] => {
                let one = format!("{object}.{key}");
                format!("(has({one}) && {one} != null && {})", inner(&one))
            }
            keys => {
                let one = inner(&format!("{object}[{item}]"));
                format!("{object}.exists({item}, {} && {one})", is_present(object, &item, keys))
            }
        },
    }
}

/// Returns the expression for the path from the document to a policy.
fn policy_path(policy: &str) -> String {
    format!("(variables.many ? '.policies[' + string(variables.policies.indexOf({policy})) + ']' : '')")
}

/// The path from a policy to an entry `m` of a match, which is an item `e` of `matches`. It is put together only for a
/// message, as finding a position in a list takes time.
const MATCH_PATH: &str = "e.names[0] + (e.lists.size() > 0 ? '[' + string(e.lists[0].indexOf(e.items[0])) + ']' : '') \
     + (e.lists.size() > 1 ? e.names[1] + '[' + string(e.lists[1].indexOf(e.items[1])) + ']' : '') \
     + e.key + '[' + string(e.is.indexOf(m)) + ']'";

/// Returns the texts that are not empty, one for each item of `all`, as one text.
fn joined(all: &str, item: &str, text: &str) -> String {
    format!("{all}.map({item},\n  {text}\n).filter(t, t != '').join('; ')")
}

/// Returns the expression for all lists that are a `match`: for each policy, the lists of one place.
fn matches(places: &[ObjectPlace]) -> String {
    let lists: Vec<String> = match_places(places).map(|(levels, key)| match_lists(levels, key)).collect();
    format!("variables.policies.map(p,\n  {}\n)", lists.join("\n  + "))
}

/// Returns the expression for the lists under `key` of all objects in a place of a policy, as a list of lists.
fn match_lists(levels: &[Level], key: &str) -> String {
    let item = |object: &str, names: &str, lists: &[String], items: &[&str]| {
        let list = |parts: &[String]| {
            let parts: Vec<String> = parts.iter().map(|part| format!("dyn({part})")).collect();
            format!("dyn([{}])", parts.join(", "))
        };
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        format!(
            "{{'policy': dyn(p), 'names': dyn({names}), 'lists': {}, 'items': {}, 'key': dyn('.{key}'), 'is': dyn({object}.{key})}}",
            list(lists),
            list(&items)
        )
    };
    let has = |object: &str| format!("has({object}.{key}) && {object}.{key} != null");
    match levels {
        [Level::One(keys)] => {
            let object = format!("p.{}", keys.join(""));
            let one = item(&object, &format!("['.{}']", keys.join("")), &[], &[]);
            format!("(has({object}) && {object} != null && {} ? [[{one}]] : [])", has(&object))
        }
        [Level::Items(all)] => {
            let one = item("x", &format!("['.{all}']"), &[format!("p.{all}")], &["x"]);
            format!("[p.?{all}.orValue([]).filter(x, {}).map(x, {one})]", has("x"))
        }
        [Level::Items(all), Level::Items(inner)] => {
            let lists = [format!("p.{all}"), format!("x.{inner}")];
            let one = item("y", &format!("['.{all}', '.{inner}']"), &lists, &["x", "y"]);
            format!(
                "p.?{all}.orValue([]).map(x, x.?{inner}.orValue([]).filter(y, {}).map(y, {one}))",
                has("y")
            )
        }
        [Level::Entries(all), Level::One(inner)] => {
            let (all, inner) = (all.join(""), inner.join(""));
            let object = format!("p.{all}[x].{inner}");
            let one = item(&object, &format!("['.{all}.' + x + '.{inner}']"), &[], &[]);
            format!(
                "[p.?{all}.orValue({{}}).filter(x, has({object}) && {object} != null && {}).map(x, {one})]",
                has(&object)
            )
        }
        // No other place has a match. The test of the rendering holds that.
        _ => "[]".to_owned(),
    }
}

/// Returns the expression for what is wrong below `object`, whose path is the expression `path`.
fn below(levels: &[Level], object: &str, path: &str, depth: usize, spec: &'static ObjectSpec) -> String {
    let Some((level, rest)) = levels.split_first() else {
        return Table::of(spec).problems(object, path);
    };
    let item = format!("x{depth}");
    let inner = |object: &str, path: &str| below(rest, object, path, depth + 1, spec);
    match level {
        Level::Items(key) => {
            let path = format!("{path} + '.{key}[' + string({object}.{key}.indexOf({item})) + ']'");
            joined(&format!("{object}.?{key}.orValue([])"), &item, &inner(&item, &path))
        }
        Level::Entries(keys) => match keys.as_slice() {
            [key] => {
                let object = format!("{object}.{key}");
                let path = format!("{path} + '.{key}.' + {item}");
                let all = format!("(has({object}) && {object} != null ? {object} : {{}})");
                joined(&all, &item, &inner(&format!("{object}[{item}]"), &path))
            }
            keys => {
                let name = format!("y{depth}");
                let entries = joined(
                    &format!("{object}[{name}]"),
                    &item,
                    &inner(
                        &format!("{object}[{name}][{item}]"),
                        &format!("{path} + '.' + {name} + '.' + {item}"),
                    ),
                );
                joined(&present(object, &name, keys), &name, &entries)
            }
        },
        Level::One(keys) => match keys.as_slice() {
            [key] => {
                let inner = inner(&format!("{object}.{key}"), &format!("{path} + '.{key}'"));
                format!("(!has({object}.{key}) || {object}.{key} == null ? '' :\n  {inner})")
            }
            keys => {
                let inner = inner(&format!("{object}[{item}]"), &format!("{path} + '.' + {item}"));
                joined(&present(object, &item, keys), &item, &inner)
            }
        },
    }
}

/// Returns the expression for those of `keys` that the object has.
fn present(object: &str, item: &str, keys: &[&str]) -> String {
    format!("{object}.filter({item}, {})", is_present(object, item, keys))
}

/// Returns the condition that `item` is one of `keys` that the object has.
fn is_present(object: &str, item: &str, keys: &[&str]) -> String {
    format!("{item} in {} && {object}[{item}] != null", quote_list(keys.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_match_of_the_policy_is_judged() {
        let matches = matches(&places(&keys::POLICY));
        for list in [
            "p.probes.match",
            "p.upstreams[x].circuitBreaker.record",
            "p.upstreams[x].circuitBreaker.ignore",
            "x.match",
            "x.skip",
            "y.match",
        ] {
            assert!(matches.contains(&format!("'is': dyn({list})")), "{list}");
        }
        assert_eq!(matches.matches("'is': ").count(), 7);
        assert_eq!(matches.matches("+ []").count(), 0);
    }

    #[test]
    fn every_object_of_the_table_is_judged_in_each_of_its_places() {
        let names: Vec<String> = variables().problems.into_iter().map(|problem| problem.place).collect();
        for name in [
            "policy",
            "gates_fallback_answer",
            "releases_versions_headers_request_or_response",
            "releases_hashOn_all_httpCookie",
            "upstreams_circuitBreaker_failOn",
            "upstreams_readinessProbe_expectedStatuses",
            "match",
            "match_headers_or_withoutHeaders_or_queryParams_or_cookies_or_baggage",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        for (index, name) in names.iter().enumerate() {
            assert!(!names.iter().skip(index + 1).any(|other| other == name), "{name} twice");
        }
    }
}
