//! A proxy with one request at a time, which costs as little as possible itself.

use core::hint::black_box;
use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use graygate::decision::reply::Reply;
use graygate::proxy::{
    Attribute, Body, CallId, ExchangeId, Level, Map, MetricId, MetricKind, NotSent, Proxy, StoreError,
    StoreVersion, Stored,
};
use graygate::value::date::Date;
use graygate::value::request::serialize;
use graygate::value::time::Time;

/// The headers of a message, by name.
pub type Pairs = [(&'static str, &'static str)];

/// A proxy whose requests and responses to calls are set from outside.
#[derive(Default)]
pub struct StillProxy {
    document: String,
    /// The time in milliseconds, by both clocks.
    pub now: Cell<u64>,
    /// The id of the last call, which ends with status 200.
    pub calls: Cell<u32>,
    /// How many times bytes were handed over, each with an allocation.
    pub handed_over: Cell<usize>,
    headers: Cell<&'static Pairs>,
    all: RefCell<Vec<u8>>,
    store: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    metrics: Cell<u32>,
}

impl StillProxy {
    /// Creates a proxy whose root has this document, in JSON.
    pub fn new(document: String) -> Self {
        StillProxy { document, ..StillProxy::default() }
    }

    /// Sets the headers of the current request.
    pub fn take(&self, headers: &'static Pairs) {
        let bytes = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        *self.all.borrow_mut() = serialize(bytes);
        self.headers.set(headers);
    }

    fn hand_over(&self, bytes: &[u8]) -> Vec<u8> {
        self.handed_over.set(self.handed_over.get() + 1);
        bytes.to_vec()
    }
}

impl Proxy for &'static StillProxy {
    fn now(&self) -> Time {
        Time::from_millis(self.now.get())
    }

    fn date(&self) -> Date {
        Date::from_millis(1_767_225_600_000 + self.now.get())
    }

    fn random(&self) -> u64 {
        7
    }

    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>> {
        if map == Map::CallResponseHeaders {
            return (name == ":status").then(|| b"200".to_vec());
        }
        let (_, value) = self.headers.get().iter().find(|(known, _)| *known == name)?;
        Some(self.hand_over(value.as_bytes()))
    }

    fn headers(&self, map: Map) -> Option<Vec<u8>> {
        match map {
            Map::RequestHeaders => Some(self.hand_over(&self.all.borrow())),
            _ => None,
        }
    }

    fn set_header(&self, _: Map, _: &str, _: Option<&[u8]>) {}

    fn add_header(&self, _: Map, _: &str, _: &str) {}

    fn replace_headers(&self, _: Map, _: &[(&str, &str)]) {}

    fn body(&self, body: Body, _: usize) -> Vec<u8> {
        if body == Body::Configuration { self.document.clone().into_bytes() } else { Vec::new() }
    }

    fn replace_body(&self, _: Body, _: usize, _: &[u8]) {}

    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>> {
        match attribute {
            Attribute::Cluster => Some(self.hand_over(b"app")),
            Attribute::SourceAddress => Some(self.hand_over(b"127.0.0.1:50000")),
            _ => None,
        }
    }

    fn enter(&self, _: ExchangeId) -> bool {
        true
    }

    fn leave(&self) {}

    fn reply(&self, reply: &Reply) -> bool {
        // As the filter's own does.
        black_box(reply.serialized_headers());
        true
    }

    fn resume(&self) {}

    fn set_filter_state(&self, _: &str, _: &str) {}

    fn set_label(&self, _: &str) {}

    fn load(&self, key: &str) -> Stored {
        match self.store.borrow().get(key) {
            Some((bytes, version)) => {
                Stored { bytes: Some(bytes.clone()), version: Some(StoreVersion(*version)) }
            }
            None => Stored::default(),
        }
    }

    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError> {
        let version = seen.map_or(0, |version| version.0) + 1;
        self.store.borrow_mut().insert(key.to_owned(), (bytes.to_vec(), version));
        Ok(())
    }

    fn http_call(&self, _: &str, _: &[(&str, &str)], _: &[u8], _: Duration) -> Result<CallId, NotSent> {
        self.calls.set(self.calls.get() + 1);
        Ok(CallId(self.calls.get()))
    }

    fn metric(&self, _: MetricKind, _: &str) -> Option<MetricId> {
        self.metrics.set(self.metrics.get() + 1);
        Some(MetricId(self.metrics.get()))
    }

    fn add(&self, _: MetricId, _: u64) {}

    fn set(&self, _: MetricId, _: u64) {}

    fn log(&self, _: Level, _: &str) {}

    fn tick_every(&self, _: Duration) {}
}
