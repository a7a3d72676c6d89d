//! The schema of one object, key or value of the table of keys.

use graygate::policy::document::Node;
use graygate::policy::keys::NOT_NULL;
use graygate::policy::keys::spec::{Format, KeyRule, KeySpec, ObjectSpec, PROXY_HEADERS, Presence, Shape};

use super::parts::{Definitions, default_value, definition_name, described, non_empty, or_absent, strings};
use crate::pattern;
use crate::tree::{list, number, object, text};

/// The pattern of a label.
const LABEL: &str = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";
/// The pattern of an HTTP token (RFC 9110, section 5.6.2).
const TOKEN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";
/// A token, or a name of Envoy for a part of the request line.
const KEY_HEADER: &str = "^(:path|:authority|[A-Za-z0-9!#$%&'*+.^_`|~-]+)$";
/// Without control characters. The patterns are those that JavaScript, Go, Python and Rust read alike.
const NO_CONTROLS: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";
const NO_CONTROLS_NOT_EMPTY: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";
/// A time in UTC.
const DATE: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$";
/// The longest regular expression.
const MAX_EXPRESSION: u32 = 1_024;

/// Writes schemas, and collects the definitions that they refer to.
pub struct Writer {
    /// Whether objects stand in their places, and not in definitions.
    inline: bool,
    definitions: Definitions,
    /// The objects around the one that is written.
    around: Vec<&'static ObjectSpec>,
}

impl Writer {
    /// Returns a writer of schemas with definitions, or with each object in its place.
    pub fn new(inline: bool) -> Self {
        Writer { inline, definitions: Definitions::new(), around: Vec::new() }
    }

    /// Returns what the schemas refer to.
    pub fn definitions(self) -> Definitions {
        self.definitions
    }

    /// Returns the schema of an object, or a reference to it.
    pub fn reference(&mut self, spec: &'static ObjectSpec) -> Node {
        if self.inline {
            // A source of keys that holds others holds no third level.
            if self.around.iter().any(|other| core::ptr::eq(*other, spec)) {
                return object([("type", text("object"))]);
            }
            return self.object(spec);
        }
        let mut name = definition_name(spec);
        // Two objects have the name "a condition".
        if spec.name == "a condition" && matches!(spec.rule, KeyRule::AtMostOne(_)) {
            name += "OrAny";
        }
        if !self.definitions.contains_key(&name) {
            self.definitions.insert(name.clone(), Node::Null);
            let schema = self.object(spec);
            self.definitions.insert(name.clone(), schema);
        }
        object([("$ref", text(format!("#/$defs/{name}")))])
    }

    fn object(&mut self, spec: &'static ObjectSpec) -> Node {
        self.around.push(spec);
        let properties: Vec<_> =
            spec.keys.iter().map(|key| (key.name.to_owned(), self.property(spec, key))).collect();
        self.around.pop();
        let required = spec.keys.iter().filter(|key| key.is_required()).map(|key| key.name).collect();
        let mut rules = rules(spec);
        rules.extend(spec.needs.iter().map(|need| {
            let others = need.any_of.iter().map(|key| present(spec, key));
            object([("if", present(spec, need.key)), ("then", object([("anyOf", list(others))]))])
        }));
        let extensions = object([("^x-", object([("description", text("Ignored. For anchors of YAML."))]))]);
        object([
            ("type", text("object")),
            ("required", non_empty(required)),
            ("properties", Node::Object(properties)),
            ("patternProperties", if spec.has_extensions { extensions } else { Node::Null }),
            ("additionalProperties", Node::Bool(false)),
            ("allOf", if rules.is_empty() { Node::Null } else { Node::List(rules) }),
        ])
    }

    fn property(&mut self, spec: &ObjectSpec, key: &KeySpec) -> Node {
        if let Shape::Refused(reason) = key.shape {
            // Null counts as absent.
            let nothing =
                if spec.keeps_nulls { ("not", Node::Object(Vec::new())) } else { ("type", text("null")) };
            return object([("description", text(reason)), nothing]);
        }
        let mut value = self.value(&key.shape);
        let (least, most) = key.entries;
        let is_map = matches!(key.shape, Shape::Map(_));
        let [at_least, at_most] =
            if is_map { ["minProperties", "maxProperties"] } else { ["minItems", "maxItems"] };
        if let Node::Object(fields) = &mut value {
            if least > 0 {
                fields.push((at_least.to_owned(), number(least)));
            }
            if most < u16::MAX {
                fields.push((at_most.to_owned(), number(most)));
            }
        }
        let may_be_null = !key.is_required() && !spec.keeps_nulls && !NOT_NULL.contains(&key.name);
        let mut schema = described(or_absent(value, may_be_null), &describe(key));
        if let (Presence::Default(default), Node::Object(fields)) = (key.presence, &mut schema) {
            fields.extend(default_value(default, &key.shape).map(|value| ("default".to_owned(), value)));
        }
        schema
    }

    fn value(&mut self, shape: &Shape) -> Node {
        let range = |[low, high]: &[u64; 2]| {
            [("minimum", low), ("maximum", high)].map(|(key, millis)| (key, seconds(*millis)))
        };
        match shape {
            Shape::Object(spec) => self.reference(spec),
            Shape::Map(inner) => {
                object([("type", text("object")), ("additionalProperties", self.value(inner))])
            }
            Shape::List(inner) => object([("type", text("array")), ("items", self.value(inner))]),
            Shape::Either(shapes) => object([("anyOf", list(shapes.iter().map(|shape| self.value(shape))))]),
            Shape::Text(format) => string(*format),
            Shape::Boolean => object([("type", text("boolean"))]),
            Shape::True => object([("enum", list([Node::Bool(true)]))]),
            Shape::Whole(low, high) => {
                object([("type", text("integer")), ("minimum", number(*low)), ("maximum", number(*high))])
            }
            Shape::Seconds(span) => {
                let [low, high] = range(span);
                object([("type", text("number")), low, high])
            }
            Shape::Duration(_) => object([("type", text("string")), ("pattern", text(pattern::DURATION))]),
            Shape::Choice(words) => object([("enum", strings(words.iter().copied()))]),
            Shape::Upstream => object([("type", text("string")), ("minLength", number(1))]),
            Shape::Null => object([("type", text("null"))]),
            Shape::Refused(_) => object([("not", Node::Object(Vec::new()))]),
        }
    }
}

/// Returns what the key does, with its unit, its range and its default in words.
fn describe(key: &KeySpec) -> String {
    let allowed = match key.shape {
        Shape::Duration(_) | Shape::Seconds(_) | Shape::Text(_) => format!(" Allowed: {}.", key.shape),
        _ => String::new(),
    };
    let default = match key.default_in_words {
        "" => String::new(),
        words => format!(" Default: {words}."),
    };
    format!("{}{allowed}{default}", key.about)
}

fn seconds(millis: u64) -> Node {
    match millis % 1_000 {
        0 => number(i128::from(millis / 1_000)),
        _ => Node::Number(millis as f64 / 1_000.0),
    }
}

/// Returns the schema of an object that has this key. A key with the value null counts as absent, unless the table says
/// otherwise.
fn present(spec: &ObjectSpec, key: &str) -> Node {
    let not_null = object([("not", object([("type", text("null"))]))]);
    let properties = Node::Object(vec![(key.to_owned(), not_null)]);
    let counts = spec.keeps_nulls || NOT_NULL.contains(&key);
    object([("required", strings([key])), ("properties", if counts { Node::Null } else { properties })])
}

/// Returns the schemas for the object's rule.
fn rules(spec: &ObjectSpec) -> Vec<Node> {
    let any = |keys: &[&str]| object([("anyOf", list(keys.iter().map(|key| present(spec, key))))]);
    let no_two = |keys: &[&str]| {
        let pairs = keys
            .iter()
            .enumerate()
            .flat_map(|(index, one)| keys.iter().skip(index + 1).map(move |other| [one, other]));
        list(pairs.map(|pair| object([("allOf", list(pair.map(|key| present(spec, key))))])))
    };
    // Only of an object: null has none of the keys, but a schema's `required` and `properties` let it pass.
    let not_two =
        |keys: &[&str]| object([("not", object([("type", text("object")), ("anyOf", no_two(keys))]))]);
    match spec.rule {
        KeyRule::Free => Vec::new(),
        KeyRule::AtMostOne(keys) => vec![not_two(keys)],
        KeyRule::ExactlyOne(keys) => vec![any(keys), not_two(keys)],
        KeyRule::AtLeastOne(keys) => vec![any(keys)],
        KeyRule::AtLeastOneUnlessFalse(keys, switch) => {
            let is_false = object([("const", Node::Bool(false))]);
            let is_off = object([
                ("required", strings([switch])),
                ("properties", Node::Object(vec![(switch.to_owned(), is_false)])),
            ]);
            let given = keys.iter().map(|key| present(spec, key));
            vec![object([("anyOf", list(given.chain([is_off])))])]
        }
    }
}

fn string(format: Format) -> Node {
    let with = |pattern: &str| object([("type", text("string")), ("pattern", text(pattern))]);
    let without = |names: &[&str]| {
        object([
            ("type", text("string")),
            ("pattern", text(TOKEN)),
            ("not", object([("enum", strings(names.iter().copied()))])),
        ])
    };
    match format {
        Format::Any => object([("type", text("string"))]),
        Format::KeyHeader => with(KEY_HEADER),
        Format::NotEmpty | Format::HostPattern | Format::Network => {
            object([("type", text("string")), ("minLength", number(1))])
        }
        Format::DnsLabel => with(pattern::DNS_LABEL),
        Format::Label => with(LABEL),
        Format::Cluster => with(NO_CONTROLS_NOT_EMPTY),
        Format::HeaderValue => with(NO_CONTROLS),
        Format::HeaderName | Format::CookieName | Format::MemberKey => with(TOKEN),
        Format::WrittenHeader => without(&PROXY_HEADERS),
        Format::CheckHeader => {
            let denied: Vec<&str> = PROXY_HEADERS.into_iter().filter(|name| *name != "host").collect();
            without(&denied)
        }
        Format::Path => with("^/[!\"$->@-~]*$"),
        Format::ProbePath => with("^[!-~]*$"),
        Format::Host => with("^[!\"$-.0->A-~]+$"),
        Format::Domain => with("^[A-Za-z0-9-]+([.][A-Za-z0-9-]+)*$"),
        Format::Regex => object([
            ("type", text("string")),
            ("minLength", number(1)),
            ("maxLength", number(MAX_EXPRESSION)),
        ]),
        Format::Date => with(DATE),
        Format::ErrorStatus => with(pattern::ERROR_STATUS),
    }
}
