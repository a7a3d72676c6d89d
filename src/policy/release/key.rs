//! `hashOn`: where a request's sticky key comes from.

use core::time::Duration;

use crate::policy::keys::spec::Format;
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
    /// `baggage`: a member of the header `baggage`, by its key. Its value is percent-decoded.
    Baggage(String),
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
            for item in value.list()? {
                let Some(key) = Key::read(&item) else {
                    continue;
                };
                if key.is_issued() && keys.iter().any(Key::is_issued) {
                    item.problem::<()>("a second cookie with ttl would never be issued; keep one");
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
        let fields = value.object()?;
        let header = fields.optional("httpHeaderName", Key::read_header);
        let cookie = fields.optional("httpCookie", |value| Cookie::read(value).map(Key::Cookie));
        let parameter = fields.optional("httpQueryParameterName", |value| {
            value.text().map(|name| Key::QueryParameter(name.to_owned()))
        });
        let source = fields.optional("useSourceIp", |value| value.boolean().map(|_| Key::SourceIp));
        let path = fields.optional("usePath", |value| value.boolean().map(|_| Key::Path));
        let baggage =
            fields.optional("baggage", |value| value.text().map(|key| Key::Baggage(key.to_owned())));
        let all = fields.optional("all", Key::read_parts);
        let mut keys = [header?, cookie?, parameter?, baggage?, source?, path?, all?].into_iter().flatten();
        // The table's rule reports none and more than one.
        keys.next().filter(|_| keys.next().is_none())
    }

    /// Reads `all`.
    fn read_parts(value: &Value<'_>) -> Option<Self> {
        let items = value.list()?;
        let mut parts: Vec<Key> = Vec::new();
        for item in &items {
            match Key::read(item)? {
                Key::All(_) => item.problem::<()>("all inside all; write one list of all parts"),
                key if key.is_issued() => item.problem::<()>(
                    "an issued cookie identifies its user alone. Remove ttl, or move the cookie out of all.",
                ),
                key => {
                    parts.push(key);
                    continue;
                }
            }?;
        }
        // One part is the same key as without `all`.
        if parts.len() == 1 { parts.pop() } else { Some(Key::All(parts)) }
    }
}

impl Key {
    /// Reads the name of a header that holds the key. As in Envoy, `:path` is the path with its query.
    fn read_header(value: &Value<'_>) -> Option<Self> {
        match value.text()?.to_ascii_lowercase().as_str() {
            "host" | ":authority" => Some(Key::Host),
            ":path" => Some(Key::Header(":path".to_owned())),
            ":method" | ":scheme" => value.problem(
                "all users share its few values; use a header that differs between users, host or :path",
            ),
            name => value.validate_header_name(name, Format::HeaderName).map(Key::Header),
        }
    }
}

impl Cookie {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let name = fields.text("name");
        let issue = fields.optional("ttl", |ttl| Issue::read(ttl, &fields, name.unwrap_or_default()));
        Some(Cookie { name: name?.to_owned(), issue: issue? })
    }
}

impl Issue {
    fn read(ttl: &Value<'_>, fields: &Fields<'_>, name: &str) -> Option<Self> {
        let ttl = ttl.duration();
        let path = fields.text("path");
        if path.is_some_and(|path| path.contains(';')) {
            fields.contradiction("path", "has a \";\", which would end the attribute; use a path without it");
        }
        let domain = fields.optional("domain", |value| value.text().map(str::to_ascii_lowercase));
        // A misspelt key is reported already, and browsers' rules about it would be one more problem.
        let secure = fields.boolean("secure").map(|secure| secure || fields.is_misspelt("secure"));
        let http_only = fields.boolean("httpOnly");
        let partitioned = fields.boolean("partitioned");
        let default = if partitioned == Some(true) { "None" } else { "Lax" };
        let same_site = fields.read("sameSite", default, Value::word);
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
                "browsers accept None only with secure. Add secure: true, or use Lax or Strict.",
            ),
            (
                self.partitioned && !self.secure,
                "partitioned",
                "browsers accept it only with secure. Add secure: true.",
            ),
            (
                has_prefix && !self.secure,
                "name",
                "browsers accept this prefix only with secure. Add secure: true.",
            ),
            (
                has_host_prefix && (self.domain.is_some() || self.path != "/"),
                "name",
                "browsers accept __Host- only with path / and without a domain. Remove path and domain.",
            ),
        ];
        let found: Vec<_> = problems.into_iter().filter(|(applies, ..)| *applies).collect();
        for (_, key, message) in &found {
            fields.get(key).unwrap_or(fields.object()).problem::<()>(message);
        }
        found.is_empty()
    }
}
