//! The page of the policy: every key, from the table of keys.

use graygate::policy::document::Node;
use graygate::policy::keys;
use graygate::policy::keys::spec::{KeyRule, KeySpec, ObjectSpec, Presence, Shape};

use super::markdown::{code, head, table};
use crate::tree;

const INTRO: &str = "\
Each key of a policy, with its type, its default and its range. The filter reads JSON; `graygate render` makes it from YAML.
[policy.schema.json](policy.schema.json) is the same as a JSON Schema, for editors. `graygate schema` prints it.

- An unknown key is refused, with the nearest known one. Keys that begin with `x-` are ignored at the top of a document and of
  a policy, for anchors of YAML.
- A value that does not fit is refused. The message names the path, the value and what is allowed. The filter refuses the whole
  document, unless [`onWrongPolicy`](#policy-1) says otherwise.
- A key with the value null counts as absent. In a `match` it is refused, as the match would hold for more requests.
- Seconds may be fractions. Durations are strings such as `300ms`, `1.5s` or `1h30m`. Both are rounded to the millisecond.
- Dates are RFC 3339 in UTC, such as `2026-12-01T10:00:00Z`.

[Limits](../evaluate/limits.md) has how much a document may hold.
";

/// Returns the page.
pub fn page() -> String {
    let mut objects: Vec<ObjectSection> = Vec::new();
    walk(&keys::POLICY, "", &mut objects);
    walk(&keys::DOCUMENT, "", &mut objects);
    let mut page = head("Policy", INTRO);
    for place in &objects {
        page += &format!("\n## {}\n\n", title(place.spec));
        if !place.paths.iter().all(String::is_empty) {
            page += &format!("At {}.\n\n", places(&place.paths));
        }
        let rows = place.spec.keys.iter().map(row);
        page += &table(["key", "type and range", "default", "what it does", "since"], rows);
        page += &rules(place.spec);
    }
    page += "\n## An example with most keys\n\n";
    page += &format!("```yaml\n{}```\n", example());
    page
}

/// Returns a policy that has most keys, as YAML.
fn example() -> String {
    let json = include_str!("../../../../tests/data/full-policy.json");
    let mut document = serde_json::from_str::<Node>(json).map_err(|error| error.to_string());
    if let Ok(document) = &mut document {
        // Probes of a kubelet reach only a policy without hosts.
        tree::remove(document, "hosts");
    }
    let yaml = document.and_then(|document| tree::write(&document).map_err(|_| "no YAML".to_owned()));
    yaml.unwrap_or_else(|error| format!("# {error}\n"))
}

/// An object, with the paths to it.
struct ObjectSection {
    spec: &'static ObjectSpec,
    paths: Vec<String>,
}

/// Adds an object and those below it, each once, in the order of the table.
fn walk(spec: &'static ObjectSpec, path: &str, found: &mut Vec<ObjectSection>) {
    match found.iter_mut().find(|place| core::ptr::eq(place.spec, spec)) {
        Some(place) => {
            place.paths.push(path.to_owned());
            return;
        }
        None => found.push(ObjectSection { spec, paths: vec![path.to_owned()] }),
    }
    for key in spec.keys {
        let dot = if path.is_empty() { "" } else { "." };
        if let Some((inner, steps)) = inner(&key.shape) {
            walk(inner, &format!("{path}{dot}{}{steps}", key.name), found);
        }
    }
}

/// Returns the object that a value holds at any depth of lists and maps, with the steps to it.
fn inner(shape: &Shape) -> Option<(&'static ObjectSpec, String)> {
    match shape {
        Shape::Object(spec) => Some((spec, String::new())),
        Shape::List(of) => inner(of).map(|(spec, steps)| (spec, format!("[]{steps}"))),
        Shape::Map(of) => inner(of).map(|(spec, steps)| (spec, format!(".NAME{steps}"))),
        Shape::Either(shapes) => shapes.iter().find_map(inner),
        _ => None,
    }
}

fn title(spec: &ObjectSpec) -> String {
    let name = match spec.name {
        "a condition" if matches!(spec.rule, KeyRule::AtMostOne(_)) => {
            "a condition on a value that may be absent"
        }
        name => name,
    };
    let plain = name.strip_prefix("a ").or_else(|| name.strip_prefix("an "));
    // The others have the name of their key.
    let Some(plain) = plain else {
        return name.to_owned();
    };
    let mut letters = plain.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Lists paths. Many of them are told by the last key alone.
fn places(paths: &[String]) -> String {
    const MOST: usize = 4;
    let named = |path: &String| match path.as_str() {
        "" => "the top of the document".to_owned(),
        path => code(path),
    };
    let mut listed: Vec<String> = paths.iter().map(named).collect();
    if listed.len() > MOST {
        let mut keys: Vec<&str> = paths.iter().filter_map(|path| path.rsplit('.').next()).collect();
        keys.sort_unstable();
        keys.dedup();
        listed = keys.into_iter().map(|key| code(&format!("….{key}"))).collect();
    }
    match listed.pop() {
        Some(last) if listed.is_empty() => last,
        Some(last) => format!("{} and {last}", listed.join(", ")),
        None => String::new(),
    }
}

fn row(key: &KeySpec) -> [String; 5] {
    let default = match key.presence {
        Presence::Required => "required".to_owned(),
        Presence::Default(value) => code(value),
        Presence::Optional if key.default_in_words.is_empty() => "none".to_owned(),
        Presence::Optional => key.default_in_words.to_owned(),
    };
    let (kind, default) = match key.shape {
        Shape::Refused(_) => ("refused".to_owned(), String::new()),
        shape => (describe(&shape, key), default),
    };
    [code(key.name), kind, default, key.about.to_owned(), key.since.to_owned()]
}

/// Returns the type and the range of a value. Objects link to their section.
fn describe(shape: &Shape, key: &KeySpec) -> String {
    let link = |spec: &ObjectSpec| {
        let title = title(spec);
        format!("[{title}](#{})", title.to_lowercase().replace(' ', "-"))
    };
    let bounds = match key.entries {
        (0, u16::MAX) => String::new(),
        (least, u16::MAX) => format!(", at least {least}"),
        (0, most) => format!(", at most {most}"),
        (least, most) => format!(", {least} to {most}"),
    };
    match shape {
        Shape::Object(spec) => link(spec),
        Shape::Map(Shape::Object(spec)) => format!("map from names to objects: {}{bounds}", link(spec)),
        Shape::Map(Shape::Either([Shape::Null, Shape::Object(spec)])) => {
            format!("map from names to objects: {}{bounds}", link(spec))
        }
        Shape::Map(inner) => format!("map from names to {inner}{bounds}"),
        Shape::List(Shape::Object(spec)) => format!("list of objects: {}{bounds}", link(spec)),
        Shape::List(inner @ Shape::Either(_)) => {
            format!("list of {}{bounds}", describe(inner, key_of_item()))
        }
        Shape::List(inner) => format!("list of: {inner}{bounds}"),
        Shape::Either(shapes) => {
            let kinds = shapes.iter().map(|shape| describe(shape, key_of_item()));
            kinds.collect::<Vec<_>>().join("; or ")
        }
        Shape::Choice(words) => words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", "),
        Shape::Boolean => "`true` or `false`".to_owned(),
        Shape::True => "`true`".to_owned(),
        shape => shape.to_string(),
    }
}

/// The key of an item of a list, which has no bounds of its own.
fn key_of_item() -> &'static KeySpec {
    static ITEM: KeySpec = KeySpec::optional("", Shape::Null);
    &ITEM
}

fn rules(spec: &ObjectSpec) -> String {
    let names = |keys: &[&str]| keys.iter().map(|key| code(key)).collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    match spec.rule {
        KeyRule::Free => {}
        KeyRule::AtMostOne(keys) => lines.push(format!("At most one of {}.", names(keys))),
        KeyRule::ExactlyOne(keys) => lines.push(format!("Exactly one of {}.", names(keys))),
        KeyRule::AtLeastOne(keys) => lines.push(format!("At least one of {}.", names(keys))),
        KeyRule::AtLeastOneUnlessFalse(keys, switch) => {
            let off = code(&format!("{switch}: false"));
            lines.push(format!("At least one of {}, or {off}.", names(keys)));
        }
    }
    for need in spec.needs {
        let any = need.any_of.iter().map(|key| code(key)).collect::<Vec<_>>().join(" or ");
        lines.push(format!("{} only together with {any}.", code(need.key)));
    }
    if spec.keeps_nulls {
        lines.push("A key with the value null is refused.".to_owned());
    }
    if lines.is_empty() { String::new() } else { format!("\n{}\n", lines.join("\n")) }
}
