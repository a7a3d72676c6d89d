//! `gates`: which requests are kept from an upstream that is not Ready, and what they get instead.

pub mod cors;

use core::ops::RangeInclusive;

use super::keys;
use super::matcher::Matches;
use super::probe::Details;
use super::reader::{Fields, Value};
use super::release::Release;
use super::release::steer::Steer;
use super::upstream::{self, UpstreamDraft, UpstreamId};
use cors::CorsPolicy;

/// A gate on one upstream. It is closed while the upstream is not Ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The requests that need the upstream. Empty means those whose route leads to its cluster.
    pub matches: Matches,
    /// The upstream that these requests need.
    pub upstream: UpstreamId,
    /// What requests get instead of the upstream while the gate is closed. If absent, they get `reply`.
    pub fallback: Option<Fallback>,
    /// The reply to requests that get no fallback.
    pub reply: ReplyTemplate,
    /// What the gate does while none of the policy's gated upstreams is Ready.
    pub when_all_not_ready: WhenAllNotReady,
    /// What the gate does with a CORS preflight.
    pub preflight: OnPreflight,
    /// The pages of other origins that may read the gate's replies and answers. If absent, none may.
    pub cors: Option<CorsPolicy>,
    /// Whether clients are told the upstream and the reason where the policy has no words of its own.
    pub names_cause: bool,
}

/// What a closed gate does with a CORS preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPreflight {
    /// It lets the preflight through, or sends it to the fallback upstream. The default. A reply would be an error to the
    /// browser, which then sends no request. Often a later filter answers a preflight, and no upstream is needed.
    Forward,
    /// It treats the preflight like any other request.
    Reply,
}

/// What a gate does while none of the policy's gated upstreams is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllNotReady {
    /// It stays closed. The default.
    Reply,
    /// It lets requests through. If all upstreams seem down, the evidence is more likely wrong than the upstreams.
    Forward,
}

/// What a request gets instead of the upstream that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another upstream.
    Upstream {
        /// The upstream to forward to.
        upstream: UpstreamId,
        /// The header that carries the name of that upstream's cluster, in lower case. A route with `cluster_header`
        /// reads it.
        header: String,
    },
    /// A fixed response. gRPC requests do not get it, as the proxy cannot send a gRPC message. It has no body if its
    /// status allows none (204, 205 or 304).
    Answer(ReplyTemplate),
}

/// A reply that a gate sends: its `reply`, or the `answer` of its fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTemplate {
    /// The HTTP status. 400 to 599, default 503, in a `reply`. 200 to 599, default 200, in an `answer`.
    pub status: u32,
    /// The grpc-status for gRPC requests. 1 to 16. If absent, the one that Envoy maps `status` to, which is 14 for 503.
    pub grpc_status: Option<u32>,
    /// The `retry-after` in seconds. 0 to 86,400. If absent, the time left of the current wait, or 5 without one. An
    /// `answer` has none.
    pub retry_after_seconds: Option<u32>,
    /// Further headers. Names are in lower case. They replace those that a gate writes by default.
    pub headers: Vec<(String, String)>,
    /// Whether an Envoy in front may retry the request. Default false.
    pub retriable: bool,
    /// The body, at most 16 KiB. `{upstream}`, `{reason}` and `{retryAfter}` are replaced by their values. If absent, a
    /// line that names policy, upstream and reason, as far as the gate names the cause.
    pub body: Option<String>,
}

/// The response header that names what a closed gate did. A policy must not write it.
pub const GATE_HEADER: &str = "x-graygate-gate";

/// The longest body of a reply, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Reads `gates`. A fallback must not write the headers that `releases` steer by. `releases` is `None` if they have
/// problems, which are reported already. `details` is that of `probes`, which holds for each gate without one.
pub fn read(
    value: &Value<'_>,
    upstreams: Option<&[UpstreamDraft]>,
    releases: Option<&[Release]>,
    details: Details,
) -> Option<Vec<Gate>> {
    let items = value.list()?;
    let read = |item| Gate::read(item, upstreams, releases.unwrap_or_default(), details);
    let gates: Vec<_> = items.iter().map(read).collect();
    gates.into_iter().collect()
}

impl Gate {
    fn read(
        value: &Value<'_>,
        upstreams: Option<&[UpstreamDraft]>,
        releases: &[Release],
        details: Details,
    ) -> Option<Self> {
        let fields = value.object(&keys::GATE)?;
        let matches = fields.read("match", Matches::default(), Matches::read);
        let upstream = upstream::read_required_reference(&fields, upstreams);
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
        let choices = [("reply", WhenAllNotReady::Reply), ("forward", WhenAllNotReady::Forward)];
        let when_all_not_ready =
            fields.read("whenAllNotReady", WhenAllNotReady::Reply, |value| value.choice(&choices));
        let choices = [("forward", OnPreflight::Forward), ("reply", OnPreflight::Reply)];
        let preflight = fields.read("preflight", OnPreflight::Forward, |value| value.choice(&choices));
        let cors = fields.read("cors", None, |value| CorsPolicy::read(value).map(Some));
        // A gate replies only on failure, so it has no third choice.
        let choices = [("never", false), ("always", true)];
        let names_cause = fields.read("details", details != Details::Never, |value| value.choice(&choices));
        Some(Gate {
            matches: matches?,
            upstream: upstream?,
            fallback: fallback?,
            reply: reply?,
            when_all_not_ready: when_all_not_ready?,
            preflight: preflight?,
            cors: cors?,
            names_cause: names_cause?,
        })
    }
}

impl Fallback {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>, releases: &[Release]) -> Option<Self> {
        let fields = value.object(&keys::FALLBACK)?;
        if let (Some(answer), None, None) =
            (fields.get("answer"), fields.get("upstream"), fields.get("clusterHeader"))
        {
            return ReplyTemplate::read_answer(answer).map(Fallback::Answer);
        }
        if fields.get("answer").is_some() || fields.get("upstream").is_none() {
            return value.refuse("upstream with clusterHeader, or answer");
        }
        let upstream = upstream::read_required_reference(&fields, upstreams);
        let header = fields
            .require("clusterHeader", "the header that your routes take as cluster_header")
            .and_then(|value| read_cluster_header(value, releases));
        Some(Fallback::Upstream { upstream: upstream?, header: header? })
    }
}

/// Reads the header that names a cluster. Refuses a header that a release uses for another purpose, or trusts.
fn read_cluster_header(value: &Value<'_>, releases: &[Release]) -> Option<String> {
    let header = value.header_name(true)?;
    let mut steering_by_it = releases.iter().filter(|release| release.steer.header() == Some(&header));
    if let Some(release) =
        steering_by_it.clone().find(|release| !matches!(release.steer, Steer::ClusterHeader(_)))
    {
        return value.problem(format!(
            "release {} says something else by {header:?}; allowed: a header that carries nothing else",
            release.name
        ));
    }
    // Clients could choose the cluster of requests that the release does not match.
    if let Some(release) = steering_by_it.find(|release| release.trust_incoming) {
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
        ReplyTemplate {
            status: 503,
            grpc_status: None,
            retry_after_seconds: None,
            headers: Vec::new(),
            retriable: false,
            body: None,
        }
    }
}

impl ReplyTemplate {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&keys::REPLY)?;
        let default = ReplyTemplate::default();
        let grpc_status = fields.read("grpcStatus", None, |value| value.integer(1..=16).map(Some));
        let retry_after_seconds =
            fields.read("retryAfterSeconds", None, |value| value.integer(0..=86_400).map(Some));
        let reply = ReplyTemplate::read_http(&fields, default.status, 400..=599)?;
        Some(ReplyTemplate { grpc_status: grpc_status?, retry_after_seconds: retry_after_seconds?, ..reply })
    }

    fn read_answer(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&keys::ANSWER)?;
        let reply = ReplyTemplate::read_http(&fields, 200, 200..=599)?;
        match fields.get("body") {
            Some(body) if reply.has_no_body() => {
                body.problem(format!("a response of status {} has none; allowed: leave it out", reply.status))
            }
            _ => Some(reply),
        }
    }

    /// Returns whether HTTP allows no body with this status.
    pub fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 205 | 304)
    }

    /// Reads the fields that `reply` and `answer` have in common.
    fn read_http(fields: &Fields<'_>, status: u32, statuses: RangeInclusive<u32>) -> Option<Self> {
        let status = fields.read("status", status, |value| value.integer(statuses));
        let headers = fields.read("headers", Vec::new(), |value| value.headers(may_write));
        let retriable = fields.read("retriable", false, Value::boolean);
        let body = fields.read("body", None, |value| match value.text()? {
            text if text.len() > MAX_BODY_BYTES => {
                value.problem(format!("{} bytes; allowed: at most {MAX_BODY_BYTES}", text.len()))
            }
            text => Some(Some(text.to_owned())),
        });
        Some(ReplyTemplate {
            status: status?,
            headers: headers?,
            retriable: retriable?,
            body: body?,
            ..ReplyTemplate::default()
        })
    }
}

/// Returns whether a gate may write the header, and reports a problem if not.
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
