//! The status page. An allowed address may read what the proxy knows, as JSON or as a page for people.
//!
//! The page for people has no data. Its script reads the JSON from the same path, again and again.

use super::source;
use std::rc::Rc;

use crate::decision::action::Action;
use crate::decision::reply::{Header, ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::StatusPage;
use crate::value::code::CodeSpec;
use crate::value::request::{self, Headers, Request};

/// What a reply of the page is, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum StatusReply {
    /// The page.
    Shown,
    /// A refusal.
    Refused,
}

/// Where the codes appear.
const OF_STATUS: &str = "`result` of `graygate_probe_answers_total` with `probe=\"status\"`";

impl StatusReply {
    /// All of them.
    pub const ALL: [StatusReply; 2] = [StatusReply::Shown, StatusReply::Refused];

    /// Returns the statuses that such a reply can have.
    pub fn statuses(self) -> &'static [u32] {
        match self {
            StatusReply::Shown => &[200],
            StatusReply::Refused => &[403, 405],
        }
    }

    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            StatusReply::Shown => {
                const { CodeSpec::new("shown", OF_STATUS, "The page was shown, in either form.", "") }
            }
            StatusReply::Refused => {
                const {
                    CodeSpec::new(
                        "refused",
                        OF_STATUS,
                        "The page was not shown: wrong source or wrong method.",
                        "The body says why. Allow the source in `probes.status.from`, as the connection's own address.",
                    )
                }
            }
        }
    }
}

/// The page for people.
const PAGE: &str = include_str!("status/page.html");

/// The policy of [`PAGE`] for browsers: its own style and script, and requests to its own origin. Nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'sha256-Hpnfnp+Y1UhoEY1mi+278o1t/wiY7EMDdI2/6QE4+so='; script-src 'sha256-ftd64B3Jfk5zpAWTZvmo5HhsQtiB7X9or7JYj4lrrIs='; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns what happens to a request for the page.
pub fn answer<'p, 'r, R: Request>(
    policy: &Policy,
    page: &StatusPage,
    request: &mut Headers<'r, R>,
) -> Action<'p> {
    if let Err(why) = source::authorize("status", &page.from, request.source()) {
        return Action::Reply(Rc::new(refusal(policy, 403, &why)));
    }
    if !matches!(request.get(":method"), Some(b"GET" | b"HEAD")) {
        let mut reply = refusal(policy, 405, "method not allowed: use GET or HEAD");
        reply.headers.push(("allow".into(), "GET, HEAD".into()));
        return Action::Reply(Rc::new(reply));
    }
    if !wants_page(request) {
        return Action::Status;
    }
    let own = [
        ("content-security-policy", PAGE_POLICY),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    let own = own.map(|(name, value)| (name.into(), value.into()));
    Action::Reply(Rc::new(reply(policy, "text/html; charset=utf-8", own.to_vec(), PAGE.as_bytes().to_vec())))
}

/// Returns the reply with this JSON.
pub fn json(policy: &Policy, body: Vec<u8>) -> Reply {
    reply(policy, "application/json", Vec::new(), body)
}

/// Returns whether the request is for the page for people. The query decides before `accept` does.
fn wants_page<'r, R: Request>(request: &mut Headers<'r, R>) -> bool {
    let target = request.get(":path").unwrap_or_default();
    let format = request::query_values(target, "format").next();
    match format {
        Some(b"html") => true,
        Some(b"json") => false,
        _ => request.get("accept").is_some_and(|accept| {
            accept.split(|byte| *byte == b',').any(|range| {
                let media = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                media.eq_ignore_ascii_case(b"text/html")
            })
        }),
    }
}

fn reply(policy: &Policy, content_type: &'static str, own: Vec<Header>, body: Vec<u8>) -> Reply {
    let mut headers: Vec<Header> = vec![
        ("content-type".into(), content_type.into()),
        ("cache-control".into(), "no-store".into()),
        ("vary".into(), "accept".into()),
        ("x-content-type-options".into(), "nosniff".into()),
    ];
    headers.extend(own);
    Reply::to_probe(policy, ProbeTarget::Status, 200, StatusReply::Shown.spec().code, headers, body)
}

fn refusal(policy: &Policy, status: u32, text: &str) -> Reply {
    Reply::line_to_probe(policy, ProbeTarget::Status, status, StatusReply::Refused.spec().code, text)
}
