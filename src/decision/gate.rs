//! Gates, which decide what happens to a request whose upstream is not Ready.
//!
//! The request gets the gate's fallback if that is available, and otherwise the gate's reply. If the policy
//! asks for it, the gate fails open and the request is forwarded (see [`fail_open`]). A bypass by a fallback
//! or by failing open is shown in the response and counted.

pub mod fail_open;

use core::time::Duration;

use crate::decision::reply::{GATE_HEADER, Header, Reply, ReplyCause};
use crate::policy::Policy;
use crate::policy::gate::{self, Gate};
use crate::policy::upstream::UpstreamId;
use crate::readiness::{UpstreamReason, UpstreamStatus};
use crate::value::time::{Time, millis};
use fail_open::FailOpen;

/// The `retry-after` in seconds if neither the policy nor a wait determines it.
const RETRY_AFTER: u32 = 5;

/// What a closed gate did with a request other than reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateBypass {
    /// The gate's upstream.
    pub upstream: UpstreamId,
    /// The reason for which it is not Ready.
    pub reason: UpstreamReason,
    /// What the gate did.
    pub action: GateAction,
}

/// What a closed gate does with a request that it does not reply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateAction {
    /// The gate fails open, so the request is forwarded.
    FailOpen(FailOpen),
    /// The request goes to this upstream.
    Upstream(UpstreamId),
    /// The request gets the gate's static answer.
    Answer,
}

impl GateBypass {
    /// Returns the value of the response header, in one of these forms. The name of a static answer is
    /// `answer`.
    ///
    /// - `failed-open; upstream=app; reason=check-failed; because=all-not-ready`
    /// - `fallback; upstream=app; reason=check-failed; to=static`
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
    /// Returns the name of what the request gets instead.
    pub fn name(self, policy: &Policy) -> &str {
        match self {
            GateAction::FailOpen(why) => why.code(),
            GateAction::Upstream(id) => policy.name_of(id),
            GateAction::Answer => "answer",
        }
    }
}

/// Returns the reply of `gate`, whose upstream is not Ready for `reason`.
///
/// A gRPC request gets the same reply. Envoy turns the status into a grpc-status and the body into the
/// grpc-message.
///
/// `now` is called only if the reply depends on it.
pub fn reply(
    policy: &Policy,
    gate: &Gate,
    reason: UpstreamReason,
    status: &UpstreamStatus,
    now: impl Fn() -> Time,
) -> Reply {
    let retry_after = gate.reply.retry_after_seconds.unwrap_or_else(|| seconds_left(status, now));
    let mut reply = compose(policy, gate, &gate.reply, reason, retry_after);
    reply.headers.push(("retry-after".into(), retry_after.to_string().into()));
    reply
}

/// Returns the static answer of `gate`, which stands in for a response of its upstream.
pub fn answer(policy: &Policy, gate: &Gate, answer: &gate::ReplyTemplate, reason: UpstreamReason) -> Reply {
    let mut reply = compose(policy, gate, answer, reason, RETRY_AFTER);
    let bypass = GateBypass { upstream: gate.upstream, reason, action: GateAction::Answer };
    reply.headers.push((GATE_HEADER.into(), bypass.describe(policy).into()));
    reply
}

/// Returns the rest of the current wait in whole seconds, at least 1, or the default without a wait.
fn seconds_left(status: &UpstreamStatus, now: impl Fn() -> Time) -> u32 {
    let Some(until) = status.until else {
        return RETRY_AFTER;
    };
    let seconds = millis(until.since(now()) + Duration::from_millis(999)) / 1_000;
    u32::try_from(seconds.clamp(1, 86_400)).unwrap_or(RETRY_AFTER)
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
        // A body that looks like JSON is JSON, unless the policy says otherwise.
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

/// Replaces each placeholder in one pass, so that a value that looks like a placeholder stays as it is.
fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(brace) = rest.find('{') {
        let (before, from_brace) = rest.split_at(brace);
        filled.push_str(before);
        let placeholder =
            values.iter().find_map(|(name, value)| Some((value, from_brace.strip_prefix(name)?)));
        rest = match placeholder {
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
    fn placeholders_are_replaced_and_other_braces_stay() {
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
