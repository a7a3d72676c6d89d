//! The implementation of [`Proxy`] with the calls of the ABI.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;

use super::abi;
use crate::decision::reply::Reply;
use crate::policy::module::ModuleKind;
use crate::proxy::{
    Attribute, Body, CallId, ExchangeId, Level, Map, MetricId, MetricKind, NotSent, Proxy, StoreError,
    StoreVersion, Stored,
};
use crate::value::date::Date;
use crate::value::filter_state;
use crate::value::time::{Time, millis};

thread_local! {
    /// The ids of all metrics that this VM has defined. The proxy assigns a new id each time a name is defined and never
    /// frees one. So a VM defines each name once, even if its policy changes.
    static METRICS: RefCell<BTreeMap<String, MetricId>> = RefCell::default();
}

/// The proxy, for the worker of one root context.
pub struct Host {
    /// The id of the root context.
    pub root: u32,
}

impl Proxy for Host {
    /// A constant, so the compiler leaves out what the module does not need.
    #[inline]
    fn module(&self) -> ModuleKind {
        if cfg!(feature = "responses") { ModuleKind::Full } else { ModuleKind::Requests }
    }

    fn now(&self) -> Time {
        Time::from_millis(millis(abi::now()))
    }

    fn date(&self) -> Date {
        Date::from_millis(millis(abi::since_epoch()))
    }

    fn random(&self) -> u64 {
        abi::random()
    }

    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>> {
        abi::header(map_type(map), name)
    }

    fn headers(&self, map: Map) -> Option<Vec<u8>> {
        abi::headers(map_type(map))
    }

    fn set_header(&self, map: Map, name: &str, value: Option<&[u8]>) {
        abi::set_header(map_type(map), name, value);
    }

    fn add_header(&self, map: Map, name: &str, value: &str) {
        abi::add_header(map_type(map), name, value);
    }

    fn replace_headers(&self, map: Map, headers: &[(&str, &str)]) {
        abi::set_headers(map_type(map), headers);
    }

    fn body(&self, body: Body, max: usize) -> Vec<u8> {
        abi::buffer(buffer_type(body), max).unwrap_or_default()
    }

    fn replace_body(&self, body: Body, size: usize, by: &[u8]) {
        abi::set_buffer(buffer_type(body), size, by);
    }

    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>> {
        abi::property(match attribute {
            Attribute::SourceAddress => "source\0address",
            Attribute::UpstreamAddress => "upstream\0address",
            Attribute::CodeDetails => "response\0code_details",
            Attribute::Cluster => "xds\0cluster_name",
            Attribute::AttemptCount => "upstream\0request_attempt_count",
            Attribute::NodeId => "xds\0node\0id",
            Attribute::NodeCluster => "xds\0node\0cluster",
            Attribute::PluginName => "plugin_name",
        })
    }

    fn enter(&self, exchange: ExchangeId) -> bool {
        abi::set_effective_context(exchange.0)
    }

    fn leave(&self) {
        abi::set_effective_context(self.root);
    }

    fn reply(&self, reply: &Reply) -> bool {
        abi::send_local_response(reply)
    }

    fn resume(&self) {
        abi::continue_request();
    }

    fn set_filter_state(&self, object: &str, value: &str) {
        let Some(message) = filter_state::message(object, value) else {
            return;
        };
        abi::call_foreign_function("set_envoy_filter_state", &message);
        abi::call_foreign_function("clear_route_cache", b"");
    }

    fn set_label(&self, label: &str) {
        abi::set_property("graygate", label.as_bytes());
    }

    fn load(&self, key: &str) -> Stored {
        #[cfg(feature = "faults")]
        super::fault::note(self, key);
        let (bytes, version) = abi::shared_data(key);
        // An empty value counts as none, because no stored type has an empty encoding.
        let bytes = bytes.filter(|bytes| !bytes.is_empty());
        Stored { bytes, version: (version != 0).then_some(StoreVersion(version)) }
    }

    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError> {
        let cas = seen.map_or(0, |version| version.0);
        abi::set_shared_data(key, bytes, cas).map_err(|status| match status {
            abi::CAS_MISMATCH => StoreError::Conflict,
            _ => StoreError::Refused,
        })
    }

    fn http_call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        abi::http_call(cluster, headers, body, timeout).map(CallId)
    }

    fn metric(&self, kind: MetricKind, name: &str) -> Option<MetricId> {
        METRICS.with_borrow_mut(|known| {
            if let Some(id) = known.get(name) {
                return Some(*id);
            }
            let kind = match kind {
                MetricKind::Counter => 0,
                MetricKind::Gauge => 1,
            };
            let id = MetricId(abi::define_metric(kind, name)?);
            known.insert(name.to_owned(), id);
            Some(id)
        })
    }

    fn add(&self, metric: MetricId, amount: u64) {
        abi::increment_metric(metric.0, i64::try_from(amount).unwrap_or(i64::MAX));
    }

    fn set(&self, metric: MetricId, value: u64) {
        abi::record_metric(metric.0, value);
    }

    fn log(&self, level: Level, line: &str) {
        let level = match level {
            Level::Trace => 0,
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        abi::log(level, line);
    }

    fn tick_every(&self, period: Duration) {
        abi::set_tick_period(period);
    }
}

fn map_type(map: Map) -> u32 {
    match map {
        Map::RequestHeaders => 0,
        Map::ResponseHeaders => 2,
        Map::ResponseTrailers => 3,
        Map::CallResponseHeaders => 6,
        Map::CallResponseTrailers => 7,
    }
}

fn buffer_type(body: Body) -> u32 {
    match body {
        Body::Request => 0,
        Body::Response => 1,
        Body::CallResponse => 4,
        Body::Configuration => 7,
    }
}
