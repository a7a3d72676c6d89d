//! Redirects of a check, treated as the kubelet treats them.
//!
//! A redirect to the same host name is followed, whatever its port. The cluster of the upstream determines
//! where a check connects. A redirect to another host passes, because the check does not judge that host.
//!
//! A location is resolved as in RFC 3986, section 5.2. A library for that would add 21 kB to the module.

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
    /// The value of `:scheme`.
    pub scheme: String,
    /// The value of `:authority`.
    pub authority: String,
    /// The value of `:path`, with the query.
    pub path: String,
}

impl CheckTarget {
    /// Returns the target of the first request.
    pub fn first(get: &HttpGet) -> Self {
        CheckTarget {
            scheme: get.scheme.to_owned(),
            authority: get.authority.clone(),
            path: get.path.clone(),
        }
    }
}

/// Returns what follows from a redirect of `target` to `location`. `host` is the host of the check, and
/// `redirects` is the number of redirects before.
pub fn follow(host: &str, target: &CheckTarget, redirects: u32, location: &[u8]) -> CheckStep {
    let Some(location) = percent_encoded(location) else {
        return CheckStep::Result(Err(CheckFailure::Redirected));
    };
    let same_host = |next: &CheckTarget| host_name(&next.authority).eq_ignore_ascii_case(host_name(host));
    match resolve(target, &location).filter(same_host) {
        Some(next) if redirects < MAX_REDIRECTS => CheckStep::Follow(next),
        Some(_) => CheckStep::Result(Err(CheckFailure::Redirected)),
        None => CheckStep::Result(Ok(())),
    }
}

/// Returns a location as text, with invalid characters percent-encoded. Returns `None` if it holds control
/// characters, or only one bracket of an IPv6 address.
fn percent_encoded(location: &[u8]) -> Option<String> {
    let mut text = String::new();
    for byte in location {
        match byte {
            byte if byte.is_ascii_control() => return None,
            byte if byte.is_ascii_graphic() => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    (text.contains('[') == text.contains(']')).then_some(text)
}

/// Returns an authority without its port.
fn host_name(authority: &str) -> &str {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { authority }
}

/// Resolves `location` against `target`. Returns `None` if the result is no `http` or `https` URL.
fn resolve(target: &CheckTarget, location: &str) -> Option<CheckTarget> {
    let location = location.split('#').next().unwrap_or_default();
    // A scheme ends at the first colon, unless a path, a query or an authority begins before it.
    let (scheme, rest) = match location.split_once(':') {
        Some((scheme, rest)) if !scheme.contains(['/', '?', '[']) => (scheme.to_ascii_lowercase(), rest),
        _ => (target.scheme.clone(), location),
    };
    let absolute = rest.len() < location.len();
    let (authority, reference) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        None if absolute => return None,
        None => (target.authority.as_str(), rest),
    };
    if authority.is_empty() || authority.contains('@') || !["http", "https"].contains(&scheme.as_str()) {
        return None;
    }
    let (base, base_query) = if rest.starts_with("//") { ("/", None) } else { path_and_query(&target.path) };
    let (relative, query) = path_and_query(reference);
    let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
    let (path, query) = match relative {
        "" => (base.to_owned(), query.or(base_query)),
        path if path.starts_with('/') => (without_dot_segments(path), query),
        path => (without_dot_segments(&format!("{directory}/{path}")), query),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(CheckTarget { scheme, authority: authority.to_owned(), path: format!("{path}{query}") })
}

fn path_and_query(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
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
        CheckTarget { scheme: "http".to_owned(), authority: authority.to_owned(), path: path.to_owned() }
    }

    fn from_app(location: &[u8]) -> CheckStep {
        follow("app:8080", &target("app:8080", "/a/b?x=1"), 0, location)
    }

    #[test]
    fn a_redirect_on_the_same_host_is_followed() {
        let rows: [(&[u8], &str, &str); 17] = [
            (b"", "app:8080", "/a/b?x=1"),
            (b"#part", "app:8080", "/a/b?x=1"),
            (b"?", "app:8080", "/a/b?"),
            (b".", "app:8080", "/a/"),
            (b"..", "app:8080", "/"),
            (b"../../../c", "app:8080", "/c"),
            (b"./c//d/./e/../f", "app:8080", "/a/c//d/f"),
            (b"/c?next=http://other/", "app:8080", "/c?next=http://other/"),
            (b"http://app:8080?y=2", "app:8080", "/?y=2"),
            (b"/c", "app:8080", "/c"),
            (b"c", "app:8080", "/a/c"),
            (b"../c?y=2", "app:8080", "/c?y=2"),
            (b"?y=2", "app:8080", "/a/b?y=2"),
            (b"http://app:8080/c", "app:8080", "/c"),
            (b"http://APP:9090/c#part", "APP:9090", "/c"),
            (b"//app/c", "app", "/c"),
            (b"http://app", "app", "/"),
        ];
        for (location, authority, path) in rows {
            let shown = String::from_utf8_lossy(location);
            assert_eq!(from_app(location), CheckStep::Follow(target(authority, path)), "{shown}");
        }
        let CheckStep::Follow(next) = from_app(b"https://app/c") else { panic!("not followed") };
        assert_eq!((next.scheme.as_str(), next.authority.as_str()), ("https", "app"));
    }

    #[test]
    fn a_redirect_to_another_host_or_no_http_url_passes() {
        for location in [
            &b"http://login.example.com/"[..],
            b"//other/c",
            b"http://app.local:8080/",
            b"mailto:a@b",
            b"http://",
            b"http:/c",
        ] {
            assert_eq!(from_app(location), CheckStep::Result(Ok(())));
        }
    }

    #[test]
    fn a_redirect_to_an_invalid_location_fails() {
        for location in [&b"/a\nb"[..], b"\0", b"http://[::1/"] {
            assert_eq!(from_app(location), CheckStep::Result(Err(CheckFailure::Redirected)), "{location:?}");
        }
    }

    #[test]
    fn invalid_bytes_in_a_location_are_percent_encoded() {
        assert_eq!(from_app(b"/a b\xff"), CheckStep::Follow(target("app:8080", "/a%20b%FF")));
    }

    #[test]
    fn the_tenth_redirect_fails() {
        let at = |redirects| follow("app", &target("app", "/"), redirects, b"/");
        assert_eq!(at(8), CheckStep::Follow(target("app", "/")));
        assert_eq!(at(9), CheckStep::Result(Err(CheckFailure::Redirected)));
    }

    #[test]
    fn an_ipv6_address_is_a_host_name() {
        let from = target("[::1]:8080", "/");
        assert_eq!(follow("[::1]:8080", &from, 0, b"/c"), CheckStep::Follow(target("[::1]:8080", "/c")));
        assert_eq!(follow("[::1]:8080", &from, 0, b"http://[::2]:8080/"), CheckStep::Result(Ok(())));
    }
}
