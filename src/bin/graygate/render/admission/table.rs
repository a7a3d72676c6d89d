//! One object of the table of keys, in CEL.

use graygate::policy::keys::spec::{Format, KeyRule, KeySpec, ObjectSpec, Shape};

use super::words;
use crate::pattern;

/// A variable of the rendered rule.
pub struct Variable {
    /// The name.
    pub name: String,
    /// The expression.
    pub expression: String,
}

/// Returns a string literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Returns a list of string literals.
pub fn quote_list<'t>(words: impl IntoIterator<Item = &'t str>) -> String {
    let words: Vec<String> = words.into_iter().map(quote).collect();
    format!("[{}]", words.join(", "))
}

/// Returns a number with a fraction, as lists in CEL have items of one type.
fn double(number: f64) -> String {
    format!("{number:?}")
}

/// The keys of one object of the table, as variables.
pub struct Table {
    spec: &'static ObjectSpec,
    name: String,
}

impl Table {
    /// Returns the keys of this object.
    pub fn of(spec: &'static ObjectSpec) -> Self {
        let name = spec.name.trim_start_matches("a ").trim_start_matches("an ");
        Table { spec, name: name.replace(' ', "_") }
    }

    fn keys(&self, is_kind: fn(&Shape) -> bool) -> impl Iterator<Item = &'static KeySpec> {
        self.spec.keys.iter().filter(move |key| is_kind(&key.shape))
    }

    fn has(&self, is_kind: fn(&Shape) -> bool) -> bool {
        self.keys(is_kind).next().is_some()
    }

    /// Returns a variable that maps keys to what `value` returns for them.
    fn map(&self, name: &str, is_kind: fn(&Shape) -> bool, value: impl Fn(&KeySpec) -> String) -> Variable {
        let entries: Vec<_> =
            self.keys(is_kind).map(|key| format!("{}: {}", quote(key.name), value(key))).collect();
        let expression = format!("{{\n  {}\n}}", entries.join(",\n  "));
        Variable { name: format!("{name}_{}", self.name), expression }
    }

    /// Returns the variables with the types, ranges, words and allowed values of the keys.
    pub fn variables(&self) -> Vec<Variable> {
        let mut variables = vec![self.map("keys", |_| true, |key| quote(words::type_name(&key.shape)))];
        if self.has(is_ranged) {
            variables.push(self.map("ranges", is_ranged, |key| {
                let (low, high) = range(&key.shape);
                format!("[{}, {}]", double(low), double(high))
            }));
        }
        if self.has(is_choice) {
            variables.push(self.map("words", is_choice, |key| match key.shape {
                Shape::Choice(words) => quote_list(words.iter().copied()),
                _ => "[]".to_owned(),
            }));
        }
        variables.push(self.map("allowed", |_| true, |key| quote(&allowed(&key.shape))));
        variables
    }

    /// Returns the condition that `k` is a key of `object` that is wrong, or has a wrong value.
    fn bad_key(&self, object: &str) -> String {
        let (name, value) = (&self.name, format!("{object}[k]"));
        let known = format!("k in variables.keys_{name}");
        let mut conditions = vec![
            format!("!({known})"),
            format!("!(type({value}) in variables.types[variables.keys_{name}[k]])"),
        ];
        // The type is right from here on, or null, which counts as absent.
        let mut more = Vec::new();
        if self.has(is_ranged) {
            let range = format!("variables.ranges_{name}");
            more.push(format!("(k in {range} && ({value} < {range}[k][0] || {value} > {range}[k][1]))"));
        }
        if self.has(is_choice) {
            more.push(format!("(k in variables.words_{name} && !({value} in variables.words_{name}[k]))"));
        }
        let names = |is_kind| quote_list(self.keys(is_kind).map(|key| key.name));
        if self.has(is_duration) {
            let pattern = quote(pattern::DURATION);
            more.push(format!("(k in {} && !{value}.matches({pattern}))", names(is_duration)));
        }
        if self.has(is_dns_label) {
            let pattern = quote(pattern::DNS_LABEL);
            more.push(format!("(k in {} && !{value}.matches({pattern}))", names(is_dns_label)));
        }
        if self.has(is_upstream) {
            more.push(format!("(k == 'upstream' && !({value} in p.?upstreams.orValue({{}})))"));
        }
        for key in self.keys(is_failures) {
            let Shape::List(Shape::Either([Shape::Choice(choices), ..])) = key.shape else {
                continue;
            };
            let (choices, status) = (quote_list(choices.iter().copied()), quote(pattern::ERROR_STATUS));
            more.push(format!(
                "(k == '{}' && {value}.exists(f, type(f) != map && (type(f) != string || !(f in {choices}) && !f.matches({status}))))",
                key.name
            ));
        }
        if !more.is_empty() {
            conditions.push(format!("({value} != null && ({}))", more.join(" || ")));
        }
        let wrong = conditions.join(" || ");
        if self.spec.has_extensions {
            return format!("({known} || !k.startsWith('x-')) && ({wrong})");
        }
        wrong
    }

    fn required(&self) -> Vec<&'static str> {
        self.spec.keys.iter().filter(|key| key.is_required()).map(|key| key.name).collect()
    }

    /// Returns the conditions that the object breaks its rule, or has a key alone that needs another one. Each has what a
    /// message says.
    fn broken_rules(&self, object: &str) -> Vec<(String, String)> {
        let count = |keys: &[&str]| {
            let terms: Vec<_> = keys.iter().map(|key| format!("('{key}' in {object} ? 1 : 0)")).collect();
            terms.join(" + ")
        };
        let none = |keys: &[&str]| {
            let terms: Vec<_> = keys.iter().map(|key| format!("'{key}' in {object}")).collect();
            format!("!({})", terms.join(" || "))
        };
        let names = |keys: &[&str]| keys.join(", ");
        let rule = match self.spec.rule {
            KeyRule::Free => None,
            KeyRule::AtMostOne(keys) => Some((
                format!("{} > 1", count(keys)),
                format!("has more than one of {}; keep one of them", names(keys)),
            )),
            KeyRule::ExactlyOne(keys) => {
                Some((format!("{} != 1", count(keys)), format!("needs exactly one of {}", names(keys))))
            }
            KeyRule::AtLeastOne(keys) => {
                Some((none(keys), format!("incomplete; add one of {}", names(keys))))
            }
            KeyRule::AtLeastOneUnlessFalse(keys, switch) => Some((
                format!("{} && {object}.?{switch}.orValue(true) != false", none(keys)),
                format!("incomplete; add one of {}, or {switch}: false", names(keys)),
            )),
        };
        let needs = self.spec.needs.iter().map(|need| {
            let alone = format!("'{}' in {object} && {}", need.key, none(need.any_of));
            (alone, format!("{} has no effect alone; add {}", need.key, need.any_of.join(" or ")))
        });
        rule.into_iter().chain(needs).collect()
    }

    /// Returns the condition that anything is wrong with the object itself. A value that is no object is the business of
    /// the place above.
    pub fn is_wrong(&self, object: &str) -> String {
        let mut conditions = vec![format!("{object}.exists(k, {})", self.bad_key(object))];
        conditions.extend(self.required().iter().map(|key| format!("!('{key}' in {object})")));
        conditions.extend(self.broken_rules(object).into_iter().map(|(broken, _)| broken));
        format!("type({object}) == map && ({})", conditions.join(" || "))
    }

    /// Returns the expression for what is wrong with the object itself. A value that is no object is the business of the
    /// place above.
    pub fn problems(&self, object: &str, path: &str) -> String {
        let name = &self.name;
        let bad_key = self.bad_key(object);
        let names: Vec<_> = self.spec.keys.iter().map(|key| key.name).collect();
        let known = if self.has(is_upstream) {
            " + (k == 'upstream' && p.?upstreams.orValue({}).size() < 20 ? ': ' + p.?upstreams.orValue({}).map(u, u).join(', ') : '')"
        } else {
            ""
        };
        let refused = match self.has(is_refused) {
            true => format!("(variables.keys_{name}[k] == 'none' ? variables.allowed_{name}[k] : "),
            false => "(".to_owned(),
        };
        let mut tells = vec![format!(
            "{object}.filter(k, {bad_key}).map(k,\n    '.' + k + (k in variables.keys_{name} ? ': ' + {refused}(type({object}[k]) in variables.types['scalar'] ? string({object}[k]) : 'the value') + ' is not allowed; allowed: ' + variables.allowed_{name}[k]{known}) : {}))",
            quote(&format!(": unknown field; allowed: {}", names.join(", "))),
        )];
        for key in self.required() {
            let allowed = self.spec.keys.iter().find(|spec| spec.name == key);
            let allowed = allowed.map(|key| key.shape.to_string()).unwrap_or_default();
            tells.push(format!(
                "('{key}' in {object} ? [] : [{}])",
                quote(&format!(".{key}: missing; add {allowed}"))
            ));
        }
        for (broken, allowed) in self.broken_rules(object) {
            tells.push(format!("({broken} ? [{}] : [])", quote(&format!(": {allowed}"))));
        }
        // An item of a list of several kinds may be none.
        format!("type({object}) != map ? '' : (\n  {}\n).map(t, {path} + t).join('; ')", tells.join("\n  + "))
    }
}

/// Returns what a message says of a key: what is allowed, or why the key is refused.
fn allowed(shape: &Shape) -> String {
    match shape {
        // An expression does not tell which item is wrong.
        Shape::List(inner @ Shape::Either(_)) => format!("a list of {inner}"),
        shape => shape.to_string(),
    }
}

fn is_refused(shape: &Shape) -> bool {
    matches!(shape, Shape::Refused(_))
}

fn is_ranged(shape: &Shape) -> bool {
    matches!(shape, Shape::Whole(..) | Shape::Seconds(_))
}

fn is_choice(shape: &Shape) -> bool {
    matches!(shape, Shape::Choice(_))
}

fn is_duration(shape: &Shape) -> bool {
    matches!(shape, Shape::Duration(_))
}

fn is_dns_label(shape: &Shape) -> bool {
    matches!(shape, Shape::Text(Format::DnsLabel))
}

fn is_upstream(shape: &Shape) -> bool {
    matches!(shape, Shape::Upstream)
}

fn is_failures(shape: &Shape) -> bool {
    matches!(shape, Shape::List(Shape::Either([Shape::Choice(_), ..])))
}

fn range(shape: &Shape) -> (f64, f64) {
    match shape {
        Shape::Whole(low, high) => (f64::from(*low), f64::from(*high)),
        Shape::Seconds([low, high]) => (words::seconds(*low), words::seconds(*high)),
        _ => (0.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_has_its_quotes_and_backslashes_escaped() {
        assert_eq!(quote(r"it's \d"), r"'it\'s \\d'");
    }
}
