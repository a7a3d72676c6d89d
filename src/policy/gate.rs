//! `gates`: which requests are kept from an upstream that is not Ready, and what they get instead.

pub mod cors;

use super::matcher::Matches;
use super::probe::Details;
use super::reader::{Fields, Value};
use super::release::Release;
use super::release::steer::Steer;
use super::spelling::nearest;
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
        let fields = value.object()?;
        let matches = fields.read("match", Matches::default(), Matches::read);
        let upstream = upstream::read_required_reference(&fields, upstreams);
        let fallback = fields.optional("fallback", |value| {
            let fallback = Fallback::read(value, upstreams, releases)?;
            match &fallback {
                Fallback::Upstream { upstream: other, .. } if upstreams.and(upstream) == Some(*other) => {
                    value.problem("leads to the upstream that the gate is on; name another one")
                }
                _ => Some(fallback),
            }
        });
        let reply = fields.read("reply", ReplyTemplate::default(), ReplyTemplate::read);
        let when_all_not_ready = fields.word("whenAllNotReady").map(|word| match word {
            "forward" => WhenAllNotReady::Forward,
            _ => WhenAllNotReady::Reply,
        });
        let preflight = fields.word("preflight").map(|word| match word {
            "reply" => OnPreflight::Reply,
            _ => OnPreflight::Forward,
        });
        let cors = fields.optional("cors", CorsPolicy::read);
        let names_cause = fields
            .read("details", details != Details::Never, |value| value.word().map(|word| word == "always"));
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
        let fields = value.object()?;
        match (fields.get("upstream"), fields.get("answer")) {
            (None, Some(answer)) => ReplyTemplate::read_answer(answer).map(Fallback::Answer),
            (Some(upstream), None) => {
                let upstream = upstream::read_reference(upstream, upstreams);
                let header =
                    fields.get("clusterHeader").and_then(|value| read_cluster_header(value, releases));
                Some(Fallback::Upstream { upstream: upstream?, header: header? })
            }
            // Reported by the table's rule.
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// Reads the header that names a cluster. Refuses a header that a release uses for another purpose, or trusts.
fn read_cluster_header(value: &Value<'_>, releases: &[Release]) -> Option<String> {
    let header = value.header_name()?;
    let mut steering_by_it = releases.iter().filter(|release| release.steer.header() == Some(&header));
    if let Some(release) =
        steering_by_it.clone().find(|release| !matches!(release.steer, Steer::ClusterHeader(_)))
    {
        return value.problem(format!(
            "release {} uses {header:?} for something else; use a header that carries nothing else",
            release.name
        ));
    }
    // Clients could choose the cluster of requests that the release does not match.
    if let Some(release) = steering_by_it.find(|release| release.trust_incoming) {
        return value.problem(format!(
            "release {} trusts {header:?} as it comes in, so clients could choose the cluster. Use another header, or trustIncoming: false.",
            release.name
        ));
    }
    match header.as_str() {
        "cookie" | "authorization" => value
            .problem(format!("{header:?} carries something else; use a header that carries nothing else")),
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
        let fields = value.object()?;
        let grpc_status = fields.optional("grpcStatus", Value::whole);
        let retry_after_seconds = fields.optional("retryAfterSeconds", Value::whole);
        let reply = ReplyTemplate::read_http(&fields)?;
        Some(ReplyTemplate { grpc_status: grpc_status?, retry_after_seconds: retry_after_seconds?, ..reply })
    }

    fn read_answer(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let reply = ReplyTemplate::read_http(&fields)?;
        match fields.get("body") {
            Some(body) if reply.has_no_body() => {
                body.problem(format!("a response of status {} has no body; remove it", reply.status))
            }
            _ => Some(reply),
        }
    }

    /// Returns whether HTTP allows no body with this status.
    pub fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 205 | 304)
    }

    /// Reads the fields that `reply` and `answer` have in common.
    fn read_http(fields: &Fields<'_>) -> Option<Self> {
        let status = fields.whole("status");
        let headers = fields.read("headers", Vec::new(), |value| value.headers(may_write));
        let retriable = fields.boolean("retriable");
        let body = fields.optional("body", read_body);
        Some(ReplyTemplate {
            status: status?,
            headers: headers?,
            retriable: retriable?,
            body: body?,
            ..ReplyTemplate::default()
        })
    }
}

/// The placeholders of a body.
const PLACEHOLDERS: [&str; 3] = ["upstream", "reason", "retryAfter"];

/// Reads a body. Refuses a misspelt placeholder, which clients would get as it is.
fn read_body(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.len() > MAX_BODY_BYTES {
        return value.problem(format!("{} bytes; allowed: at most {MAX_BODY_BYTES}", text.len()));
    }
    let words = text.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_- ".contains(&byte);
    for (word, _) in words.filter(|(word, _)| word.bytes().all(is_allowed)) {
        match nearest(&word.replace(['_', '-', ' '], ""), &PLACEHOLDERS) {
            Some(near) if near != word => {
                value.problem::<()>(format!("unknown placeholder {{{word}}}; did you mean {{{near}}}?"));
            }
            _ => {}
        }
    }
    Some(text.to_owned())
}

/// Returns whether a gate may write the header, and reports a problem if not.
fn may_write(value: &Value<'_>, name: &str) -> bool {
    let problem = match name {
        "retry-after" => "not here; use retryAfterSeconds",
        GATE_HEADER => "the gate itself sets this header; use another one",
        name if name.starts_with("grpc-") => {
            "would tell a gRPC client another outcome than the status; use status or grpcStatus"
        }
        _ => return true,
    };
    value.problem::<()>(problem);
    false
}
