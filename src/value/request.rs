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

/// The names and values of a map that are left to see.
pub struct Pairs<'b> {
    bytes: &'b [u8],
    left: usize,
    /// Where the next one's sizes are.
    sizes: usize,
    /// Where it is.
    at: usize,
}

impl<'b> HeaderMap<'b> {
    /// Names and values. Ends early should the bytes not be what they are to be.
    pub fn iter(self) -> Pairs<'b> {
        let left = number(self.0, 0).unwrap_or_default();
        Pairs { bytes: self.0, left, sizes: 4, at: left.saturating_mul(8).saturating_add(4) }
    }

    /// The first value of the header `name`.
    pub fn get(self, name: &str) -> Option<&'b [u8]> {
        self.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
    }
}

impl<'b> Iterator for Pairs<'b> {
    type Item = (&'b [u8], &'b [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (name, value) = (number(self.bytes, self.sizes)?, number(self.bytes, self.sizes + 4)?);
        let end = self.at.checked_add(name)?;
        let last = end.checked_add(value)?.checked_add(1)?;
        let pair = (self.bytes.get(self.at..end)?, self.bytes.get(end + 1..last)?);
        (self.sizes, self.at) = (self.sizes + 8, last + 1);
        Some(pair)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// A request whose headers are each asked for once at most, and which shows what was decided on it so far:
/// a match sees the request as it will go on, not as it came.
pub struct Headers<'r, R> {
    request: &'r R,
    /// Names of headers that are not shown as they came, in ascending order.
    hidden: &'r [String],
    /// All headers, once it is known whether they are at hand.
    at_hand: OnceCell<Option<HeaderMap<'r>>>,
    /// The path of those at hand, which is asked for the most often. No edit may change it.
    path: OnceCell<Option<&'r [u8]>>,
    /// What was asked for, and what is shown instead.
    seen: Vec<(&'r str, Option<Cow<'r, [u8]>>)>,
}

impl<'r, R: Request> Headers<'r, R> {
    /// Nothing asked for yet. `hidden` are headers that are as good as absent, in ascending order, until they are shown.
    pub fn new(request: &'r R, hidden: &'r [String]) -> Self {
        Self { request, hidden, at_hand: OnceCell::new(), path: OnceCell::new(), seen: Vec::new() }
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
            return match name {
                ":path" => *self.path.get_or_init(|| all.get(name)),
                name => all.get(name),
            };
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

    /// The indexes of those hidden headers that the request came with, whatever is shown now, and that `matter`. Any that
    /// is not at hand is asked for.
    pub fn hidden_that_came(&self, matter: impl Fn(&str) -> bool) -> Vec<usize> {
        let matters = |index: &usize| self.hidden.get(*index).is_some_and(|name| matter(name));
        if self.hidden.is_empty() {
            return Vec::new();
        }
        let Some(all) = self.all() else {
            let came = |name: &String| matter(name) && self.request.header(name).is_some();
            let hidden = self.hidden.iter().enumerate();
            return hidden.filter(|(_, name)| came(name)).map(|(index, _)| index).collect();
        };
        let mut came = Vec::new();
        for (name, _) in all.iter() {
            let index = self.hidden.binary_search_by(|hidden| hidden.as_bytes().cmp(name)).ok();
            came.extend(index.filter(matters));
        }
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

    /// As the proxy hands them over.
    fn serialized(headers: &[(&str, &[u8])]) -> Vec<u8> {
        let size = |text: &[u8]| u32::try_from(text.len()).unwrap().to_le_bytes();
        let mut bytes = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
        for (name, value) in headers {
            bytes.extend([size(name.as_bytes()), size(value)].concat());
        }
        for (name, value) in headers {
            bytes.extend([name.as_bytes(), b"\0", value, b"\0"].concat());
        }
        bytes
    }

    #[test]
    fn a_map_has_each_header_and_the_first_value_of_one_that_is_repeated() {
        let headers = [(":path", &b"/a"[..]), ("x", b""), ("y", b"\xff\0z"), ("x", b"second")];
        let bytes = serialized(&headers);
        let map = HeaderMap(&bytes);
        let pairs: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
        assert_eq!(map.iter().collect::<Vec<_>>(), pairs);
        assert_eq!((map.get("x"), map.get("y")), (Some(&b""[..]), Some(&b"\xff\0z"[..])));
        assert_eq!((map.get("z"), HeaderMap(&serialized(&[])).get("x")), (None, None));
    }

    #[test]
    fn a_map_that_is_cut_off_or_lies_about_its_sizes_ends_early() {
        let bytes = serialized(&[(":path", b"/a"), ("x", b"1")]);
        for end in 0..bytes.len() - 1 {
            assert!(HeaderMap(&bytes[..end]).iter().count() < 2, "{end}");
        }
        for at in 0..20 {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            HeaderMap(&bytes).iter().count();
        }
    }

    /// A request whose headers are at hand, or not.
    struct Came(Option<Vec<u8>>);

    impl Request for Came {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            assert!(self.0.is_none(), "asked for {name}, which is at hand");
            (name != "absent").then_some(Cow::Borrowed(b"asked"))
        }

        fn at_hand(&self) -> Option<HeaderMap<'_>> {
            self.0.as_deref().map(HeaderMap)
        }
    }

    #[test]
    fn a_hidden_header_is_absent_until_it_is_shown_and_known_to_have_come() {
        let hidden = ["absent", "steer", "x"].map(str::to_owned);
        let all = serialized(&[("steer", b"v2"), (":path", b"/"), ("steer", b"v3"), ("x", b"1")]);
        for request in [Came(Some(all)), Came(None)] {
            let mut headers = Headers::new(&request, &hidden);
            assert_eq!(headers.get("steer"), None);
            assert_eq!(headers.hidden_that_came(|_| true), [1, 2]);
            assert_eq!(headers.hidden_that_came(|name| name != "steer"), [2]);
            headers.show("steer", Some("v1".into()));
            assert_eq!(headers.get("steer"), Some(&b"v1"[..]));
        }
    }
}
