//! The request, as the core sees it: header values by name, asked for only when a decision needs them.

use core::net::SocketAddr;
use std::borrow::Cow;

/// Where header values come from. In the filter each call is a host call that copies the value.
pub trait Request {
    /// The value of a header by its lower-case name; `:path`, `:method`, `:scheme` and `:authority` are
    /// headers too. Of a header that is repeated it is the first value; the proxy itself joins the cookies of
    /// an HTTP/2 request. Bytes: nobody has checked that they are UTF-8.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// Where the request comes from, as `address:port`; the port is 0 where the proxy took the address from a
    /// header. Nothing where that is not known.
    fn source(&self) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// A request whose headers are each asked for once at most, and which shows what was decided on it so far:
/// a match sees the request as it will go on, not as it came.
pub struct Headers<'r, R> {
    request: &'r R,
    seen: Vec<(&'r str, Option<Cow<'r, [u8]>>)>,
}

impl<'r, R: Request> Headers<'r, R> {
    /// Nothing asked for yet.
    pub fn new(request: &'r R) -> Self {
        Self { request, seen: Vec::new() }
    }

    /// The value of the header `name`, in lower case.
    pub fn get(&mut self, name: &'r str) -> Option<&[u8]> {
        let known = self.seen.iter().position(|(seen, _)| *seen == name);
        let index = known.unwrap_or_else(|| {
            self.seen.push((name, self.request.header(name)));
            self.seen.len() - 1
        });
        self.seen.get(index).and_then(|(_, value)| value.as_deref())
    }

    /// The first value of the cookie `name`.
    pub fn cookie(&mut self, name: &str) -> Option<&[u8]> {
        self.get("cookie").and_then(|header| cookie(header, name))
    }

    /// Where the request comes from; the port is 0 where the proxy took the address from a header.
    pub fn source(&self) -> Option<SocketAddr> {
        address(&self.request.source()?)
    }

    /// Shows the header `name` with this value from now on, or as absent.
    pub fn show(&mut self, name: &'r str, value: Option<Cow<'r, str>>) {
        self.seen.retain(|(seen, _)| *seen != name);
        let bytes = |value| match value {
            Cow::Borrowed(text) => Cow::Borrowed(str::as_bytes(text)),
            Cow::Owned(text) => Cow::Owned(String::into_bytes(text)),
        };
        self.seen.push((name, value.map(bytes)));
    }

    /// Whether the request came with the header `name`, whatever is shown now.
    pub fn came_with(&self, name: &str) -> bool {
        self.request.header(name).is_some()
    }
}

/// The address in an `address:port`. A version 4 address that a listener for both versions has mapped into
/// version 6 is the same one.
pub fn address(source: &[u8]) -> Option<SocketAddr> {
    let mut source: SocketAddr = core::str::from_utf8(source).ok()?.parse().ok()?;
    source.set_ip(source.ip().to_canonical());
    Some(source)
}

/// The path of a `:path` value, without its query.
pub fn path(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// The values of the query parameter `name` in a `:path` value, as written: nothing is percent-decoded.
pub fn query_values<'t>(target: &'t [u8], name: &str) -> impl Iterator<Item = &'t [u8]> {
    let query = target.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    pairs(query.split(|byte| *byte == b'&'), name)
}

/// The first value of the cookie `name` in a `cookie` header. Quotes are part of a value, as in RFC 6265.
pub fn cookie<'c>(header: &'c [u8], name: &str) -> Option<&'c [u8]> {
    pairs(header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii), name).next()
}

fn pairs<'t>(parts: impl Iterator<Item = &'t [u8]>, name: &str) -> impl Iterator<Item = &'t [u8]> {
    parts.filter_map(move |part| {
        let mut halves = part.splitn(2, |byte| *byte == b'=');
        let matches = halves.next() == Some(name.as_bytes());
        matches.then(|| halves.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_path_ends_where_its_query_starts() {
        assert_eq!(path(b"/livez?verbose=1?x"), b"/livez");
        assert_eq!(path(b"/livez"), b"/livez");
        assert_eq!(path(b""), b"");
    }

    #[test]
    fn query_values_are_found_by_whole_name() {
        let found: Vec<_> = query_values(b"/a?x=1&xx=2&x=3&y&x", "x").collect();
        assert_eq!(found, [&b"1"[..], b"3", b""]);
        assert_eq!(query_values(b"/a", "x").count(), 0);
    }

    #[test]
    fn cookies_are_found_by_whole_name_and_may_hold_any_bytes() {
        let header = b"theme=dark; user=a=b; xuser=no;user=second; bad\xff=1; bare";
        assert_eq!(cookie(header, "user"), Some(&b"a=b"[..]));
        assert_eq!(cookie(header, "theme"), Some(&b"dark"[..]));
        assert_eq!(cookie(header, "bare"), Some(&b""[..]));
        assert_eq!(cookie(header, "none"), None);
        assert_eq!(cookie(b"", "user"), None);
    }
}
