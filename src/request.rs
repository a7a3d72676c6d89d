//! The request, as the core sees it: header values by name, asked for only when a decision needs them.

use core::cell::OnceCell;
use core::net::SocketAddr;
use std::borrow::Cow;

/// Where header values come from. In the filter each call is a host call that copies the value.
pub trait Request {
    /// The value of a header by its lower-case name; `:path`, `:method`, `:scheme` and `:authority` are
    /// headers too. Of a header that is repeated it is the first value; the proxy itself joins the cookies of
    /// an HTTP/2 request. Bytes: nobody has checked that they are UTF-8.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// All headers, where they are at hand: then none has to be asked for.
    fn at_hand(&self) -> Option<HeaderMap<'_>> {
        None
    }

    /// Where the request comes from, as `address:port`; the port is 0 where the proxy took the address from a
    /// header. Nothing where that is not known.
    fn source(&self) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Headers as the proxy hands over all of them: how many there are, the sizes of all names and values, and then these,
/// each with a NUL behind. Numbers are 32 bits, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct HeaderMap<'b>(pub &'b [u8]);

impl<'b> HeaderMap<'b> {
    /// Names and values. Ends early should the bytes not be what they are to be.
    pub fn iter(self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        let number = |at: usize| {
            let bytes = self.0.get(at..at.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let count = number(0).unwrap_or_default();
        let mut sizes = 4;
        let mut at = count.saturating_mul(8).saturating_add(4);
        (0..count).map_while(move |_| {
            let (name, value) = (number(sizes)?, number(sizes + 4)?);
            let end = at.checked_add(name)?;
            let last = end.checked_add(value)?.checked_add(1)?;
            let pair = (self.0.get(at..end)?, self.0.get(end + 1..last)?);
            (sizes, at) = (sizes + 8, last + 1);
            Some(pair)
        })
    }

    /// The first value of the header `name`.
    pub fn get(self, name: &str) -> Option<&'b [u8]> {
        self.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
    }
}

/// A request whose headers are each asked for once at most, and which shows what was decided on it so far:
/// a match sees the request as it will go on, not as it came.
pub struct Headers<'r, R> {
    request: &'r R,
    /// Names of headers that are not shown as they came, in ascending order.
    hidden: &'r [String],
    /// All headers, once it is known whether they are at hand.
    at_hand: OnceCell<Option<HeaderMap<'r>>>,
    /// What was asked for, and what is shown instead.
    seen: Vec<(&'r str, Option<Cow<'r, [u8]>>)>,
}

impl<'r, R: Request> Headers<'r, R> {
    /// Nothing asked for yet. `hidden` are headers that are as good as absent, in ascending order, until they are shown.
    pub fn new(request: &'r R, hidden: &'r [String]) -> Self {
        Self { request, hidden, at_hand: OnceCell::new(), seen: Vec::new() }
    }

    fn all(&self) -> Option<HeaderMap<'r>> {
        *self.at_hand.get_or_init(|| self.request.at_hand())
    }

    /// The value of the header `name`, in lower case.
    pub fn get(&mut self, name: &'r str) -> Option<&[u8]> {
        let known = self.seen.iter().position(|(seen, _)| *seen == name);
        if known.is_none() && self.is_hidden(name) {
            return None;
        }
        if let (None, Some(all)) = (known, self.all()) {
            return all.get(name);
        }
        let index = known.unwrap_or_else(|| {
            self.seen.push((name, self.request.header(name)));
            self.seen.len() - 1
        });
        self.seen.get(index).and_then(|(_, value)| value.as_deref())
    }

    fn is_hidden(&self, name: &str) -> bool {
        self.hidden.binary_search_by(|hidden| hidden.as_str().cmp(name)).is_ok()
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

    /// The places of those hidden headers that the request came with, whatever is shown now, and that `matter`. Any that
    /// is not at hand is asked for.
    pub fn hidden_that_came(&self, matter: impl Fn(&str) -> bool) -> Vec<usize> {
        let matters = |place: &usize| self.hidden.get(*place).is_some_and(|name| matter(name));
        if self.hidden.is_empty() {
            return Vec::new();
        }
        let Some(all) = self.all() else {
            let came = |name: &String| matter(name) && self.request.header(name).is_some();
            let hidden = self.hidden.iter().enumerate();
            return hidden.filter(|(_, name)| came(name)).map(|(place, _)| place).collect();
        };
        if self.hidden.is_empty() {
            return Vec::new();
        }
        let place =
            |(name, _): (&[u8], _)| self.hidden.binary_search_by(|hidden| hidden.as_bytes().cmp(name)).ok();
        let mut came: Vec<usize> = all.iter().filter_map(place).filter(matters).collect();
        came.sort_unstable();
        came.dedup();
        came
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
