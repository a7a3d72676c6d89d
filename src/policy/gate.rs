//! `gates`: which requests are kept from an upstream that is not Ready, and what becomes of them.

use core::ops::RangeInclusive;

use super::matcher::Matches;
use super::reader::{Fields, Value};
use super::release::Release;
use super::release::steer::Steer;
use super::upstream::{self, UpstreamDraft, UpstreamId};

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Which requests need the upstream.
    pub matches: Matches,
    /// The upstream they need.
    pub upstream: UpstreamId,
    /// What they get instead of it while it is not Ready, if anything.
    pub fallback: Option<Fallback>,
    /// What they are told otherwise.
    pub reply: ReplyTemplate,
    /// What it does while no upstream is Ready that a gate of the policy guards.
    pub when_all_not_ready: WhenAllNotReady,
}

/// What a gate does while no gated upstream is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllNotReady {
    /// It holds. The default.
    Reply,
    /// It lets requests through: that all are down is likelier an error of whoever says so.
    Forward,
}

/// What a request gets instead of the upstream that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another upstream.
    Upstream {
        /// Which one.
        upstream: UpstreamId,
        /// The header that takes the name of its cluster, for a route with `cluster_header`; in lower case.
        header: String,
    },
    /// An answer that is good enough. Not for gRPC requests, to which the proxy can send no message. With a status
    /// that HTTP gives no body (204, 205, 304), it has none.
    Answer(ReplyTemplate),
}

/// A reply of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTemplate {
    /// 400 to 599, default 503. As an answer 200 to 599, default 200.
    pub status: u32,
    /// The grpc-status of a gRPC request, 1 to 16. Absent: the one that Envoy maps the status to, 14 for 503.
    pub grpc_status: Option<u32>,
    /// 0 to 86,400. Absent: what is left of the wait that is on, or 5. No part of an answer.
    pub retry_after_seconds: Option<u32>,
    /// Further headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// At most 16 KiB; `{upstream}`, `{reason}` and `{retryAfter}` are filled in. Absent: a line that names
    /// policy, upstream and reason.
    pub body: Option<String>,
}

/// The response header that tells what a closed gate did. No policy may write it.
pub const GATE_HEADER: &str = "x-graygate-gate";

/// The longest body of a reply, in bytes.
const BODY: usize = 16 * 1024;

/// Reads `gates`. `releases` have headers of their own that a fallback must not write; where they could not be
/// read, that has been noted.
pub fn read(
    value: &Value<'_>,
    upstreams: Option<&[UpstreamDraft]>,
    releases: Option<&[Release]>,
) -> Option<Vec<Gate>> {
    let gates: Vec<_> =
        value.list()?.iter().map(|item| Gate::read(item, upstreams, releases.unwrap_or_default())).collect();
    gates.into_iter().collect()
}

impl Gate {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>, releases: &[Release]) -> Option<Self> {
        let fields = value.object(&["match", "upstream", "fallback", "reply", "whenAllNotReady"])?;
        let matches = fields.read("match", Matches::default(), Matches::read);
        let upstream = upstream::required_reference(&fields, upstreams);
        let fallback = fields.read("fallback", None, |value| {
            let fallback = Fallback::read(value, upstreams, releases)?;
            match &fallback {
                Fallback::Upstream { upstream: other, .. } if upstreams.and(upstream) == Some(*other) => {
                    value.problem("the upstream that the gate is on; allowed: another one")
                }
                _ => Some(Some(fallback)),
            }
        });
        let reply = fields.read("reply", ReplyTemplate::default(), ReplyTemplate::read);
        let ways = [("reply", WhenAllNotReady::Reply), ("forward", WhenAllNotReady::Forward)];
        let when_all_not_ready =
            fields.read("whenAllNotReady", WhenAllNotReady::Reply, |value| value.choice(&ways));
        Some(Gate {
            matches: matches?,
            upstream: upstream?,
            fallback: fallback?,
            reply: reply?,
            when_all_not_ready: when_all_not_ready?,
        })
    }
}

impl Fallback {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>, releases: &[Release]) -> Option<Self> {
        let fields = value.object(&["upstream", "clusterHeader", "answer"])?;
        if let (Some(answer), None, None) =
            (fields.get("answer"), fields.get("upstream"), fields.get("clusterHeader"))
        {
            return ReplyTemplate::read_answer(answer).map(Fallback::Answer);
        }
        if fields.get("answer").is_some() || fields.get("upstream").is_none() {
            return value.refuse("upstream with clusterHeader, or answer");
        }
        let upstream = upstream::required_reference(&fields, upstreams);
        let header = fields
            .require("clusterHeader", "the header that your routes take as cluster_header")
            .and_then(|value| cluster_header(value, releases));
        Some(Fallback::Upstream { upstream: upstream?, header: header? })
    }
}

/// Reads a header that leads to a cluster: no release may say something else by it.
fn cluster_header(value: &Value<'_>, releases: &[Release]) -> Option<String> {
    let header = value.header_name(true)?;
    let mut same = releases.iter().filter(|release| release.steer.header() == Some(&header));
    if let Some(release) = same.clone().find(|release| !matches!(release.steer, Steer::ClusterHeader(_))) {
        return value.problem(format!(
            "release {} says something else by {header:?}; allowed: a header that carries nothing else",
            release.name
        ));
    }
    // It would let others choose the cluster of requests that the release is not for.
    if let Some(release) = same.find(|release| release.trust_incoming) {
        return value.problem(format!(
            "release {} trusts {header:?} as it comes in; allowed: another header, or trustIncoming: false",
            release.name
        ));
    }
    match header.as_str() {
        "cookie" | "authorization" => {
            value.problem(format!("{header:?} carries something else; allowed: a header of its own"))
        }
        _ => Some(header),
    }
}

impl Default for ReplyTemplate {
    fn default() -> Self {
        Self { status: 503, grpc_status: None, retry_after_seconds: None, headers: Vec::new(), body: None }
    }
}

impl ReplyTemplate {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["status", "grpcStatus", "retryAfterSeconds", "headers", "body"])?;
        let default = ReplyTemplate::default();
        let grpc_status = fields.read("grpcStatus", None, |value| value.integer(1..=16).map(Some));
        let retry_after_seconds =
            fields.read("retryAfterSeconds", None, |value| value.integer(0..=86_400).map(Some));
        let reply = ReplyTemplate::read_http(&fields, default.status, 400..=599)?;
        Some(ReplyTemplate { grpc_status: grpc_status?, retry_after_seconds: retry_after_seconds?, ..reply })
    }

    fn read_answer(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["status", "headers", "body"])?;
        let reply = ReplyTemplate::read_http(&fields, 200, 200..=599)?;
        match fields.get("body") {
            Some(body) if reply.has_no_body() => {
                body.problem(format!("a response of status {} has none; allowed: leave it out", reply.status))
            }
            _ => Some(reply),
        }
    }

    /// Whether the status is one that HTTP gives no body.
    pub fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 205 | 304)
    }

    /// What any reply has.
    fn read_http(fields: &Fields<'_>, status: u32, statuses: RangeInclusive<u32>) -> Option<Self> {
        let status = fields.read("status", status, |value| value.integer(statuses));
        let headers = fields.read("headers", Vec::new(), |value| value.headers(may_write));
        let body = fields.read("body", None, |value| match value.text()? {
            text if text.len() > BODY => {
                value.problem(format!("{} bytes; allowed: at most {BODY}", text.len()))
            }
            text => Some(Some(text.to_owned())),
        });
        Some(ReplyTemplate { status: status?, headers: headers?, body: body?, ..ReplyTemplate::default() })
    }
}

/// Whether a gate may write the header, which is noted where it may not.
fn may_write(value: &Value<'_>, name: &str) -> bool {
    let problem = match name {
        "retry-after" => "set elsewhere; allowed: retryAfterSeconds",
        GATE_HEADER => "set elsewhere: it says what a closed gate did; allowed: another header",
        name if name.starts_with("grpc-") => {
            "would tell a gRPC client another outcome than the status does; allowed: status, grpcStatus"
        }
        _ => return true,
    };
    value.problem::<()>(problem);
    false
}
