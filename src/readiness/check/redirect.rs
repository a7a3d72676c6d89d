//! Redirects of a check, treated as the kubelet treats them. Its HTTP client is that of Go.
//!
//! A redirect to the same host name is followed, whatever its port. The cluster of the upstream determines
//! where a check connects. A redirect to another host passes, because the check does not judge that host.
//! A redirect fails if its location is invalid, or if it leads to the same host by another scheme than HTTP.
//!
//! A location is parsed as by Go, and resolved as in RFC 3986, section 5.2. A library for that would add
//! 21 kB to the module.

use core::net::Ipv6Addr;

use super::failure::CheckFailure;
use crate::policy::check::HttpGet;

/// The maximum number of redirects that the kubelet follows, which makes ten requests in all.
const MAX_REDIRECTS: u32 = 9;

/// What follows from an HTTP response to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// The check has this result.
    Result(Result<(), CheckFailure>),
    /// The check continues with this request, within the same timeout.
    Follow(CheckTarget),
}

/// The target of one request of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTarget {
    /// The value of `:method`.
    pub method: &'static str,
    /// The value of `:scheme`.
    pub scheme: String,
    /// The host of the URL, with the port.
    pub authority: String,
    /// The host that the request names instead. A redirect with a whole URL ends it.
    pub host: Option<String>,
    /// The value of `:path`, with the query.
    pub path: String,
    /// The user and the password of the URL, as `user:password`.
    pub user: Option<Vec<u8>>,
    /// The URL from which a redirect led here, unless the redirect left HTTPS.
    pub referer: Option<String>,
}

impl CheckTarget {
    /// Returns the target of the first request.
    pub fn first(get: &HttpGet) -> Self {
        CheckTarget {
            method: get.method,
            scheme: get.scheme.to_owned(),
            authority: get.authority.clone(),
            host: get.host.clone(),
            path: get.path.clone(),
            user: None,
            referer: None,
        }
    }

    /// Returns the value of `:authority`.
    pub fn host_header(&self) -> &str {
        self.host.as_deref().unwrap_or(&self.authority)
    }

    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.path)
    }
}

/// Returns what follows from a redirect of `target` with this status to `location`, which is not empty. `authority` is the
/// host of the check, and `redirects` is the number of redirects before.
pub fn follow(
    authority: &str,
    target: &CheckTarget,
    redirects: u32,
    status: u16,
    location: &[u8],
) -> CheckStep {
    let Some(location) = Location::parse(first_of_joined(location)) else {
        return CheckStep::Result(Err(CheckFailure::Redirected));
    };
    let mut next = location.resolve(target);
    if host_name(&next.authority) != host_name(authority) {
        return CheckStep::Result(Ok(()));
    }
    if redirects >= MAX_REDIRECTS || !["http", "https"].contains(&next.scheme.as_str()) {
        return CheckStep::Result(Err(CheckFailure::Redirected));
    }
    if status <= 303 && next.method != "HEAD" {
        next.method = "GET";
    }
    CheckStep::Follow(next)
}

/// Returns the first of several locations. The proxy joins the values of several headers with a comma. A comma is part of
/// the location unless what follows is a path or a URL.
fn first_of_joined(location: &[u8]) -> &[u8] {
    let begins = |rest: &[u8]| {
        [&b"/"[..], b"http://", b"https://"]
            .iter()
            .any(|start| rest.get(1..).unwrap_or(b"").starts_with(start))
    };
    let end = (0..location.len()).find(|index| {
        let rest = location.get(*index..).unwrap_or(b"");
        rest.starts_with(b",") && begins(rest)
    });
    location.get(..end.unwrap_or(location.len())).unwrap_or(location)
}

/// Returns an authority without its port.
fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A location as it was sent, in its parts.
#[derive(Default)]
struct Location {
    /// The scheme in lower case. Empty if the location has none.
    scheme: String,
    user: Option<Vec<u8>>,
    /// The host with its port. Empty if the location has none.
    authority: String,
    path: String,
    query: Option<String>,
    /// Whether it has a scheme and no path that starts with a slash, as in `mailto:a@b`.
    opaque: bool,
}

impl Location {
    /// Parses a location. Returns `None` if Go's client refuses it.
    fn parse(location: &[u8]) -> Option<Self> {
        if location.iter().any(u8::is_ascii_control) {
            return None;
        }
        let without_fragment = location.split(|byte| *byte == b'#').next()?;
        let (scheme, rest) = split_scheme(without_fragment)?;
        let (hierarchy, query) = match split_at_byte(rest, b'?') {
            (hierarchy, Some(query)) => (hierarchy, Some(encoded(query, b""))),
            (hierarchy, None) => (hierarchy, None),
        };
        let scheme = String::from_utf8_lossy(scheme).to_ascii_lowercase();
        let mut parsed = Location { scheme, query, ..Location::default() };
        if !hierarchy.starts_with(b"/") {
            parsed.opaque = !parsed.scheme.is_empty();
            let first_segment = hierarchy.split(|byte| *byte == b'/').next()?;
            // Otherwise `127.0.0.1:8080/x` would be a path.
            if !parsed.opaque && first_segment.contains(&b':') {
                return None;
            }
        }
        let mut path = hierarchy;
        let has_authority = !parsed.scheme.is_empty() || !hierarchy.starts_with(b"///");
        if has_authority && let Some(rest) = hierarchy.strip_prefix(b"//") {
            let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (authority, after) = rest.split_at_checked(length)?;
            parsed.read_authority(authority)?;
            path = after;
        }
        if !parsed.opaque {
            unescaped(path)?;
            parsed.path = encoded(path, b"\"<>\\^`{|}");
        }
        Some(parsed)
    }

    fn read_authority(&mut self, authority: &[u8]) -> Option<()> {
        let mut host = authority;
        if let Some(at) = authority.iter().rposition(|byte| *byte == b'@') {
            let user = authority.get(..at)?;
            host = authority.get(at + 1..)?;
            let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(byte);
            if !user.iter().all(is_allowed) {
                return None;
            }
            let mut user = unescaped(user)?;
            if !user.contains(&b':') {
                user.push(b':');
            }
            self.user = Some(user);
        }
        // A host in any other bytes is another host than that of the check, which is ASCII.
        let host = String::from_utf8_lossy(host).into_owned();
        is_host(&host, ["http", "https"].contains(&self.scheme.as_str())).then_some(())?;
        self.authority = host.strip_suffix(':').unwrap_or(&host).to_owned();
        Some(())
    }

    /// Returns the target to which the location leads from `base`.
    fn resolve(self, base: &CheckTarget) -> CheckTarget {
        let names_host = !self.scheme.is_empty() || !self.authority.is_empty() || self.user.is_some();
        let (base_path, base_query) = match base.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (base.path.as_str(), None),
        };
        let path = match self.path.as_str() {
            "" if names_host => "/".to_owned(),
            "" => without_dot_segments(base_path),
            path if names_host || path.starts_with('/') => without_dot_segments(path),
            path => {
                let directory = base_path.rsplit_once('/').map_or("", |(directory, _)| directory);
                without_dot_segments(&format!("{directory}/{path}"))
            }
        };
        let inherits_query = !names_host && self.path.is_empty();
        let query = self.query.as_deref().or(base_query.filter(|_| inherits_query));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let host = base.host.clone().filter(|_| self.scheme.is_empty());
        let scheme = if self.scheme.is_empty() { base.scheme.clone() } else { self.scheme };
        let leaves_https = base.scheme == "https" && scheme == "http";
        CheckTarget {
            method: base.method,
            authority: if names_host { self.authority } else { base.authority.clone() },
            host,
            path: format!("{path}{query}"),
            user: if names_host { self.user } else { base.user.clone() },
            referer: (!leaves_https).then(|| base.url()),
            scheme,
        }
    }
}

/// Splits a scheme off. It is empty if there is none. Returns `None` if the location begins with a colon.
fn split_scheme(location: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let end = location.iter().position(|byte| !is_scheme(byte)).unwrap_or(location.len());
    let (scheme, rest) = location.split_at_checked(end)?;
    match rest.strip_prefix(b":") {
        Some(_) if scheme.is_empty() => None,
        Some(rest) if scheme.first().is_some_and(u8::is_ascii_alphabetic) => Some((scheme, rest)),
        _ => Some((b"", location)),
    }
}

fn split_at_byte(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |byte| *byte == at);
    (parts.next().unwrap_or(b""), parts.next())
}

/// Returns bytes as text. Percent-encodes what is not visible ASCII, and the bytes in `also`.
fn encoded(bytes: &[u8], also: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            byte if byte.is_ascii_graphic() && !also.contains(byte) => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Returns bytes with their percent-encoding removed. Returns `None` if a percent sign begins no escape.
fn unescaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut unescaped = Vec::new();
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            unescaped.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |index: usize| char::from(*digits.get(index)?).to_digit(16);
        unescaped.push(u8::try_from(digit(0)? << 4 | digit(1)?).ok()?);
        rest = after;
    }
    Some(unescaped)
}

/// Returns whether a host with its port is valid. Only a URL of HTTP is held to one colon.
fn is_host(host: &str, http: bool) -> bool {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|host| host.rsplit_once(']')) {
        let address = address.split("%25").next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
    }
    let is_allowed =
        |byte: u8| !byte.is_ascii() || byte.is_ascii_graphic() && !b"/?#@\\^`{|}[%".contains(&byte);
    let colon = if http { host.find(':') } else { host.rfind(':') };
    let port = colon.and_then(|index| host.get(index..)).unwrap_or_default();
    host.bytes().all(is_allowed) && is_port(port)
}

/// Returns whether this is nothing, or a port after its colon.
fn is_port(port: &str) -> bool {
    port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // A path to a directory ends in a slash.
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn target(authority: &str, path: &str) -> CheckTarget {
        CheckTarget {
            method: "GET",
            scheme: "http".to_owned(),
            authority: authority.to_owned(),
            host: None,
            path: path.to_owned(),
            user: None,
            referer: None,
        }
    }

    fn from(start: &CheckTarget, location: &[u8]) -> CheckStep {
        follow(&start.authority, start, 0, 302, location)
    }

    fn from_app(location: &[u8]) -> CheckStep {
        from(&target("app:8080", "/a/b?x=1"), location)
    }

    fn followed(step: CheckStep) -> CheckTarget {
        match step {
            CheckStep::Follow(target) => target,
            CheckStep::Result(result) => panic!("{result:?}"),
        }
    }

    #[test]
    fn a_redirect_on_the_same_host_is_followed() {
        let rows: [(&[u8], &str, &str); 22] = [
            (b"#part", "app:8080", "/a/b?x=1"),
            (b"?", "app:8080", "/a/b?"),
            (b".", "app:8080", "/a/"),
            (b"..", "app:8080", "/"),
            (b"../../../c", "app:8080", "/c"),
            (b"./c//d/./e/../f", "app:8080", "/a/c//d/f"),
            (b"/c?next=http://other/", "app:8080", "/c?next=http://other/"),
            (b"http://app:8080?y=2", "app:8080", "/?y=2"),
            (b"/c", "app:8080", "/c"),
            (b"/c:d", "app:8080", "/c:d"),
            (b"c", "app:8080", "/a/c"),
            (b"c/d:e", "app:8080", "/a/c/d:e"),
            (b"../c?y=2", "app:8080", "/c?y=2"),
            (b"?y=2", "app:8080", "/a/b?y=2"),
            (b"http://app:8080/c", "app:8080", "/c"),
            (b"HTTP://app:9090/c#part", "app:9090", "/c"),
            (b"//app/c", "app", "/c"),
            (b"///c", "app:8080", "///c"),
            (b"http://app", "app", "/"),
            (b"http://app:", "app", "/"),
            (b"http://app:8080/a/./b/..", "app:8080", "/a/"),
            (b"/a,b", "app:8080", "/a,b"),
        ];
        for (location, authority, path) in rows {
            let shown = String::from_utf8_lossy(location);
            let next = followed(from_app(location));
            assert_eq!((next.authority.as_str(), next.path.as_str()), (authority, path), "{shown}");
            assert_eq!(next.referer.as_deref(), Some("http://app:8080/a/b?x=1"));
        }
        let next = followed(from_app(b"https://app/c"));
        assert_eq!((next.scheme.as_str(), next.authority.as_str()), ("https", "app"));
    }

    #[test]
    fn a_redirect_to_another_host_passes() {
        for location in [
            &b"http://login.example.com/"[..],
            b"//other/c",
            b"http://app.local:8080/",
            b"http://APP:8080/",
            b"mailto:a@b",
            b"localhost:8080/x",
            b"app:8080/x",
            b"http://",
            b"http:/c",
            b"ftp://other/",
            b"http://\xc3\xa9/",
            b"http://[::1]:8080/",
        ] {
            let shown = String::from_utf8_lossy(location);
            assert_eq!(from_app(location), CheckStep::Result(Ok(())), "{shown}");
        }
    }

    #[test]
    fn a_redirect_to_an_invalid_location_or_by_another_scheme_fails() {
        for location in [
            &b"/a\nb"[..],
            b"\0",
            b"http://[::1/",
            b"127.0.0.1:8080/x",
            b"1app:8080/x",
            b":8080/x",
            b"ftp://app/",
            b"http://app:80:80/",
            b"http://app:port/",
            b"http://a b/",
            b"http://a%41/",
            b"http://a{b@app/",
            b"http://[1.2.3.4]/",
            b"/a%zz",
            b"/a%2",
        ] {
            let shown = String::from_utf8_lossy(location);
            assert_eq!(from_app(location), CheckStep::Result(Err(CheckFailure::Redirected)), "{shown}");
        }
    }

    #[test]
    fn the_first_of_several_locations_counts() {
        for location in [&b"/c,/d"[..], b"/c,http://other/d", b"/c,https://other/d,/e"] {
            assert_eq!(followed(from_app(location)).path, "/c");
        }
    }

    #[test]
    fn invalid_bytes_in_a_location_are_percent_encoded() {
        assert_eq!(followed(from_app(b"/a b\xff{%2f?q={ ")).path, "/a%20b%FF%7B%2f?q={%20");
    }

    #[test]
    fn the_user_of_a_location_is_kept_on_the_same_host() {
        let next = followed(from_app(b"http://u:p%40@app/c"));
        assert_eq!((next.authority.as_str(), next.user.as_deref()), ("app", Some(&b"u:p@"[..])));
        assert_eq!(followed(from(&next, b"/d")).user.as_deref(), Some(&b"u:p@"[..]));
        assert_eq!(followed(from(&next, b"http://app/d")).user, None);
        assert_eq!(followed(from_app(b"//u@app/c")).user.as_deref(), Some(&b"u:"[..]));
    }

    #[test]
    fn a_host_header_is_kept_until_a_location_names_a_scheme() {
        let start = CheckTarget { host: Some("shop.example.com".to_owned()), ..target("app", "/") };
        let host = |location: &[u8]| followed(from(&start, location)).host_header().to_owned();
        assert_eq!([host(b"/c"), host(b"//app/c")], ["shop.example.com", "shop.example.com"]);
        assert_eq!(host(b"http://app/c"), "app");
        assert_eq!(from(&start, b"http://shop.example.com/"), CheckStep::Result(Ok(())));
    }

    #[test]
    fn the_statuses_that_change_the_method_make_it_get() {
        let at = |method, status| {
            let start = CheckTarget { method, ..target("app", "/") };
            followed(follow("app", &start, 0, status, b"/c")).method
        };
        for (method, status, next) in [
            ("OPTIONS", 302, "GET"),
            ("OPTIONS", 303, "GET"),
            ("OPTIONS", 307, "OPTIONS"),
            ("HEAD", 301, "HEAD"),
            ("GET", 308, "GET"),
        ] {
            assert_eq!(at(method, status), next, "{method} {status}");
        }
    }

    #[test]
    fn a_redirect_from_https_to_http_has_no_referer() {
        let start = CheckTarget { scheme: "https".to_owned(), ..target("app", "/") };
        assert_eq!(followed(from(&start, b"/c")).referer.as_deref(), Some("https://app/"));
        assert_eq!(followed(from(&start, b"http://app/c")).referer, None);
    }

    #[test]
    fn the_tenth_redirect_fails() {
        let at = |redirects| follow("app", &target("app", "/"), redirects, 302, b"/");
        assert!(matches!(at(8), CheckStep::Follow(_)));
        assert_eq!(at(9), CheckStep::Result(Err(CheckFailure::Redirected)));
    }

    #[test]
    fn an_ipv6_address_is_a_host_name() {
        let start = target("[::1]:8080", "/");
        assert_eq!(followed(from(&start, b"/c")).authority, "[::1]:8080");
        assert_eq!(followed(from(&start, b"http://[::1]/c")).authority, "[::1]");
        assert_eq!(from(&start, b"http://[::2]:8080/"), CheckStep::Result(Ok(())));
    }
}
