//! A response, as far as it is judged.

use core::time::Duration;

use crate::policy::Policy;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::proxy::{Attribute, Map, Proxy, number};
use crate::value::request::HeaderMap;
use crate::value::response::retry_after;
use crate::value::response::{Classifier, ResponseClass, VIA_UPSTREAM};
use crate::value::time::Time;

const SWITCHING_PROTOCOLS: u16 = 101;

/// What is known of a response.
#[derive(Debug, Default)]
pub struct ResponseSummary {
    /// Its status.
    pub status: Option<u16>,
    /// The proxy's details on how the request was answered.
    pub details: Vec<u8>,
    /// Its gRPC status, if that is asked for and known.
    pub grpc_status: Option<u32>,
    /// The cluster that the request went to.
    pub cluster: Option<Vec<u8>>,
    /// How long its headers took, if that is asked for.
    pub took: Option<Duration>,
    /// The proxy's details on how it broke off, if it did.
    pub broken: Option<Vec<u8>>,
}

impl ResponseSummary {
    /// Reads the status, and where the request went, in the callback of the response's headers.
    pub fn read(proxy: &impl Proxy, took: Option<Duration>) -> Self {
        ResponseSummary {
            status: proxy.status(Map::ResponseHeaders),
            cluster: proxy.attribute(Attribute::Cluster),
            took,
            ..ResponseSummary::default()
        }
    }

    /// Reads what it takes to judge the response, in the same callback.
    pub fn inspect(&mut self, proxy: &impl Proxy, grpc_status: bool) {
        self.details = proxy.code_details();
        if grpc_status {
            self.grpc_status = proxy.grpc_status(Map::ResponseHeaders);
        }
    }

    /// Returns whether it is the whole of the response to an upgrade. What follows is a tunnel, which its ends close as
    /// they like, so how it ends is no evidence.
    pub fn is_upgrade(&self) -> bool {
        self.status == Some(SWITCHING_PROTOCOLS)
    }

    /// Classifies the response by its beginning, and by its gRPC status.
    pub fn classify(&self, classifier: Classifier<'_>) -> ResponseClass {
        classifier.classify(self.status, &self.details, self.grpc_status)
    }

    /// Classifies the response by its end, where its beginning was no failure.
    pub fn classify_end(&self, classifier: Classifier<'_>) -> ResponseClass {
        match &self.broken {
            Some(details) => classifier.classify(self.status, details, self.grpc_status),
            None => self.classify(classifier),
        }
    }

    /// Returns the class, or [`ResponseClass::Slow`] for a success that took too long.
    pub fn or_slow(&self, breaker: &Breaker, class: ResponseClass) -> ResponseClass {
        let slow = self.took.is_some_and(|took| breaker.is_slow(took));
        if slow && class == ResponseClass::Success { ResponseClass::Slow } else { class }
    }

    /// Returns whether the request went to this upstream.
    pub fn is_of(&self, policy: &Policy, id: UpstreamId) -> bool {
        policy
            .upstream(id)
            .is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == self.cluster.as_deref())
    }

    /// Returns the upstreams that the request went to, as far as they are judged by responses.
    pub fn judged<'p>(&self, policy: &'p Policy) -> impl Iterator<Item = (UpstreamId, &'p Breaker)> {
        let reached = policy.upstream_ids().filter(|(id, _)| self.is_of(policy, *id));
        reached.filter_map(|(id, upstream)| Some((id, upstream.breaker.as_ref()?)))
    }
}

/// Returns the status of the response at hand, if an upstream has sent it. The router adds a header that tells to each
/// such response and to none of its own; only where it is told not to is there something more to ask.
pub fn upstream_status(proxy: &impl Proxy) -> Option<u16> {
    let headers = proxy.headers(Map::ResponseHeaders)?;
    let headers = HeaderMap(&headers);
    let of_upstream =
        headers.get("x-envoy-upstream-service-time").is_some() || proxy.code_details() == VIA_UPSTREAM;
    number(headers.get(":status").filter(|_| of_upstream)?)
}

/// Returns whether the response at hand is a gRPC service's.
pub fn is_grpc(proxy: &impl Proxy) -> bool {
    let kind = proxy.header(Map::ResponseHeaders, "content-type");
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Returns until when the failing response at hand asks to be left alone.
pub fn retry_at(proxy: &impl Proxy, map: Map, now: Time) -> Option<Time> {
    let http = || retry_after::of_http(&proxy.header(map, "retry-after")?, now);
    let grpc = || retry_after::of_grpc(&proxy.header(map, "grpc-retry-pushback-ms")?, now);
    http().or_else(grpc)
}
