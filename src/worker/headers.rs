//! The headers of the current message. Reading or editing them takes host calls, so their number is kept low.

use core::cell::OnceCell;
use std::borrow::Cow;

use super::forwarded::RequestTraits;
use crate::decision::action::{HeaderChange, HeaderEdit};
use crate::proxy::{Attribute, Map, Proxy};
use crate::value::deadline::CallerDeadline;
use crate::value::request::{AUTHORITY, HeaderMap, Request};

/// The maximum number of headers that are read in one call. Reading so many costs little more than reading one header by
/// name, and less than reading two.
pub const READ_AT_ONCE: usize = 32;

/// The headers and the source of the current request.
pub struct RequestHeaders<'p, P> {
    proxy: &'p P,
    few: bool,
    /// All headers. They are read once, when the first header is needed.
    all: OnceCell<Option<Vec<u8>>>,
    /// The authority, if it was read by name. The VM reads it first, to find the worker.
    authority: OnceCell<Option<Vec<u8>>>,
    /// The cluster of the request's route. It is read once, when a gate asks for it.
    cluster: OnceCell<Option<Vec<u8>>>,
}

impl<'p, P: Proxy> RequestHeaders<'p, P> {
    /// Creates a view of the current request, which has `count` headers.
    pub fn new(proxy: &'p P, count: usize) -> Self {
        RequestHeaders {
            proxy,
            few: count <= READ_AT_ONCE,
            all: OnceCell::new(),
            authority: OnceCell::new(),
            cluster: OnceCell::new(),
        }
    }
}

impl<P: Proxy> RequestHeaders<'_, P> {
    /// Returns the authority.
    pub fn authority(&self) -> Option<Cow<'_, [u8]>> {
        match self.all_headers() {
            Some(all) => all.get(AUTHORITY).map(Cow::Borrowed),
            None => self.header(AUTHORITY),
        }
    }

    /// Returns what the headers tell about how the request may end. `whole` tells whether the whole request has come.
    pub fn traits(&self, whole: bool) -> RequestTraits {
        let get = |name: &str| match self.all_headers() {
            Some(all) => all.get(name).map(<[u8]>::to_vec),
            None => self.proxy.header(Map::RequestHeaders, name),
        };
        let is_upgrade = || {
            get("upgrade").is_some()
                || get(":protocol").is_some()
                || get(":method").is_some_and(|method| method == b"CONNECT")
        };
        RequestTraits { deadline: CallerDeadline::read(get), is_upgrade: !whole && is_upgrade() }
    }
}

impl<P: Proxy> Request for RequestHeaders<'_, P> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let read = || self.proxy.header(Map::RequestHeaders, name);
        if name == AUTHORITY {
            return self.authority.get_or_init(read).as_deref().map(Cow::Borrowed);
        }
        read().map(Cow::Owned)
    }

    fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        // By its name, the proxy returns only the first value.
        let all = self.proxy.headers(Map::RequestHeaders)?;
        HeaderMap(&all).joined(name).map(|value| Cow::Owned(value.into_owned()))
    }

    fn all_headers(&self) -> Option<HeaderMap<'_>> {
        let all = || if self.few { self.proxy.headers(Map::RequestHeaders) } else { None };
        self.all.get_or_init(all).as_deref().map(HeaderMap)
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        self.proxy.attribute(Attribute::SourceAddress).map(Cow::Owned)
    }

    fn is_routed_to(&self, cluster: &str) -> bool {
        let own = self.cluster.get_or_init(|| self.proxy.attribute(Attribute::Cluster));
        own.as_deref() == Some(cluster.as_bytes())
    }
}

/// Applies edits to the headers of the current message. After any edit of a request, the proxy picks its route again.
pub fn apply(proxy: &impl Proxy, map: Map, edits: &[HeaderEdit<'_>]) {
    for HeaderEdit { header, change } in edits {
        match change {
            HeaderChange::Set(value) => proxy.set_header(map, header, Some(value.as_bytes())),
            HeaderChange::SetBytes(value) => proxy.set_header(map, header, Some(value)),
            HeaderChange::Add(value) => proxy.add_header(map, header, value),
            HeaderChange::Remove => proxy.set_header(map, header, None),
        }
    }
}
