//! The request that `explain` explains.

use core::cell::Cell;
use core::net::SocketAddr;
use std::borrow::Cow;
use std::collections::BTreeMap;

use graygate::policy::document::Node;
use graygate::policy::spelling::nearest;
use graygate::value::baggage;
use graygate::value::request::Request;
use serde::{Deserialize, Deserializer};

/// A request from the command line, or from a line of the file of `--requests`. Missing fields have the defaults of the
/// command line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRequest {
    #[serde(default = "default_method")]
    pub method: String,
    #[serde(default = "default_path")]
    pub path: String,
    #[serde(default = "default_authority")]
    pub authority: String,
    #[serde(default)]
    pub scheme: Option<String>,
    #[serde(default = "default_source")]
    pub source: SocketAddr,
    /// The cluster that the request's route leads to. If absent, each gate without a match gets the answer that it is its
    /// own.
    #[serde(default)]
    pub cluster: Option<String>,
    #[serde(default, deserialize_with = "read_headers")]
    pub headers: BTreeMap<String, String>,
    /// Whether a gate has asked where the route leads to.
    #[serde(skip)]
    pub needs_route: Cell<bool>,
}

/// The value of a header, or the values of a repeated one.
#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValues {
    One(String),
    Many(Vec<String>),
}

/// The fields of a request.
const FIELDS: [&str; 7] = ["method", "path", "authority", "scheme", "source", "cluster", "headers"];

/// Reads a request from a line of JSON. Returns what is wrong with it, and how to mend it.
pub fn read(line: &str) -> Result<SampleRequest, String> {
    let example = r#"{"path": "/api", "headers": {"x-user-id": "alice"}}"#;
    let node: Node = serde_json::from_str(line)
        .map_err(|_| format!("not JSON. Write one object per line, such as {example}"))?;
    if let Some(found) = problem(&node) {
        let stop = if found.ends_with('?') { "" } else { "." };
        return Err(format!("not a request: {found}{stop} Write an object such as {example}"));
    }
    serde_json::from_str(line).map_err(|_| format!("not a request. Write an object such as {example}"))
}

/// Returns what is wrong with a value that is not a request.
fn problem(node: &Node) -> Option<String> {
    let wrong = |key: &str, node: &Node, allowed: &str| {
        Some(format!("{key}: {node} is not allowed; allowed: {allowed}"))
    };
    let Node::Object(fields) = node else {
        return Some(format!("{node} is not an object"));
    };
    fields.iter().enumerate().find_map(|(index, (key, node))| match (key.as_str(), node) {
        (key, _) if !FIELDS.contains(&key) => Some(match nearest(key, &FIELDS) {
            Some(near) => format!("unknown field {key:?}; did you mean {near:?}?"),
            None => format!("unknown field {key:?}; allowed: {}", FIELDS.join(", ")),
        }),
        (key, _) if fields.iter().take(index).any(|(other, _)| other == key) => {
            Some(format!("{key}: given twice"))
        }
        ("source", Node::Text(text)) if text.parse::<SocketAddr>().is_ok() => None,
        ("source", node) => wrong(key, node, "an IP address and a port, such as \"10.0.0.7:50000\""),
        ("scheme" | "cluster", Node::Null) => None,
        ("headers", Node::Object(headers)) => headers.iter().find_map(|(name, values)| match values {
            Node::Text(_) => None,
            Node::List(items) if items.iter().all(|item| matches!(item, Node::Text(_))) => None,
            values => wrong(&format!("headers.{name}"), values, "a string, or a list of strings"),
        }),
        ("headers", node) => wrong(key, node, "an object such as {\"x-user-id\": \"alice\"}"),
        (_, Node::Text(_)) => None,
        (key, node) => wrong(key, node, "a string"),
    })
}

/// Reads headers by their names.
fn read_headers<'de, D: Deserializer<'de>>(headers: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut read = BTreeMap::new();
    for (name, values) in BTreeMap::<String, HeaderValues>::deserialize(headers)? {
        let values = match values {
            HeaderValues::One(value) => vec![value],
            HeaderValues::Many(values) => values,
        };
        values.iter().for_each(|value| add_header(&mut read, &name, value));
    }
    Ok(read)
}

/// Adds a header. The first value of a name stays, as the proxy shows the filter only that one of a repeated header. The
/// filter reads all lines of `baggage`.
pub fn add_header(headers: &mut BTreeMap<String, String>, name: &str, value: &str) {
    let known = headers.get_mut(name);
    match known {
        Some(known) if name.eq_ignore_ascii_case(baggage::HEADER) => {
            known.push(',');
            known.push_str(value);
        }
        Some(_) => {}
        None => {
            headers.insert(name.to_owned(), value.to_owned());
        }
    }
}

impl SampleRequest {
    /// Makes the headers those that the proxy would have: names in lower case, and `host` and the names with a colon as
    /// the fields that they stand for.
    pub fn normalize(&mut self) {
        let mut first_values = BTreeMap::new();
        for (name, value) in core::mem::take(&mut self.headers) {
            add_header(&mut first_values, &name.to_ascii_lowercase(), &value);
        }
        let mut take = |name: &str| first_values.remove(name);
        if let Some(authority) = take(":authority").or(take("host")) {
            self.authority = authority;
        }
        self.path = take(":path").unwrap_or(core::mem::take(&mut self.path));
        self.method = take(":method").unwrap_or(core::mem::take(&mut self.method));
        self.scheme = take(":scheme").or(self.scheme.take());
        self.headers = first_values;
    }

    /// Returns whether the explanation assumes where the request's route leads to.
    pub fn assumes_route(&self) -> bool {
        self.needs_route.get() && self.cluster.is_none()
    }

    /// Returns the scheme. If none is given, it follows from `x-forwarded-proto`, as in Envoy.
    fn scheme(&self) -> &str {
        let forwarded = self.headers.get("x-forwarded-proto").map(String::as_str);
        let scheme = self.scheme.as_deref().or(forwarded.filter(|scheme| ["http", "https"].contains(scheme)));
        scheme.unwrap_or("http")
    }
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_source() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000))
}

fn default_authority() -> String {
    "localhost".to_owned()
}

impl Request for SampleRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let value = match name {
            ":method" => self.method.as_str(),
            ":path" => &self.path,
            ":authority" => &self.authority,
            ":scheme" => self.scheme(),
            name => self.headers.get(name)?,
        };
        Some(Cow::Borrowed(value.as_bytes()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(self.source.to_string().into_bytes()))
    }

    fn is_routed_to(&self, cluster: &str) -> bool {
        self.needs_route.set(true);
        self.cluster.as_ref().is_none_or(|own| own == cluster)
    }
}
