//! The parts of a response that breakers and rollbacks judge.

use core::time::Duration;

use super::signals::RequiredSignals;
use crate::policy::Policy;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::proxy::{Attribute, Map, Proxy};
use crate::value::parse::number;
use crate::value::request::{self, HeaderMap};
use crate::value::response::{self, retry_after};
use crate::value::response::{Classifier, ResponseClass, ResponseFacts, Sample, VIA_UPSTREAM};
use crate::value::time::Time;

const SWITCHING_PROTOCOLS: u16 = 101;

/// What a worker knows about a response.
#[derive(Debug, Default)]
pub struct ResponseSummary {
    /// The `:status` of the response.
    pub status: Option<u16>,
    /// The proxy's code details, which tell who made the response.
    pub details: Vec<u8>,
    /// The gRPC status, if the policy uses it and it has come.
    pub grpc_status: Option<u32>,
    /// The headers that the policy judges by, as [`HeaderMap`] reads them.
    pub headers: Vec<u8>,
    /// Whether the proxy sent the request more than once, if the policy uses it.
    pub retried: bool,
    /// The cluster that the request went to.
    pub cluster: Option<Vec<u8>>,
    /// The time from the end of the request to the response's headers, if the policy uses times.
    pub took: Option<Duration>,
    /// Whose fault a response is that the proxy made itself.
    pub attribution: Attribution,
    /// The time at which it began, to within a tick.
    pub begun: Time,
    /// The proxy's code details if the response broke off.
    pub broken: Option<Vec<u8>>,
    /// The number of successes before it that were not inspected, and for which it stands if it is one.
    pub stands_for: u32,
}

/// The facts that a worker keeps of a success that was not inspected. See [`super::fast_path`].
#[derive(Clone, Copy, Debug)]
pub struct PassedResponse {
    /// See [`ResponseSummary::status`].
    pub status: u16,
    /// See [`ResponseSummary::took`].
    pub took: Option<Duration>,
    /// See [`ResponseSummary::begun`].
    pub begun: Time,
}

impl PassedResponse {
    /// See [`ResponseSummary::is_upgrade`].
    pub fn is_upgrade(&self) -> bool {
        self.status == SWITCHING_PROTOCOLS
    }

    /// Returns what its end is judged by. `broken` has the proxy's code details if it broke off. Reads the cluster.
    pub fn into_summary(self, proxy: &impl Proxy, broken: Option<Vec<u8>>) -> ResponseSummary {
        let PassedResponse { status, took, begun } = self;
        let details = VIA_UPSTREAM.to_vec();
        let reached = ResponseSummary::without_response(proxy);
        ResponseSummary { status: Some(status), details, took, begun, broken, ..reached }
    }
}

/// Whose fault a response is that the proxy made itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attribution {
    /// As its code details say.
    #[default]
    AsStated,
    /// The upstream's, which has sent nothing.
    Unanswered,
    /// Nobody's, or not known.
    Nobody,
}

impl ResponseSummary {
    /// Reads only the cluster that the request went to, for a request whose response no callback has shown.
    pub fn without_response(proxy: &impl Proxy) -> Self {
        ResponseSummary { cluster: proxy.attribute(Attribute::Cluster), ..ResponseSummary::default() }
    }

    /// Reads the status and the cluster. Must be called in the callback of the response's headers.
    pub fn read(proxy: &impl Proxy, took: Option<Duration>) -> Self {
        ResponseSummary {
            status: proxy.status(Map::ResponseHeaders),
            took,
            ..ResponseSummary::without_response(proxy)
        }
    }

    /// Reads everything else that is judged. Must be called in the same callback.
    pub fn inspect(&mut self, proxy: &impl Proxy, signals: &RequiredSignals) {
        self.details = proxy.code_details();
        if signals.grpc_status {
            self.grpc_status = proxy.grpc_status(Map::ResponseHeaders);
        }
        self.retried = signals.attempts && proxy.attempts() > 1;
        if !signals.headers.is_empty() {
            let names = signals.headers.iter();
            let values: Vec<(&String, Vec<u8>)> =
                names.filter_map(|name| Some((name, proxy.header(Map::ResponseHeaders, name)?))).collect();
            self.headers =
                request::serialize(values.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())));
        }
    }

    /// Returns whether it is the whole of the response to an upgrade. What follows is a tunnel, which its ends close as
    /// they like, so how it ends is no evidence.
    pub fn is_upgrade(&self) -> bool {
        self.status == Some(SWITCHING_PROTOCOLS)
    }

    /// Classifies the response by its beginning and by its gRPC status.
    pub fn classify(&self, classifier: Classifier<'_>) -> ResponseClass {
        match self.attribution {
            Attribution::AsStated => classifier.classify(self.facts()),
            Attribution::Unanswered => classifier.unanswered(),
            Attribution::Nobody => ResponseClass::Ignored,
        }
    }

    fn facts(&self) -> ResponseFacts<'_> {
        ResponseFacts {
            status: self.status,
            details: &self.details,
            grpc_status: self.grpc_status,
            headers: HeaderMap(&self.headers),
            retried: self.retried,
        }
    }

    /// Classifies the response by its end. Only meaningful if its beginning was not a failure.
    pub fn classify_end(&self, classifier: Classifier<'_>) -> ResponseClass {
        match &self.broken {
            Some(details) => classifier.classify(ResponseFacts { details, ..self.facts() }),
            None => self.classify(classifier),
        }
    }

    /// Returns the response as evidence for the breaker, as one of this class.
    pub fn sample(&self, breaker: &Breaker, class: ResponseClass) -> Sample {
        let slow = self.took.is_some_and(|took| breaker.is_slow(took));
        let has_waited = self.attribution == Attribution::Unanswered || response::is_timeout(&self.details);
        Sample { slow, has_waited, stands_for: self.stands_for, ..class.into() }
    }

    /// Returns whether the request went to this upstream.
    pub fn is_of(&self, policy: &Policy, id: UpstreamId) -> bool {
        policy
            .upstream(id)
            .is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == self.cluster.as_deref())
    }

    /// Returns the upstreams that the request went to and that have a breaker.
    pub fn judged<'p>(&self, policy: &'p Policy) -> impl Iterator<Item = (UpstreamId, &'p Breaker)> {
        self.cluster.as_deref().into_iter().flat_map(|cluster| policy.judged_at(cluster))
    }
}

/// Returns the status of the current response, which has these headers, if an upstream sent it.
///
/// The router adds `x-envoy-upstream-service-time` to each response of an upstream, and to none of its own. The details
/// are read only if the header is missing, because the router can be configured not to add it.
pub fn upstream_status(proxy: &impl Proxy, headers: HeaderMap<'_>) -> Option<u16> {
    let from_upstream =
        headers.get("x-envoy-upstream-service-time").is_some() || proxy.code_details() == VIA_UPSTREAM;
    number(headers.get(":status").filter(|_| from_upstream)?)
}

/// Returns whether the current response has a gRPC content type.
pub fn is_grpc(proxy: &impl Proxy) -> bool {
    let kind = proxy.header(Map::ResponseHeaders, "content-type");
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Returns the end of the backoff that the current response asks for, if it asks for one.
pub fn retry_at(proxy: &impl Proxy, map: Map, now: Time) -> Option<Time> {
    let http = || retry_after::of_http(&proxy.header(map, "retry-after")?, now, || proxy.date());
    let grpc = || retry_after::of_grpc(&proxy.header(map, "grpc-retry-pushback-ms")?, now);
    http().or_else(grpc)
}
