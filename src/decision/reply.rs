//! Replies of the filter, and how they are counted.

use std::borrow::Cow;

use crate::policy::Policy;
pub use crate::policy::gate::GATE_HEADER;
use crate::policy::upstream::UpstreamId;
use crate::readiness;
use crate::value::request::serialize;

/// A header's name, in lower case, and its value. Most headers are the same in each reply.
pub type Header = (Cow<'static, str>, Cow<'static, str>);

/// A reply of the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u32,
    /// The grpc-status for a gRPC request, unless the HTTP status determines it.
    pub grpc_status: Option<u32>,
    /// The headers.
    pub headers: Vec<Header>,
    /// The same in the form that the proxy takes, if it is kept. Empty if not.
    pub serialized: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
    /// The value of `response_code_details` in Envoy's access log.
    pub details: String,
    /// What it is counted as.
    pub cause: ReplyCause,
}

impl Reply {
    /// Creates the reply to a probe.
    pub fn to_probe(
        policy: &Policy,
        asked: ProbeTarget,
        status: u32,
        result: &'static str,
        headers: Vec<Header>,
        body: Vec<u8>,
    ) -> Self {
        // The details name what is configured. The counters name the single check.
        let name = match asked {
            ProbeTarget::Check(index, _) => ProbeTarget::Endpoint(index).name(policy),
            asked => asked.name(policy),
        };
        let details = ["graygate_probe{", &policy.name, "|", &name, "}"].concat();
        let cause = ReplyCause::Probe { asked, code: status, result };
        Reply { status, grpc_status: None, headers, serialized: Vec::new(), body, details, cause }
    }

    /// Returns whether it answers a probe.
    pub fn is_for_probe(&self) -> bool {
        matches!(self.cause, ReplyCause::Probe { .. })
    }

    /// Keeps the headers in the form that the proxy takes. They must not change from then on.
    pub fn serialize_headers(&mut self) {
        self.serialized = self.serialized_headers().into_owned();
    }

    /// Returns the headers in the form that the proxy takes.
    pub fn serialized_headers(&self) -> Cow<'_, [u8]> {
        if !self.serialized.is_empty() {
            return Cow::Borrowed(&self.serialized);
        }
        let headers = self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Cow::Owned(serialize(headers))
    }

    /// Returns the same reply with one more header.
    pub fn with_header(&self, name: &'static str, value: String) -> Self {
        let mut reply = Reply { serialized: Vec::new(), ..self.clone() };
        reply.headers.push((name.into(), value.into()));
        reply
    }

    /// Creates the reply to a probe as one line of text, which must not be cached.
    pub fn line_to_probe(
        policy: &Policy,
        asked: ProbeTarget,
        status: u32,
        result: &'static str,
        text: &str,
    ) -> Self {
        let headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")];
        let headers = headers.map(|(name, value)| (name.into(), value.into())).to_vec();
        let body = format!("policy {}: {text}\n", policy.name).into_bytes();
        Reply::to_probe(policy, asked, status, result, headers, body)
    }
}

/// What a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeTarget {
    /// A health endpoint, by its index in the policy.
    Endpoint(usize),
    /// One check of a health endpoint.
    Check(usize, UpstreamId),
    /// The drain switch.
    Drain,
    /// The status page.
    Status,
    /// The gRPC health service.
    Grpc,
}

impl ProbeTarget {
    /// Returns the name in metrics.
    pub fn name(self, policy: &Policy) -> Cow<'_, str> {
        let endpoint =
            |index: usize| policy.probes.endpoints.get(index).map_or("", |probe| probe.name.as_str());
        match self {
            ProbeTarget::Endpoint(index) => endpoint(index).into(),
            ProbeTarget::Check(index, id) => [endpoint(index), "/", policy.name_of(id)].concat().into(),
            ProbeTarget::Drain => "drain".into(),
            ProbeTarget::Status => "status".into(),
            ProbeTarget::Grpc => "grpc".into(),
        }
    }
}

/// The cause of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCause {
    /// The request is a probe.
    Probe {
        /// The target of the request.
        asked: ProbeTarget,
        /// The status of the reply, or the grpc-status if the reply is gRPC.
        code: u32,
        /// The result, as counted.
        result: &'static str,
    },
    /// An upstream that the request needs is not Ready.
    Gate {
        /// The upstream.
        upstream: UpstreamId,
        /// The reason.
        reason: readiness::UpstreamReason,
    },
}
