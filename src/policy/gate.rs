//! `gates`: which requests are answered at once when an upstream they need is not Ready.

use super::matcher::Matches;
use super::reader::Value;
use super::upstream::{self, Upstream, UpstreamId};

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Which requests need the upstream.
    pub matches: Matches,
    /// The upstream they need.
    pub upstream: UpstreamId,
    /// What they are told while it is not Ready.
    pub reply: Reply,
}

/// The reply of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 400 to 599, default 503. A gRPC request gets the grpc-status that Envoy maps it to: 14 for 503.
    pub status: u32,
    /// 0 to 86,400, default 5.
    pub retry_after_seconds: u32,
    /// Further headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// At most 16 KiB; `{upstream}`, `{reason}` and `{retryAfter}` are filled in. Absent: a line that names
    /// policy, upstream and reason.
    pub body: Option<String>,
}

/// The longest body of a reply, in bytes.
const BODY: usize = 16 * 1024;

/// Reads `gates`.
pub fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Vec<Gate>> {
    let gates: Vec<_> = value.list()?.iter().map(|item| Gate::read(item, upstreams)).collect();
    gates.into_iter().collect()
}

impl Gate {
    fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Self> {
        let fields = value.object(&["match", "upstream", "reply", "whenAllNotReady"])?;
        let matches = fields.read("match", Matches::default(), Matches::read);
        let upstream = upstream::required_reference(&fields, upstreams);
        let reply = fields.read("reply", Reply::default(), Reply::read);
        fields.later("whenAllNotReady", |value| value.choice(&[("reply", ()), ("forward", ())]));
        Some(Gate { matches: matches?, upstream: upstream?, reply: reply? })
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self { status: 503, retry_after_seconds: 5, headers: Vec::new(), body: None }
    }
}

impl Reply {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["status", "retryAfterSeconds", "headers", "body"])?;
        let default = Reply::default();
        let status = fields.read("status", default.status, |value| value.integer(400..=599));
        let retry_after_seconds =
            fields.read("retryAfterSeconds", default.retry_after_seconds, |value| value.integer(0..=86_400));
        let headers = fields.read("headers", Vec::new(), |value| value.headers(may_write));
        let body = fields.read("body", None, |value| match value.text()? {
            text if text.len() > BODY => {
                value.problem(format!("{} bytes; allowed: at most {BODY}", text.len()))
            }
            text => Some(Some(text.to_owned())),
        });
        Some(Reply {
            status: status?,
            retry_after_seconds: retry_after_seconds?,
            headers: headers?,
            body: body?,
        })
    }
}

/// Whether a gate may write the header, which is noted where it may not.
fn may_write(value: &Value<'_>, name: &str) -> bool {
    let problem = match name {
        "retry-after" => "set elsewhere; allowed: retryAfterSeconds",
        name if name.starts_with("grpc-") => {
            "would tell a gRPC client another outcome than the status does; allowed: status"
        }
        _ => return true,
    };
    value.problem::<()>(problem);
    false
}
