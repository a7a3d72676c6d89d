//! The headers of the current message. Reading or editing them takes host calls, so their number is kept low.

use core::cell::{Cell, OnceCell};
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
    /// Whether the path is read by its name, because no other header may be needed.
    path_first: Cell<bool>,
    /// Whether another header than the path was needed.
    needed_more: Cell<bool>,
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
            path_first: Cell::new(false),
            needed_more: Cell::new(false),
            all: OnceCell::new(),
            authority: OnceCell::new(),
            cluster: OnceCell::new(),
        }
    }
}

impl<P: Proxy> RequestHeaders<'_, P> {
    /// Has the path read by its name, unless all headers have been read.
    pub fn read_path_first(&self) {
        self.path_first.set(self.all.get().is_none());
    }

    /// Returns whether the path was the only header that was needed, besides such as the request must not have. Returns `None` if
    /// that makes no difference, because the request has many headers.
    pub fn path_sufficed(&self) -> Option<bool> {
        self.few.then(|| !self.needed_more.get())
    }

    fn read_all(&self) -> Option<HeaderMap<'_>> {
        let all = || if self.few { self.proxy.headers(Map::RequestHeaders) } else { None };
        self.all.get_or_init(all).as_deref().map(HeaderMap)
    }

    /// Returns the authority.
    pub fn authority(&self) -> Option<Cow<'_, [u8]>> {
        match self.all_headers() {
            Some(all) => all.get(AUTHORITY).map(Cow::Borrowed),
            None => self.header(AUTHORITY),
        }
    }

    /// Returns what the headers tell about how the request may end. `whole` tells whether the whole request has come. Few
    /// requests have such headers, and to be told that four are absent costs less than to be handed all headers. A request
    /// of which a part is still to come may be an upgrade, and its method is read as well.
    pub fn traits(&self, whole: bool) -> RequestTraits {
        let all = if whole { self.headers_read() } else { self.all_headers() };
        let get = |name: &str| match all {
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

    /// Returns all headers if they have been read.
    fn headers_read(&self) -> Option<HeaderMap<'_>> {
        self.all.get()?.as_deref().map(HeaderMap)
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
        self.needed_more.set(true);
        self.read_all()
    }

    fn headers_at_hand(&self) -> Option<HeaderMap<'_>> {
        if self.path_first.get() && self.all.get().is_none() { None } else { self.read_all() }
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        self.proxy.attribute(Attribute::SourceAddress).map(Cow::Owned)
    }

    fn is_routed_to(&self, cluster: &str) -> bool {
        let own = self.cluster.get_or_init(|| self.proxy.attribute(Attribute::Cluster));
        own.as_deref() == Some(cluster.as_bytes())
    }
}

/// How a worker reads the headers of its next request, learnt from those before.
///
/// All headers cost about twice as much as the path. Both cost three times as much. So the path is read first if more than two
/// of three requests needed nothing else.
#[derive(Default)]
pub struct ReadingHabit {
    /// Rises by one with a request that needs the path alone, and falls by two with any other.
    score: u8,
}

/// The score from which on the path is read first. The first requests of a worker need as many by the path alone.
const PATH_FIRST: u8 = 8;

impl ReadingHabit {
    /// Returns whether the path is read first.
    pub fn is_path_first(&self) -> bool {
        self.score >= PATH_FIRST
    }

    /// Takes whether the path sufficed for a request.
    pub fn learn(&mut self, path_sufficed: bool) {
        self.score =
            if path_sufficed { (self.score + 1).min(2 * PATH_FIRST) } else { self.score.saturating_sub(2) };
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

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Returns how many of 999 requests have their path read first if the path suffices for `sufficed` of three.
    fn path_first(sufficed: usize) -> usize {
        let mut habit = ReadingHabit::default();
        let mut count = 0;
        for number in 0..999 {
            count += usize::from(habit.is_path_first());
            habit.learn(number % 3 < sufficed);
        }
        count
    }

    #[test]
    fn the_path_is_read_first_once_it_has_sufficed_for_more_than_two_of_three_requests() {
        assert_eq!([0, 1, 2, 3].map(path_first), [0, 0, 0, 991]);
    }

    #[test]
    fn a_worker_forgets_its_habit_within_five_requests() {
        let mut habit = ReadingHabit::default();
        (0..100).for_each(|_| habit.learn(true));
        let path_first = [false; 6].map(|sufficed| {
            habit.learn(sufficed);
            habit.is_path_first()
        });
        assert_eq!(path_first, [true, true, true, true, false, false]);
    }
}
