//! A reply that the filter makes up, and what it is counted as.

use std::borrow::Cow;

use crate::policy::Policy;
pub use crate::policy::gate::GATE_HEADER;
use crate::policy::upstream::UpstreamId;
use crate::readiness;

/// A header's name, in lower case, and its value. Most are the same in each reply.
pub type Header = (Cow<'static, str>, Cow<'static, str>);

/// A reply made up by the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u32,
    /// The grpc-status for a gRPC request, where it is not the one that the HTTP status stands for.
    pub grpc_status: Option<u32>,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its body.
    pub body: Vec<u8>,
    /// What Envoy's access log shows as `response_code_details`.
    pub details: String,
    /// What it is counted as.
    pub cause: ReplyCause,
}

impl Reply {
    /// The reply to a probe.
    pub fn to_probe(
        policy: &Policy,
        asked: ProbeTarget,
        status: u32,
        result: &'static str,
        headers: Vec<Header>,
        body: Vec<u8>,
    ) -> Self {
        // By the name of what is configured; which check of it was asked for is in the counters.
        let name = match asked {
            ProbeTarget::Check(index, _) => ProbeTarget::Endpoint(index).name(policy),
            asked => asked.name(policy),
        };
        let details = ["graygate_probe{", &policy.name, "|", &name, "}"].concat();
        let cause = ReplyCause::Probe { asked, code: status, result };
        Reply { status, grpc_status: None, headers, body, details, cause }
    }

    /// The same in a line of text, which is true for this moment alone.
    pub fn line_to_probe(
        policy: &Policy,
        asked: ProbeTarget,
        status: u32,
        result: &'static str,
        words: &str,
    ) -> Self {
        let headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")];
        let headers = headers.map(|(name, value)| (name.into(), value.into())).to_vec();
        let body = format!("policy {}: {words}\n", policy.name).into_bytes();
        Reply::to_probe(policy, asked, status, result, headers, body)
    }
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeTarget {
    /// A health endpoint, by its index in the policy.
    Endpoint(usize),
    /// One check of it.
    Check(usize, UpstreamId),
    /// The drain switch.
    Drain,
    /// gRPC's health service.
    Grpc,
}

impl ProbeTarget {
    /// The name in metrics.
    pub fn name(self, policy: &Policy) -> Cow<'_, str> {
        let endpoint =
            |index: usize| policy.probes.endpoints.get(index).map_or("", |probe| probe.name.as_str());
        match self {
            ProbeTarget::Endpoint(index) => endpoint(index).into(),
            ProbeTarget::Check(index, id) => [endpoint(index), "/", policy.name_of(id)].concat().into(),
            ProbeTarget::Drain => "drain".into(),
            ProbeTarget::Grpc => "grpc".into(),
        }
    }
}

/// Why the filter replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCause {
    /// The request is a probe.
    Probe {
        /// What it asks.
        asked: ProbeTarget,
        /// The status of the answer: grpc-status where it is by gRPC.
        code: u32,
        /// What it was told, in a word.
        result: &'static str,
    },
    /// An upstream it needs is not Ready.
    Gate {
        /// Which one.
        upstream: UpstreamId,
        /// Why.
        reason: readiness::UpstreamReason,
    },
}
