//! The request as the core sees it. The core reads header values by name, and only when a decision needs
//! them.

use core::cell::OnceCell;
use core::net::SocketAddr;
use std::borrow::Cow;

use super::baggage::{self, NotCarried};

/// A source of header values. In the filter each call is a host call that copies the value.
pub trait Request {
    /// Returns the value of a header by its lower-case name, including `:path`, `:method`, `:scheme` and
    /// `:authority`.
    ///
    /// Returns the first value of a repeated header. The proxy itself joins the cookies of an HTTP/2 request.
    /// The value may not be UTF-8.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// Returns all values of a repeated header, joined by commas. A request whose headers have been handed over needs none.
    fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(name)
    }

    /// Returns all headers if the proxy hands them over in one call. No header then costs a call of its own.
    fn all_headers(&self) -> Option<HeaderMap<'_>> {
        None
    }

    /// Returns the same, unless the path alone may suffice and nothing else has been read. Then a header by its name costs less.
    fn headers_at_hand(&self) -> Option<HeaderMap<'_>> {
        self.all_headers()
    }

    /// Returns the address that the request comes from, as `address:port`, or `None` if it is unknown. The
    /// port is 0 if the proxy took the address from a header.
    fn source(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// Returns whether the request's route leads to this cluster, as far as that is known before the filter edits
    /// headers. A request without a route leads to no cluster, and one of unknown route to any.
    fn is_routed_to(&self, _cluster: &str) -> bool {
        true
    }
}

/// All headers of a request, serialized by the proxy.
///
/// The bytes are the number of headers, the sizes of all names and values, then the names and values. A NUL
/// follows each name and each value. Numbers are 32 bits, little-endian. No bytes are no headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderMap<'b>(pub &'b [u8]);

/// Serializes headers in the form that [`HeaderMap`] reads, in which they are also handed to the proxy.
///
/// ```
/// use graygate::value::request::{HeaderMap, serialize};
///
/// let headers = [(":path", "/a"), ("x-user", "alice")];
/// let bytes = serialize(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
/// assert_eq!(HeaderMap(&bytes).get("x-user"), Some(&b"alice"[..]));
/// ```
pub fn serialize<'t>(headers: impl Iterator<Item = (&'t [u8], &'t [u8])> + Clone) -> Vec<u8> {
    let size = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let sizes = headers.clone().map(|(name, value)| name.len() + value.len() + 10);
    let mut bytes = Vec::with_capacity(4 + sizes.sum::<usize>());
    bytes.extend_from_slice(&size(headers.clone().count()));
    for (name, value) in headers.clone() {
        bytes.extend_from_slice(&size(name.len()));
        bytes.extend_from_slice(&size(value.len()));
    }
    for (name, value) in headers {
        for text in [name, value] {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
    }
    bytes
}

/// An iterator over the names and values of a [`HeaderMap`].
pub struct Pairs<'b> {
    bytes: &'b [u8],
    remaining: usize,
    /// The offset of the next pair's sizes.
    sizes_at: usize,
    /// The offset of the next pair's name.
    name_at: usize,
}

impl<'b> HeaderMap<'b> {
    /// Returns an iterator over names and values. It ends early if the bytes are malformed.
    pub fn iter(self) -> Pairs<'b> {
        let remaining = number(self.0, 0).unwrap_or_default();
        let name_at = remaining.saturating_mul(8).saturating_add(4);
        Pairs { bytes: self.0, remaining, sizes_at: 4, name_at }
    }

    /// Returns the first value of the header `name`.
    pub fn get(self, name: &str) -> Option<&'b [u8]> {
        let name = name.as_bytes();
        let mut name_at = number(self.0, 0)?.checked_mul(8)?.checked_add(4)?;
        let (sizes, _) = self.0.get(4..name_at)?.as_chunks::<4>();
        let mut sizes = sizes.iter().map(|size| u32::from_le_bytes(*size) as usize);
        while let (Some(name_size), Some(value_size)) = (sizes.next(), sizes.next()) {
            let value_at = name_at.checked_add(name_size)?.checked_add(1)?;
            let value_end = value_at.checked_add(value_size)?;
            // Most names differ in their sizes, which are close together.
            if name_size == name.len() && self.0.get(name_at..value_at - 1)? == name {
                return self.0.get(value_at..value_end);
            }
            name_at = value_end.checked_add(1)?;
        }
        None
    }

    /// Returns all values of the header `name`, joined by commas.
    pub fn joined(self, name: &str) -> Option<Cow<'b, [u8]>> {
        let mut values = self.iter().filter(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value);
        let mut joined = Cow::Borrowed(values.next()?);
        for value in values {
            let joined = joined.to_mut();
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(joined)
    }
}

impl<'b> Iterator for Pairs<'b> {
    type Item = (&'b [u8], &'b [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        let name_size = number(self.bytes, self.sizes_at)?;
        let value_size = number(self.bytes, self.sizes_at + 4)?;
        let name_end = self.name_at.checked_add(name_size)?;
        let value_end = name_end.checked_add(value_size)?.checked_add(1)?;
        let name = self.bytes.get(self.name_at..name_end)?;
        let value = self.bytes.get(name_end + 1..value_end)?;
        self.sizes_at += 8;
        self.name_at = value_end + 1;
        Some((name, value))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// A request that reads each header at most once and applies the edits made so far. A match sees the request
/// as it will be forwarded, not as it arrived.
pub struct Headers<'r, R> {
    request: &'r R,
    /// Names of headers that are hidden until an edit shows them, in ascending order.
    hidden: &'r [String],
    /// All headers, if the proxy has handed them over. Unset until the first read.
    all_headers: OnceCell<Option<HeaderMap<'r>>>,
    /// The value of `:path`, because it is read most often. No edit may change it.
    target: OnceCell<Option<PathAndQuery<'r>>>,
    /// The keys of members of `baggage` that are hidden until an edit shows them.
    hidden_members: &'r [String],
    /// The `baggage` with which the request arrived.
    received_baggage: OnceCell<Option<Cow<'r, [u8]>>>,
    /// Values that were read from the request or written by an edit.
    values: Vec<(&'r str, Option<Cow<'r, [u8]>>)>,
    /// The work that regular expressions may have taken so far. See [`super::string_match::StringMatch::work`].
    work: u32,
}

/// The value of `:path`.
struct PathAndQuery<'r> {
    value: Cow<'r, [u8]>,
    /// The size of the path without the query.
    path: usize,
}

/// The most work that regular expressions may take for one request. It is that of eight whose product of size and longest
/// value is the largest, which takes about ten milliseconds.
pub const MAX_WORK: u32 = 1_048_576;

impl<'r, R: Request> Headers<'r, R> {
    /// Wraps a request without reading any header. `hidden` names headers that count as absent until an edit
    /// shows them, in ascending order.
    pub fn new(request: &'r R, hidden: &'r [String]) -> Self {
        Self {
            request,
            hidden,
            hidden_members: &[],
            received_baggage: OnceCell::new(),
            all_headers: OnceCell::new(),
            target: OnceCell::new(),
            values: Vec::new(),
            work: 0,
        }
    }

    /// Names members of `baggage` that count as absent until an edit shows them.
    pub fn hiding_members(mut self, keys: &'r [String]) -> Self {
        self.hidden_members = keys;
        self
    }

    /// Records work that a regular expression may have taken.
    pub fn work(&mut self, work: u32) {
        self.work = self.work.saturating_add(work);
    }

    /// Returns whether regular expressions may have taken so much work that no further one is evaluated.
    pub fn has_worked_enough(&self) -> bool {
        self.work >= MAX_WORK
    }

    fn all(&self) -> Option<HeaderMap<'r>> {
        *self.all_headers.get_or_init(|| self.request.all_headers())
    }

    fn target(&self) -> Option<&PathAndQuery<'r>> {
        let read = || {
            let value = match self.request.headers_at_hand() {
                Some(all) => Cow::Borrowed(all.get(PATH)?),
                None => self.request.header(PATH)?,
            };
            let path = path(&value).len();
            Some(PathAndQuery { value, path })
        };
        self.target.get_or_init(read).as_ref()
    }

    /// Returns the path without its query.
    pub fn path(&self) -> Option<&[u8]> {
        self.target().and_then(|target| target.value.get(..target.path))
    }

    /// Returns the value of the header `name`, which is in lower case.
    pub fn get(&mut self, name: &'r str) -> Option<&[u8]> {
        if name == PATH {
            return self.target().map(|target| &*target.value);
        }
        self.get_other(name)
    }

    #[inline(never)]
    fn get_other(&mut self, name: &'r str) -> Option<&[u8]> {
        if let Some(known) = self.values.iter().position(|(known, _)| *known == name) {
            return self.values.get(known).and_then(|(_, value)| value.as_deref());
        }
        if self.is_hidden(name) {
            return None;
        }
        let value = if name == baggage::HEADER {
            self.visible_baggage()
        } else if let Some(all) = self.all() {
            return all.get(name);
        } else {
            self.request.header(name)
        };
        self.values.push((name, value));
        self.values.last().and_then(|(_, value)| value.as_deref())
    }

    /// Returns the `baggage` with which the request arrived. Its lines are joined by commas, as routes see them.
    fn received_baggage(&self) -> Option<&Cow<'r, [u8]>> {
        let read = || match self.all() {
            Some(all) => all.joined(baggage::HEADER),
            None => self.request.joined(baggage::HEADER),
        };
        self.received_baggage.get_or_init(read).as_ref()
    }

    /// Returns the `baggage` with which the request arrived, without hidden members.
    fn visible_baggage(&self) -> Option<Cow<'r, [u8]>> {
        let visible = self.without_hidden_members().map(Cow::Owned);
        visible.or_else(|| self.received_baggage().cloned()).filter(|visible| !visible.is_empty())
    }

    /// Returns the `baggage` with which the request arrived without its hidden members. Returns `None` if it has none of
    /// them.
    pub fn without_hidden_members(&self) -> Option<Vec<u8>> {
        if self.hidden_members.is_empty() {
            return None;
        }
        baggage::without(self.received_baggage()?, self.hidden_members)
    }

    /// Returns the value of the member of `baggage` with this key, percent-decoded.
    pub fn member(&mut self, key: &str) -> Option<Cow<'_, [u8]>> {
        self.get(baggage::HEADER).and_then(|header| baggage::value(header, key))
    }

    /// Returns whether `baggage` can carry this member. Shows it from now on if it can.
    pub fn set_member(&mut self, key: &str, value: &str) -> bool {
        let visible = self.get(baggage::HEADER).unwrap_or_default();
        let new = match baggage::with(visible, key, value) {
            Ok(Cow::Borrowed(_)) => return true,
            Ok(Cow::Owned(new)) => new,
            Err(NotCarried) => return false,
        };
        self.show_baggage(Some(new));
        true
    }

    /// Hides the member of `baggage` with this key from now on.
    pub fn remove_member(&mut self, key: &str) {
        let keys = [key.to_owned()];
        let visible = self.get(baggage::HEADER).unwrap_or_default();
        if let Some(rest) = baggage::without(visible, &keys) {
            self.show_baggage(Some(rest).filter(|rest| !rest.is_empty()));
        }
    }

    fn show_baggage(&mut self, value: Option<Vec<u8>>) {
        self.values.retain(|(known, _)| *known != baggage::HEADER);
        self.values.push((baggage::HEADER, value.map(Cow::Owned)));
    }

    /// Returns the `baggage` that is forwarded, if it is another one than arrived. It is empty if there is none. Reads it
    /// only if it has been read before, or if it may have hidden members.
    pub fn new_baggage(&mut self) -> Option<Vec<u8>> {
        if self.hidden_members.is_empty() && self.received_baggage.get().is_none() {
            return None;
        }
        let visible = self.get(baggage::HEADER).unwrap_or_default().to_vec();
        let received = self.received_baggage().map(|received| received.as_ref()).unwrap_or_default();
        (visible != received).then_some(visible)
    }

    fn is_hidden(&self, name: &str) -> bool {
        self.hidden.binary_search_by(|hidden| hidden.as_str().cmp(name)).is_ok()
    }

    /// Returns the first value of the cookie `name`.
    pub fn cookie(&mut self, name: &str) -> Option<&[u8]> {
        self.get("cookie").and_then(|header| cookie(header, name))
    }

    /// Returns the address that the request comes from. The port is 0 if the proxy took the address from a
    /// header.
    pub fn source(&self) -> Option<SocketAddr> {
        address(&self.request.source()?)
    }

    /// Returns whether the request's route leads to this cluster. Edits make no difference.
    pub fn is_routed_to(&self, cluster: &str) -> bool {
        self.request.is_routed_to(cluster)
    }

    /// Overrides the header `name` with this value from now on. With `None` the header counts as absent.
    pub fn override_visible(&mut self, name: &'r str, value: Option<Cow<'r, str>>) {
        self.values.retain(|(known, _)| *known != name);
        let into_bytes = |value| match value {
            Cow::Borrowed(text) => Cow::Borrowed(str::as_bytes(text)),
            Cow::Owned(text) => Cow::Owned(String::into_bytes(text)),
        };
        self.values.push((name, value.map(into_bytes)));
    }

    /// Returns the indexes of the hidden headers that the request arrived with and for which `matters` is
    /// true, whatever edits show. A few are asked for by their names if no other header has been read.
    pub fn received_hidden(&self, matters: impl Fn(&str) -> bool) -> Vec<usize> {
        if self.hidden.len() > BY_NAME
            && let Some(all) = self.all()
        {
            return self.received_of_many(all, matters);
        }
        let hidden = self.hidden.iter().enumerate().filter(|(_, name)| matters(name));
        hidden.filter(|(_, name)| self.has_received(name)).map(|(index, _)| index).collect()
    }

    fn has_received(&self, name: &str) -> bool {
        match self.request.headers_at_hand() {
            Some(all) => all.get(name).is_some(),
            None => self.request.header(name).is_some(),
        }
    }

    #[inline(never)]
    fn received_of_many(&self, all: HeaderMap<'_>, matters: impl Fn(&str) -> bool) -> Vec<usize> {
        let mut received = Vec::new();
        for (name, _) in all.iter() {
            let index = self.hidden.binary_search_by(|hidden| hidden.as_bytes().cmp(name)).ok();
            let matters = |index: &usize| self.hidden.get(*index).is_some_and(|name| matters(name));
            received.extend(index.filter(matters));
        }
        received.sort_unstable();
        received.dedup();
        received
    }
}

/// The most hidden headers that are asked for by their names. A request seldom has them, and to learn so costs a fraction of
/// reading all headers.
const BY_NAME: usize = 2;

/// The name under which the proxy has a request's path and query.
const PATH: &str = ":path";

/// The name under which the proxy has a request's `Host`.
pub const AUTHORITY: &str = ":authority";

/// The names that every request has in place of a request line.
pub const PSEUDO_HEADERS: [&str; 4] = [AUTHORITY, ":method", ":path", ":scheme"];

/// Returns the name under which the proxy has this header of a request. It keeps the `Host` header as `:authority`, and
/// a list of all headers has only that name.
pub fn canonical_name(name: String) -> String {
    if name == "host" { AUTHORITY.to_owned() } else { name }
}

/// Returns the address in an `address:port`. A listener for both IP versions maps IPv4 into IPv6. Such an
/// address is returned as IPv4.
pub fn address(source: &[u8]) -> Option<SocketAddr> {
    let mut source: SocketAddr = core::str::from_utf8(source).ok()?.parse().ok()?;
    source.set_ip(source.ip().to_canonical());
    Some(source)
}

/// Returns the path of a `:path` value, without its query.
pub fn path(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// Returns the values of the query parameter `name` in a `:path` value. They are not percent-decoded.
pub fn query_values<'t>(target: &'t [u8], name: &str) -> impl Iterator<Item = &'t [u8]> {
    let query = target.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    pairs(query.split(|byte| *byte == b'&'), name)
}

/// Returns the first value of the cookie `name` in a `cookie` header. Quotes are part of a value, as in RFC
/// 6265.
pub fn cookie<'c>(header: &'c [u8], name: &str) -> Option<&'c [u8]> {
    pairs(header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii), name).next()
}

fn pairs<'t>(parts: impl Iterator<Item = &'t [u8]>, name: &str) -> impl Iterator<Item = &'t [u8]> {
    parts.filter_map(move |part| {
        let mut name_and_value = part.splitn(2, |byte| *byte == b'=');
        let matches = name_and_value.next() == Some(name.as_bytes());
        matches.then(|| name_and_value.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
    fn query_values_are_found_by_their_whole_name() {
        let found: Vec<_> = query_values(b"/a?x=1&xx=2&x=3&y&x", "x").collect();
        assert_eq!(found, [&b"1"[..], b"3", b""]);
        assert_eq!(query_values(b"/a", "x").count(), 0);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name_and_may_hold_any_bytes() {
        let header = b"theme=dark; user=a=b; xuser=no;user=second; bad\xff=1; bare";
        assert_eq!(cookie(header, "user"), Some(&b"a=b"[..]));
        assert_eq!(cookie(header, "theme"), Some(&b"dark"[..]));
        assert_eq!(cookie(header, "bare"), Some(&b""[..]));
        assert_eq!(cookie(header, "none"), None);
        assert_eq!(cookie(b"", "user"), None);
    }

    fn serialized(headers: &[(&str, &[u8])]) -> Vec<u8> {
        serialize(headers.iter().map(|(name, value)| (name.as_bytes(), *value)))
    }

    #[test]
    fn a_header_map_returns_each_pair_and_the_first_value_of_a_repeated_header() {
        let headers = [(":path", &b"/a"[..]), ("x", b""), ("y", b"\xff\0z"), ("x", b"second")];
        let bytes = serialized(&headers);
        let map = HeaderMap(&bytes);
        let pairs: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
        assert_eq!(map.iter().collect::<Vec<_>>(), pairs);
        assert_eq!((map.get("x"), map.get("y")), (Some(&b""[..]), Some(&b"\xff\0z"[..])));
        assert_eq!((map.get("z"), HeaderMap(&serialized(&[])).get("x")), (None, None));
    }

    #[test]
    fn a_truncated_or_malformed_header_map_ends_early() {
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

    /// A request with all its headers handed over, or none.
    struct TestRequest(Option<Vec<u8>>);

    impl Request for TestRequest {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            assert!(self.0.is_none(), "asked for {name}, which is at hand");
            (name != "absent").then_some(Cow::Borrowed(b"asked"))
        }

        fn all_headers(&self) -> Option<HeaderMap<'_>> {
            self.0.as_deref().map(HeaderMap)
        }
    }

    #[test]
    fn a_hidden_header_is_absent_until_an_edit_shows_it_and_is_reported_as_received() {
        let hidden = ["absent", "steer", "x"].map(str::to_owned);
        let all = serialized(&[("steer", b"v2"), (":path", b"/"), ("steer", b"v3"), ("x", b"1")]);
        for request in [TestRequest(Some(all)), TestRequest(None)] {
            let mut headers = Headers::new(&request, &hidden);
            assert_eq!(headers.get("steer"), None);
            assert_eq!(headers.received_hidden(|_| true), [1, 2]);
            assert_eq!(headers.received_hidden(|name| name != "steer"), [2]);
            headers.override_visible("steer", Some("v1".into()));
            assert_eq!(headers.get("steer"), Some(&b"v1"[..]));
        }
    }

    /// A request that hands over all headers, but of which nothing has been read yet.
    struct Unread {
        all: Vec<u8>,
        /// The names by which it was asked for headers, or `*` for all of them.
        asked: RefCell<Vec<String>>,
    }

    impl Request for Unread {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.asked.borrow_mut().push(name.to_owned());
            HeaderMap(&self.all).get(name).map(Cow::Borrowed)
        }

        fn all_headers(&self) -> Option<HeaderMap<'_>> {
            self.asked.borrow_mut().push("*".to_owned());
            Some(HeaderMap(&self.all))
        }

        fn headers_at_hand(&self) -> Option<HeaderMap<'_>> {
            None
        }
    }

    #[test]
    fn the_path_and_a_few_hidden_headers_are_read_by_their_names_and_anything_else_with_all() {
        let all = serialized(&[(":path", b"/a?b"), ("steer", b"v2"), ("x", b"1")]);
        for (hidden, received, asked) in [
            (&[][..], &[][..], ":path"),
            (&["steer"], &[0], ":path steer"),
            (&["absent", "steer"], &[1], ":path absent steer"),
            (&["absent", "other", "steer"], &[2], ":path *"),
        ] {
            let request = Unread { all: all.clone(), asked: RefCell::default() };
            let hidden: Vec<String> = hidden.iter().map(|name| (*name).to_owned()).collect();
            let mut headers = Headers::new(&request, &hidden);
            assert_eq!(headers.path(), Some(&b"/a"[..]));
            assert_eq!(headers.get(":path"), Some(&b"/a?b"[..]));
            assert_eq!(headers.received_hidden(|_| true), received);
            assert_eq!(request.asked.borrow().join(" "), asked);
            assert_eq!(headers.get("x"), Some(&b"1"[..]));
            assert!(request.asked.borrow().last().is_some_and(|last| last == "*"));
        }
    }
}
