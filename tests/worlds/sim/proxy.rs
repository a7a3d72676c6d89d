//! The proxy that a worker sees.

use std::rc::Rc;
use std::time::Duration;

use graygate::decision::reply::Reply;
use graygate::policy::module::ModuleKind;
use graygate::proxy::{
    Attribute, Body, CallId, ExchangeId, Level, Map, MetricId, MetricKind, NotSent, Proxy, StoreError,
    StoreVersion, Stored,
};
use graygate::value::date::Date;
use graygate::value::request;
use graygate::value::time::Time;

use super::call::CallEnd;
use super::request::{Answer, Stream};
use super::surroundings::{Phase, Surroundings, Written, text};
use super::world::root_id;

/// The proxy, as one worker sees it.
pub struct SimProxy {
    pub(super) world: Rc<Surroundings>,
    pub(super) vm: usize,
    pub(super) root: usize,
}

impl SimProxy {
    fn with_map<T>(&self, map: Map, act: impl FnOnce(&mut Vec<(String, Vec<u8>)>) -> T) -> Option<T> {
        let at_hand = match map {
            Map::RequestHeaders => self.world.phase.get() == Phase::Request || self.is_paused(),
            Map::ResponseHeaders => self.world.phase.get() == Phase::Response,
            Map::ResponseTrailers => matches!(self.world.phase.get(), Phase::Trailers | Phase::ResponseBody),
            Map::CallResponseHeaders | Map::CallResponseTrailers => self.world.phase.get() == Phase::Call,
        };
        if !at_hand {
            self.world.misread.borrow_mut().push(format!("{map:?} in {:?}", self.world.phase.get()));
            return None;
        }
        if matches!(map, Map::CallResponseHeaders | Map::CallResponseTrailers) {
            let mut call = self.world.call.borrow_mut();
            let CallEnd { headers, trailers, .. } = call.as_mut()?;
            let map = if map == Map::CallResponseHeaders { headers } else { trailers };
            return (!map.is_empty()).then(|| act(map));
        }
        let mut streams = self.world.streams.borrow_mut();
        let stream = streams.get_mut(&self.world.stream.get()?)?;
        Some(act(match map {
            Map::RequestHeaders => &mut stream.request,
            Map::ResponseHeaders => &mut stream.response,
            _ => &mut stream.trailers,
        }))
    }

    /// Returns whether the current callback is of this phase. If not, records the call as a fault.
    fn is_allowed(&self, phase: Phase, call: &str) -> bool {
        let current = self.world.phase.get();
        if current != phase {
            self.world.misread.borrow_mut().push(format!("{call} in {current:?}"));
        }
        current == phase
    }

    /// Returns whether the current request waits for the filter.
    fn is_paused(&self) -> bool {
        self.with_stream(|stream| stream.paused).unwrap_or_default()
    }

    fn with_stream<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        Some(act(self.world.streams.borrow_mut().get_mut(&self.world.stream.get()?)?))
    }
}

impl Proxy for SimProxy {
    fn module(&self) -> ModuleKind {
        self.world.module.get()
    }

    fn now(&self) -> Time {
        Time::from_millis(self.world.now.get())
    }

    fn date(&self) -> Date {
        Date::from_millis(self.world.date())
    }

    fn random(&self) -> u64 {
        let next = self.world.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.world.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 27)
    }

    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>> {
        // By name, Envoy also finds the authority as `host`. A list of all headers does not have that name.
        let name = if map == Map::RequestHeaders && name == "host" { ":authority" } else { name };
        self.with_map(map, |headers| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })?
    }

    fn headers(&self, map: Map) -> Option<Vec<u8>> {
        self.with_map(map, |headers| {
            request::serialize(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())))
        })
    }

    fn set_header(&self, map: Map, name: &str, value: Option<&[u8]>) {
        self.with_map(map, |headers| {
            headers.retain(|(known, _)| known != name);
            headers.extend(value.map(|value| (name.to_owned(), value.to_vec())));
        });
    }

    fn add_header(&self, map: Map, name: &str, value: &str) {
        self.with_map(map, |headers| headers.push((name.to_owned(), value.as_bytes().to_vec())));
    }

    fn replace_headers(&self, map: Map, by: &[(&str, &str)]) {
        self.with_map(map, |headers| *headers = text(by));
    }

    fn body(&self, body: Body, max: usize) -> Vec<u8> {
        let cut = |bytes: &[u8]| bytes.iter().take(max).copied().collect();
        match (body, self.world.phase.get()) {
            (Body::Configuration, Phase::Configure) => cut(self.world.document.borrow().as_bytes()),
            (Body::CallResponse, Phase::Call) => match &*self.world.call.borrow() {
                Some(CallEnd { body, .. }) => cut(body),
                None => Vec::new(),
            },
            (Body::Request, Phase::RequestBody) => {
                self.with_stream(|stream| cut(&stream.body)).unwrap_or_default()
            }
            (Body::Response, Phase::ResponseBody) => {
                self.with_stream(|stream| cut(&stream.response_body)).unwrap_or_default()
            }
            (body, phase) => {
                self.world.misread.borrow_mut().push(format!("{body:?} in {phase:?}"));
                Vec::new()
            }
        }
    }

    fn replace_body(&self, body: Body, size: usize, by: &[u8]) {
        let phase = match body {
            Body::Request => Phase::RequestBody,
            _ => Phase::ResponseBody,
        };
        if !self.is_allowed(phase, "replace_body") {
            return;
        }
        self.with_stream(|stream| {
            let bytes = if body == Body::Request { &mut stream.body } else { &mut stream.response_body };
            let size = size.min(bytes.len());
            bytes.splice(..size, by.iter().copied());
        });
    }

    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>> {
        match attribute {
            Attribute::NodeId => Some(self.world.node.borrow().clone().into_bytes()),
            Attribute::NodeCluster => Some(b"sim".to_vec()),
            Attribute::PluginName => Some(self.world.plugin.borrow().as_bytes().to_vec()),
            Attribute::SourceAddress => self.with_stream(|stream| stream.source.clone().into_bytes()),
            Attribute::UpstreamAddress => {
                self.with_stream(|stream| stream.host.clone())?.map(String::into_bytes)
            }
            Attribute::CodeDetails => self.with_stream(|stream| stream.details.clone().into_bytes()),
            Attribute::Cluster => {
                self.world.clusters_read.set(self.world.clusters_read.get() + 1);
                let cluster = self.with_stream(|stream| stream.cluster.clone())?;
                // Envoy has no such attribute if the request has no route, or one to no cluster.
                (!cluster.is_empty()).then(|| cluster.into_bytes())
            }
            // Envoy encodes it in eight bytes.
            Attribute::AttemptCount => {
                self.with_stream(|stream| u64::from(stream.attempts).to_le_bytes().to_vec())
            }
        }
    }

    fn enter(&self, exchange: ExchangeId) -> bool {
        self.world.entered.set(self.world.entered.get() + 1);
        if let Some(root) = exchange.0.checked_sub(root_id(0)) {
            self.world.stream.set(None);
            return !self.world.ended.borrow().contains(&(self.vm, root as usize));
        }
        let streams = self.world.streams.borrow();
        let known = streams.get(&exchange.0).is_some_and(|stream| stream.vm == self.vm && !stream.over);
        if known {
            self.world.stream.set(Some(exchange.0));
        }
        known
    }

    fn leave(&self) {
        self.world.stream.set(None);
    }

    fn reply(&self, reply: &Reply) -> bool {
        let may_reply = self.is_paused() || self.is_allowed(Phase::Request, "reply");
        if !may_reply || self.world.refuses_replies.get() {
            return false;
        }
        let headers = reply.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let answer = Answer {
            status: u16::try_from(reply.status).unwrap(),
            details: reply.details.clone(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            cluster: String::new(),
        };
        self.with_stream(|stream| stream.reply = Some(answer)).is_some()
    }

    fn resume(&self) {
        if !self.is_paused() {
            self.world.misread.borrow_mut().push("resume of a request that is not paused".to_owned());
        }
        self.with_stream(|stream| stream.resumed = true);
    }

    fn set_filter_state(&self, object: &str, value: &str) {
        if self.is_allowed(Phase::Request, "set_filter_state") {
            self.with_stream(|stream| stream.filter_state.push((object.to_owned(), value.to_owned())));
        }
    }

    fn set_label(&self, label: &str) {
        self.with_stream(|stream| stream.label = label.to_owned());
    }

    fn load(&self, key: &str) -> Stored {
        self.world.loads.set(self.world.loads.get() + 1);
        let store = self.world.store.borrow();
        let known = store.get(key);
        Stored {
            bytes: known.map(|(bytes, _)| bytes.clone()),
            version: known.map(|(_, version)| StoreVersion(*version)),
        }
    }

    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError> {
        let mut store = self.world.store.borrow_mut();
        let known = store.get(key).map(|(_, version)| *version);
        // The proxy lets several workers write a first value. Requests reach several at the same instant.
        if seen.is_none() && self.world.stream.get().is_some() && !key.contains("/kept/") {
            self.world.misread.borrow_mut().push(format!("the first value of {key}, written by a request"));
        }
        let lost = self.world.lose.get();
        if known.is_some() && lost > 0 {
            self.world.lose.set(lost - 1);
            return Err(StoreError::Conflict);
        }
        if let (Some(known), Some(seen)) = (known, seen)
            && known != seen.0
        {
            return Err(StoreError::Conflict);
        }
        self.world.versions.set(self.world.versions.get() + 1);
        self.world.writes.set(self.world.writes.get() + 1);
        store.insert(key.to_owned(), (bytes.to_vec(), self.world.versions.get()));
        if let Some(written) = &mut *self.world.written.borrow_mut() {
            let (at, key, bytes) = (self.world.now.get(), key.to_owned(), bytes.to_vec());
            written.push(Written { at, exchange: self.world.stream.get(), key, bytes });
        }
        Ok(())
    }

    fn http_call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        self.call(cluster, headers, body, timeout)
    }

    fn metric(&self, kind: MetricKind, name: &str) -> Option<MetricId> {
        let mut metrics = self.world.metrics.borrow_mut();
        let index = metrics.iter().position(|(known, ..)| known == name).unwrap_or_else(|| {
            metrics.push((name.to_owned(), kind, 0));
            metrics.len() - 1
        });
        assert_eq!(metrics[index].1, kind, "{name}");
        Some(MetricId(u32::try_from(index).unwrap()))
    }

    fn add(&self, metric: MetricId, amount: u64) {
        self.world.metrics.borrow_mut()[metric.0 as usize].2 += amount;
    }

    fn set(&self, metric: MetricId, value: u64) {
        self.world.metrics.borrow_mut()[metric.0 as usize].2 = value;
    }

    fn log(&self, level: Level, line: &str) {
        self.world.log.borrow_mut().push((level, line.to_owned()));
    }

    fn tick_every(&self, period: Duration) {
        let period = u64::try_from(period.as_millis()).unwrap();
        // In the context of a request, it is the tick of the request's own root.
        let stream = self.world.stream.get();
        let root = stream.map_or(self.root, |id| self.world.streams.borrow()[&id].root);
        self.world.ticks.borrow_mut().insert((self.vm, root), period);
    }
}
