//! `hashOn`: where the sticky key of a request is found.

use core::time::Duration;

use crate::policy::reader::{Fields, Value};

/// Where a sticky key is found, in the terms of Istio's `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `httpHeaderName`, in lower case.
    Header(String),
    /// `httpCookie`.
    Cookie(Cookie),
    /// `httpQueryParameterName`, as written: nothing is percent-decoded.
    QueryParameter(String),
    /// `useSourceIp`: where the request comes from, as the proxy sees it.
    SourceIp,
}

/// A cookie that holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cookie {
    /// Its name, whose case counts.
    pub name: String,
    /// How the filter issues it itself, if it does: where there is a `ttl`.
    pub issue: Option<Issue>,
}

/// The attributes of a cookie that the filter issues, as RFC 6265 and its successor name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issue {
    /// How long it lives: 0 to 400 days, which is the most that browsers take. 0: as long as the browser's
    /// session.
    pub ttl: Duration,
    /// Default `/`.
    pub path: String,
    /// Absent: the host that sets it alone.
    pub domain: Option<String>,
    /// Only over https.
    pub secure: bool,
    /// Not for scripts.
    pub http_only: bool,
    /// `Lax`, `Strict` or `None`.
    pub same_site: Option<&'static str>,
    /// One for each site that embeds this one.
    pub partitioned: bool,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Key {
    /// The cookie that it is in, if it is in one.
    pub fn cookie(&self) -> Option<&Cookie> {
        match self {
            Key::Cookie(cookie) => Some(cookie),
            _ => None,
        }
    }

    /// Reads `hashOn`. Of several keys that could be issued only one would ever be.
    pub fn read_all(fields: &Fields<'_>) -> Option<Vec<Self>> {
        fields.read("hashOn", Vec::new(), |value| {
            let (mut keys, mut issues) = (Vec::new(), false);
            for item in value.list()? {
                let Some(key) = Key::read(&item) else {
                    continue;
                };
                if matches!(&key, Key::Cookie(cookie) if cookie.issue.is_some())
                    && core::mem::replace(&mut issues, true)
                {
                    item.problem::<()>("a second cookie with ttl; allowed: one, as no more would be issued");
                }
                keys.push(key);
            }
            Some(keys)
        })
    }

    fn read(value: &Value<'_>) -> Option<Self> {
        let fields =
            value.object(&["httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp"])?;
        let header =
            fields.read("httpHeaderName", None, |value| value.header_name(false).map(Key::Header).map(Some));
        let cookie = fields.read("httpCookie", None, |value| Cookie::read(value).map(Key::Cookie).map(Some));
        let parameter = fields.read("httpQueryParameterName", None, |value| {
            Some(Some(Key::QueryParameter(value.text()?.to_owned())))
        });
        let source = fields.read("useSourceIp", None, |value| match value.boolean()? {
            true => Some(Some(Key::SourceIp)),
            false => value.refuse("true, or no such key"),
        });
        let mut keys = [header?, cookie?, parameter?, source?].into_iter().flatten();
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            _ => value.refuse("one of httpHeaderName, httpCookie, httpQueryParameterName, useSourceIp"),
        }
    }
}

impl Cookie {
    fn read(value: &Value<'_>) -> Option<Self> {
        let attributes = ["path", "domain", "secure", "httpOnly", "sameSite", "partitioned"];
        let fields = value.object(&[&["name", "ttl"][..], &attributes].concat())?;
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
            let label = |label: &str| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            match domain.split('.').all(label) && domain.len() <= 253 {
                true => Some(Some(domain.to_ascii_lowercase())),
                false => value.refuse("a domain such as example.com"),
            }
        });
        let secure = fields.read("secure", false, Value::boolean);
        let http_only = fields.read("httpOnly", false, Value::boolean);
        let words = ["Lax", "Strict", "None"].map(|word| (word, Some(word)));
        let same_site = fields.read("sameSite", None, |value| value.choice(&words));
        let partitioned = fields.read("partitioned", false, Value::boolean);
        let issue = Issue {
            ttl: ttl?,
            path: path?.to_owned(),
            domain: domain?,
            secure: secure?,
            http_only: http_only?,
            same_site: same_site?,
            partitioned: partitioned?,
        };
        issue.judge(fields, name).then_some(issue)
    }

    /// Notes what browsers would throw the cookie away for. Whether there is nothing.
    fn judge(&self, fields: &Fields<'_>, name: &str) -> bool {
        let host = name.starts_with("__Host-");
        let prefixed = host || name.starts_with("__Secure-");
        let problems = [
            (
                self.same_site == Some("None") && !self.secure,
                "sameSite",
                "browsers take None only with secure; allowed: secure: true, Lax, Strict",
            ),
            (
                self.partitioned && !self.secure,
                "partitioned",
                "browsers take it only with secure; allowed: secure: true",
            ),
            (
                prefixed && !self.secure,
                "name",
                "browsers take this prefix only with secure; allowed: secure: true",
            ),
            (
                host && (self.domain.is_some() || self.path != "/"),
                "name",
                "browsers take __Host- only with path / and no domain; allowed: these",
            ),
        ];
        let found: Vec<_> = problems.into_iter().filter(|(found, ..)| *found).collect();
        for (_, key, message) in &found {
            fields.get(key).unwrap_or(fields.object()).problem::<()>(message);
        }
        found.is_empty()
    }
}
