//! Gates: what becomes of a request whose upstream is not Ready.
//!
//! It gets the gate's fallback, if there is one that is to be had, and the gate's reply if not. When the policy asks
//! for it, it goes on all the same: see [`fail_open`]. That is said in the response and counted, as is a fallback.

pub mod fail_open;

use core::time::Duration;

use crate::decision::reply::{GATE_HEADER, Header, Reply, ReplyCause};
use crate::policy::Policy;
use crate::policy::gate::{self, Gate};
use crate::policy::upstream::UpstreamId;
use crate::readiness::{UpstreamReason, UpstreamStatus};
use crate::value::time::{Time, millis};
use fail_open::FailOpen;

/// What requests are told to wait, in seconds, where neither the policy nor a wait says.
const RETRY_AFTER: u32 = 5;

/// A closed gate that did not reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateBypass {
    /// The upstream that the gate is on.
    pub upstream: UpstreamId,
    /// Why that is not Ready.
    pub reason: UpstreamReason,
    /// What became of the request instead.
    pub action: GateAction,
}

/// What becomes of a request that a closed gate does not reply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateAction {
    /// It goes on, as the gate fails open.
    FailOpen(FailOpen),
    /// It goes to this upstream.
    Upstream(UpstreamId),
    /// It gets the gate's static answer.
    Answer,
}

impl GateBypass {
    /// What the response says of it: `failed-open; upstream=app; reason=check-failed; because=all-not-ready`, or
    /// `fallback; upstream=app; reason=check-failed; to=static`, where a static answer is called `answer`.
    pub fn describe(&self, policy: &Policy) -> String {
        let (upstream, reason) = (policy.name_of(self.upstream), self.reason.code());
        match self.action {
            GateAction::FailOpen(why) => {
                format!("failed-open; upstream={upstream}; reason={reason}; because={}", why.code())
            }
            action => format!("fallback; upstream={upstream}; reason={reason}; to={}", action.name(policy)),
        }
    }
}

impl GateAction {
    /// Where it leads, by name.
    pub fn name(self, policy: &Policy) -> &str {
        match self {
            GateAction::FailOpen(why) => why.code(),
            GateAction::Upstream(id) => policy.name_of(id),
            GateAction::Answer => "answer",
        }
    }
}

/// The reply of `gate`, whose upstream is not Ready for `reason`.
///
/// A gRPC request gets the same: Envoy turns the status into a grpc-status and the body into grpc-message.
///
/// `now` is asked for only where it makes a difference.
pub fn reply(
    policy: &Policy,
    gate: &Gate,
    reason: UpstreamReason,
    known: &UpstreamStatus,
    now: impl Fn() -> Time,
) -> Reply {
    let retry_after = gate.reply.retry_after_seconds.unwrap_or_else(|| seconds_left(known, now));
    let mut reply = compose(policy, gate, &gate.reply, reason, retry_after);
    reply.headers.push(("retry-after".into(), retry_after.to_string().into()));
    reply
}

/// What a request is told instead of what the upstream of `gate` would say.
pub fn answer(policy: &Policy, gate: &Gate, answer: &gate::ReplyTemplate, reason: UpstreamReason) -> Reply {
    let mut reply = compose(policy, gate, answer, reason, RETRY_AFTER);
    let bypass = GateBypass { upstream: gate.upstream, reason, action: GateAction::Answer };
    reply.headers.push((GATE_HEADER.into(), bypass.describe(policy).into()));
    reply
}

/// What is left of the wait that is on, if one is, in whole seconds; at least one, so that nobody asks at once.
fn seconds_left(known: &UpstreamStatus, now: impl Fn() -> Time) -> u32 {
    let left = |until: Time| {
        let seconds = millis(until.since(now()) + Duration::from_millis(999)) / 1_000;
        u32::try_from(seconds.clamp(1, 86_400)).unwrap_or(RETRY_AFTER)
    };
    known.until.map_or(RETRY_AFTER, left)
}

fn compose(
    policy: &Policy,
    gate: &Gate,
    reply: &gate::ReplyTemplate,
    reason: UpstreamReason,
    retry_after: u32,
) -> Reply {
    let upstream = policy.name_of(gate.upstream);
    let body = match &reply.body {
        Some(body) => {
            let retry_after = retry_after.to_string();
            let values =
                [("{upstream}", upstream), ("{reason}", reason.code()), ("{retryAfter}", &retry_after)];
            fill(body, &values)
        }
        None => format!("policy {}: upstream {upstream} is not ready: {reason}\n", policy.name),
    };
    let body = if reply.has_no_body() { String::new() } else { body };
    let mut headers: Vec<Header> = Vec::with_capacity(reply.headers.len() + 2);
    headers.extend(reply.headers.iter().map(|(name, value)| (name.clone().into(), value.clone().into())));
    if !body.is_empty() && !headers.iter().any(|(name, _)| name == "content-type") {
        // A body that looks like JSON is, unless the policy says otherwise.
        let json = body.trim_start().starts_with(['{', '[']);
        let content_type = if json { "application/json" } else { "text/plain; charset=utf-8" };
        headers.push(("content-type".into(), content_type.into()));
    }
    Reply {
        status: reply.status,
        grpc_status: reply.grpc_status,
        headers,
        body: body.into_bytes(),
        details: ["graygate_gate{", &policy.name, "|", upstream, "|", reason.code(), "}"].concat(),
        cause: ReplyCause::Gate { upstream: gate.upstream, reason },
    }
}

/// Replaces each placeholder once over, so that a value that looks like a placeholder stays as it is.
fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(brace) = rest.find('{') {
        let (before, from_brace) = rest.split_at(brace);
        filled.push_str(before);
        let known = values.iter().find_map(|(name, value)| Some((value, from_brace.strip_prefix(name)?)));
        rest = match known {
            Some((value, after)) => {
                filled.push_str(value);
                after
            }
            None => {
                filled.push('{');
                from_brace.strip_prefix('{').unwrap_or_default()
            }
        };
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let values = [("{upstream}", "{reason}"), ("{reason}", "down")];
        assert_eq!(
            fill(r#"{"u":"{upstream}","why":"{reason}"}"#, &values),
            r#"{"u":"{reason}","why":"down"}"#
        );
        assert_eq!(fill("{", &values), "{");
        assert_eq!(fill("{{reason}}", &values), "{down}");
        assert_eq!(fill("", &values), "");
    }
}
