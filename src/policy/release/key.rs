//! `hashOn`: where a request's sticky key comes from.

use core::time::Duration;

use crate::policy::keys;
use crate::policy::reader::{Fields, Value};

/// A source of sticky keys, in the terms of Istio's `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `httpHeaderName`: a header, in lower case.
    Header(String),
    /// `httpHeaderName: host`: the host in lower case, without the port.
    Host,
    /// `httpCookie`: a cookie.
    Cookie(Cookie),
    /// `httpQueryParameterName`: a query parameter. The name is compared as written, without percent-decoding.
    QueryParameter(String),
    /// `useSourceIp`: the source address of the request, as the proxy sees it.
    SourceIp,
    /// `usePath`: the path without its query.
    Path,
    /// `all`: several sources together, at least two. The key is present only if each of them is.
    All(Vec<Key>),
}

/// A cookie that holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cookie {
    /// The name. Its case is significant.
    pub name: String,
    /// How the filter issues the cookie. Present if the policy has a `ttl`. Otherwise the filter only reads it.
    pub issue: Option<Issue>,
}

/// The attributes of a cookie that the filter issues, as RFC 6265 and its successor name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issue {
    /// The lifetime, 0 to 400 days, which is the longest that browsers accept. 0 means as long as the browser's
    /// session.
    pub ttl: Duration,
    /// `Path`. Default `/`.
    pub path: String,
    /// `Domain`, in lower case. If absent, the cookie is sent only to the host that set it.
    pub domain: Option<String>,
    /// `Secure`: the cookie is sent only over https.
    pub secure: bool,
    /// `HttpOnly`: scripts cannot read the cookie. Default true, because no script needs the key.
    pub http_only: bool,
    /// `SameSite`: `Lax`, `Strict` or `None`. Default `Lax`, as in browsers, but `None` for a partitioned cookie, which
    /// other sites' pages would otherwise not send.
    pub same_site: &'static str,
    /// `Partitioned`: there is one cookie for each site that embeds this one.
    pub partitioned: bool,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Key {
    /// Returns the cookie, if this key comes from one.
    pub fn cookie(&self) -> Option<&Cookie> {
        match self {
            Key::Cookie(cookie) => Some(cookie),
            _ => None,
        }
    }

    /// Returns the keys that this one consists of.
    pub fn parts(&self) -> &[Key] {
        match self {
            Key::All(parts) => parts,
            key => core::slice::from_ref(key),
        }
    }

    /// Reads the field `hashOn`. Refuses a second cookie with `ttl`, as only one would ever be issued.
    pub fn read_all(fields: &Fields<'_>) -> Option<Vec<Self>> {
        fields.read("hashOn", Vec::new(), |value| {
            let mut keys: Vec<Self> = Vec::new();
            value.limit_entries("keys", MAX_SOURCES)?;
            for item in value.list()? {
                let Some(key) = Key::read(&item) else {
                    continue;
                };
                if key.is_issued() && keys.iter().any(Key::is_issued) {
                    item.problem::<()>("a second cookie with ttl; allowed: one, as no more would be issued");
                }
                keys.push(key);
            }
            Some(keys)
        })
    }

    fn is_issued(&self) -> bool {
        self.cookie().is_some_and(|cookie| cookie.issue.is_some())
    }

    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&keys::HASH_ON)?;
        for key in RINGS {
            fields.contradiction(
                key,
                "has no effect here, as buckets and not a ring of hosts divide the keys; allowed: leave it out",
            );
        }
        let header = fields.read("httpHeaderName", None, |value| Key::read_header(value).map(Some));
        let cookie = fields.read("httpCookie", None, |value| Cookie::read(value).map(Key::Cookie).map(Some));
        let parameter = fields.read("httpQueryParameterName", None, |value| {
            Some(Some(Key::QueryParameter(value.text()?.to_owned())))
        });
        let read_use = |name: &str, key: Key| {
            fields.read(name, None, |value| {
                if value.boolean()? { Some(Some(key)) } else { value.refuse("true, or no such key") }
            })
        };
        let source = read_use("useSourceIp", Key::SourceIp);
        let path = read_use("usePath", Key::Path);
        let all = fields.read("all", None, |value| Key::read_parts(value).map(Some));
        let mut keys = [header?, cookie?, parameter?, source?, path?, all?].into_iter().flatten();
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            _ => value.refuse(format!("one of {}", SOURCES.join(", "))),
        }
    }

    /// Reads `all`.
    fn read_parts(value: &Value<'_>) -> Option<Self> {
        value.limit_entries("keys", MAX_SOURCES)?;
        let items = value.list()?;
        let mut parts: Vec<Key> = Vec::new();
        for item in &items {
            match Key::read(item)? {
                Key::All(_) => item.problem::<()>("all inside all; allowed: one list of all parts"),
                key if key.is_issued() => item.problem::<()>(
                    "an issued cookie identifies its user alone; allowed: a cookie without ttl, or this one beside all",
                ),
                key => {
                    parts.push(key);
                    continue;
                }
            }?;
        }
        // One part is the same key as without `all`.
        match parts.len() {
            0 => value.problem("an empty list; allowed: at least one key"),
            1 => parts.pop(),
            _ => Some(Key::All(parts)),
        }
    }
}

/// The most entries of `hashOn` or `all`.
const MAX_SOURCES: usize = 20;

/// Where a key can come from.
const SOURCES: [&str; 6] =
    ["httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp", "usePath", "all"];

/// What Istio's `consistentHash` has in addition.
const RINGS: [&str; 3] = ["ringHash", "maglev", "minimumRingSize"];

impl Key {
    /// Reads the name of a header that holds the key. As in Envoy, `:path` is the path with its query.
    fn read_header(value: &Value<'_>) -> Option<Self> {
        match value.text()?.to_ascii_lowercase().as_str() {
            "host" | ":authority" => Some(Key::Host),
            ":path" => Some(Key::Header(":path".to_owned())),
            ":method" | ":scheme" => value.problem(
                "all users share its few values; allowed: a header that differs between users, host, :path",
            ),
            _ => value.header_name(false).map(Key::Header),
        }
    }
}

impl Cookie {
    fn read(value: &Value<'_>) -> Option<Self> {
        let attributes = ["path", "domain", "secure", "httpOnly", "sameSite", "partitioned"];
        let fields = value.object(&keys::COOKIE)?;
        let name = fields.require("name", "a cookie's name").and_then(Value::cookie_name);
        let issue = match fields.get("ttl") {
            Some(ttl) => Issue::read(ttl, &fields, name.unwrap_or_default()).map(Some),
            None => {
                for value in attributes.iter().filter_map(|key| fields.get(key)) {
                    value.problem::<()>("only an issued cookie has it; allowed: with ttl");
                }
                Some(None)
            }
        };
        Some(Cookie { name: name?.to_owned(), issue: issue? })
    }
}

impl Issue {
    fn read(ttl: &Value<'_>, fields: &Fields<'_>, name: &str) -> Option<Self> {
        let ttl = ttl.duration(Duration::ZERO..=400 * DAY);
        let path = fields.read("path", "/", |value| {
            let path = value.path()?;
            if path.contains(';') { value.refuse("a path with no \";\"") } else { Some(path) }
        });
        let domain = fields.read("domain", None, |value| {
            let domain = value.text()?;
            let is_label = |label: &str| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            if domain.split('.').all(is_label) && domain.len() <= 253 {
                Some(Some(domain.to_ascii_lowercase()))
            } else {
                value.refuse("a domain such as example.com")
            }
        });
        let secure = fields.read("secure", false, Value::boolean);
        let http_only = fields.read("httpOnly", true, Value::boolean);
        let partitioned = fields.read("partitioned", false, Value::boolean);
        let choices = ["Lax", "Strict", "None"].map(|choice| (choice, choice));
        let default = if partitioned == Some(true) { "None" } else { "Lax" };
        let same_site = fields.read("sameSite", default, |value| value.choice(&choices));
        let issue = Issue {
            ttl: ttl?,
            path: path?.to_owned(),
            domain: domain?,
            secure: secure?,
            http_only: http_only?,
            same_site: same_site?,
            partitioned: partitioned?,
        };
        issue.is_accepted(fields, name).then_some(issue)
    }

    /// Returns whether browsers accept the cookie, and reports each reason to reject it.
    fn is_accepted(&self, fields: &Fields<'_>, name: &str) -> bool {
        let has_host_prefix = name.starts_with("__Host-");
        let has_prefix = has_host_prefix || name.starts_with("__Secure-");
        let problems = [
            (
                self.same_site == "None" && !self.secure && fields.get("sameSite").is_some(),
                "sameSite",
                "browsers take None only with secure; allowed: secure: true, Lax, Strict",
            ),
            (
                self.partitioned && !self.secure,
                "partitioned",
                "browsers take it only with secure; allowed: secure: true",
            ),
            (
                has_prefix && !self.secure,
                "name",
                "browsers take this prefix only with secure; allowed: secure: true",
            ),
            (
                has_host_prefix && (self.domain.is_some() || self.path != "/"),
                "name",
                "browsers take __Host- only with path / and no domain; allowed: these",
            ),
        ];
        let found: Vec<_> = problems.into_iter().filter(|(applies, ..)| *applies).collect();
        for (_, key, message) in &found {
            fields.get(key).unwrap_or(fields.object()).problem::<()>(message);
        }
        found.is_empty()
    }
}
