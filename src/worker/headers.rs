//! The headers of the request at hand, which are host calls away.

use core::cell::OnceCell;
use std::borrow::Cow;

use crate::decision::action::{HeaderChange, HeaderEdit};
use crate::proxy::{Attribute, Map, Proxy};
use crate::value::request::{HeaderMap, Request};

/// Up to this many headers are read at once. That costs little more than to ask for one of them, and less than to ask for
/// two.
pub const READ_AT_ONCE: usize = 32;

/// The request of the current callback.
pub struct RequestHeaders<'p, P> {
    proxy: &'p P,
    few: bool,
    /// Read once, when the first header is asked for.
    all: OnceCell<Option<Vec<u8>>>,
}

impl<'p, P: Proxy> RequestHeaders<'p, P> {
    /// Creates a view of a request with so many headers.
    pub fn new(proxy: &'p P, count: usize) -> Self {
        RequestHeaders { proxy, few: count <= READ_AT_ONCE, all: OnceCell::new() }
    }
}

impl<P: Proxy> Request for RequestHeaders<'_, P> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.proxy.header(Map::RequestHeaders, name).map(Cow::Owned)
    }

    fn all_headers(&self) -> Option<HeaderMap<'_>> {
        let all = || if self.few { self.proxy.headers(Map::RequestHeaders) } else { None };
        self.all.get_or_init(all).as_deref().map(HeaderMap)
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        self.proxy.attribute(Attribute::SourceAddress).map(Cow::Owned)
    }
}

/// Applies edits to the headers of the message at hand. The proxy picks the route again after any edit of a request.
pub fn apply(proxy: &impl Proxy, map: Map, edits: &[HeaderEdit<'_>]) {
    for HeaderEdit { header, change } in edits {
        match change {
            HeaderChange::Set(value) => proxy.set_header(map, header, Some(value)),
            HeaderChange::Add(value) => proxy.add_header(map, header, value),
            HeaderChange::Remove => proxy.set_header(map, header, None),
        }
    }
}
