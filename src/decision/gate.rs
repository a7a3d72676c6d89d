//! Gates, which decide what happens to a request whose upstream is not Ready.
//!
//! The request gets the gate's fallback if that is available, and otherwise the gate's reply. If the policy
//! asks for it, the gate fails open and the request is forwarded (see [`fail_open`]). A bypass by a fallback
//! or by failing open is shown in the response and counted.

pub mod cors;
pub mod fail_open;

use core::time::Duration;
use std::borrow::Cow;

use crate::decision::reply::{GATE_HEADER, Header, Reply, ReplyCause};
use crate::policy::Policy;
use crate::policy::gate::{self, Gate};
use crate::policy::upstream::UpstreamId;
use crate::readiness::{UpstreamReason, UpstreamStatus};
use crate::value::code::CodeSpec;
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
    /// Whether the client is told the upstream and the reason.
    pub names_cause: bool,
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

/// Where the words appear.
const OF_HEADER: &str = "the response header `x-graygate-gate`";

impl GateBypass {
    /// Returns what `gate` did with a request, while its upstream was not Ready for `reason`.
    pub fn new(gate: &Gate, reason: UpstreamReason, action: GateAction) -> Self {
        GateBypass { upstream: gate.upstream, reason, action, names_cause: gate.names_cause }
    }

    /// Describes it for the operator, in one of these forms. The name of a static answer is `answer`.
    ///
    /// - `failed-open; upstream=app; reason=check-failed; because=all-not-ready`
    /// - `fallback; upstream=app; reason=check-failed; to=static`
    pub fn describe(&self, policy: &Policy) -> String {
        let (upstream, reason) = (policy.name_of(self.upstream), self.reason.code());
        let link = if matches!(self.action, GateAction::FailOpen(_)) { "because" } else { "to" };
        let (word, name) = (self.action.word(), self.action.name(policy));
        format!("{word}; upstream={upstream}; reason={reason}; {link}={name}")
    }

    /// Returns the value of the response header. It is the whole description, or its first word if clients are
    /// not told the cause.
    pub fn header(&self, policy: &Policy) -> Cow<'static, str> {
        if self.names_cause { self.describe(policy).into() } else { self.action.word().into() }
    }
}

impl GateAction {
    fn word(self) -> &'static str {
        self.spec().code
    }

    /// Returns the first word of the response header, with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            GateAction::FailOpen(_) => {
                const {
                    CodeSpec::new(
                        "failed-open",
                        OF_HEADER,
                        "The gate let the request through although its upstream is not ready.",
                        "Look up `because` in [gates that fail open](#gates-that-fail-open).",
                    )
                }
            }
            GateAction::Upstream(_) | GateAction::Answer => {
                const {
                    CodeSpec::new(
                        "fallback",
                        OF_HEADER,
                        "The request went to the gate's fallback upstream, or got its static answer. `to` says which.",
                        "Look up `reason` in [readiness of an upstream](#readiness-of-an-upstream).",
                    )
                }
            }
        }
    }

    /// Returns the name of what the request gets instead.
    pub fn name(self, policy: &Policy) -> &str {
        match self {
            GateAction::FailOpen(why) => why.code(),
            GateAction::Upstream(id) => policy.name_of(id),
            GateAction::Answer => "answer",
        }
    }
}

/// Returns the seconds after which a client may retry that gets a reply of `gate`. `now` is called only if they depend on it.
pub fn retry_after(gate: &Gate, status: &UpstreamStatus, now: impl Fn() -> Time) -> u32 {
    gate.reply.retry_after_seconds.unwrap_or_else(|| seconds_left(status, now))
}

/// Returns the reply of `gate`, whose upstream is not Ready for `reason`, to a page of this origin. The client may retry after
/// so many seconds.
///
/// A gRPC request gets the same reply. Envoy turns the status into a grpc-status and the body into the
/// grpc-message.
pub fn reply(
    policy: &Policy,
    gate: &Gate,
    reason: UpstreamReason,
    origin: Option<&str>,
    retry_after: u32,
) -> Reply {
    let mut reply = compose(policy, gate, &gate.reply, reason, origin, retry_after);
    reply.headers.push(("retry-after".into(), retry_after.to_string().into()));
    reply
}

/// Returns the static answer of `gate`, which stands in for a response of its upstream, to a page of this
/// origin.
pub fn answer(
    policy: &Policy,
    gate: &Gate,
    answer: &gate::ReplyTemplate,
    reason: UpstreamReason,
    origin: Option<&str>,
) -> Reply {
    let mut reply = compose(policy, gate, answer, reason, origin, RETRY_AFTER);
    let bypass = GateBypass::new(gate, reason, GateAction::Answer);
    reply.headers.push((GATE_HEADER.into(), bypass.header(policy)));
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
    origin: Option<&str>,
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
        None if gate.names_cause => {
            format!("policy {}: upstream {upstream} is not ready: {reason}\n", policy.name)
        }
        None => "not ready\n".to_owned(),
    };
    let body = if reply.has_no_body() { String::new() } else { body };
    Reply {
        status: reply.status,
        grpc_status: reply.grpc_status,
        headers: headers(gate, reply, &body, origin),
        serialized: Vec::new(),
        body: body.into_bytes(),
        details: ["graygate_gate{", &policy.name, "|", upstream, "|", reason.code(), "}"].concat(),
        cause: ReplyCause::Gate { upstream: gate.upstream, reason },
    }
}

/// The header that keeps an Envoy in front from retrying the request, unless its `retry_on` has
/// `envoy-ratelimited`. `x-envoy-overloaded` does not keep it from that.
const NO_RETRY: (&str, &str) = ("x-envoy-ratelimited", "true");

/// Returns the headers of a reply with this body: those of the policy, and the defaults that it does not
/// replace.
fn headers(gate: &Gate, reply: &gate::ReplyTemplate, body: &str, origin: Option<&str>) -> Vec<Header> {
    let own = reply.headers.iter().map(|(name, value)| (name.clone().into(), value.clone().into()));
    let mut headers: Vec<Header> = own.collect();
    if !body.is_empty() {
        // A body that looks like JSON is JSON, unless the policy says otherwise.
        let json = body.trim_start().starts_with(['{', '[']);
        let content_type = if json { "application/json" } else { "text/plain; charset=utf-8" };
        add_default(&mut headers, "content-type", content_type.into());
    }
    // Caches keep a 200 or a 404 for minutes by themselves, and would hide that the upstream is Ready again.
    add_default(&mut headers, "cache-control", "no-store".into());
    if reply.status >= 400 && !reply.retriable {
        add_default(&mut headers, NO_RETRY.0, NO_RETRY.1.into());
    }
    if let Some(cors) = &gate.cors {
        for (name, value) in cors::headers(cors, origin) {
            add_default(&mut headers, name, value);
        }
        // The policy may name further headers. Caches read all lines.
        headers.push(("vary".into(), "origin".into()));
    }
    headers
}

/// Adds a header unless there is one of this name.
#[inline(never)]
fn add_default(headers: &mut Vec<Header>, name: &'static str, value: Cow<'static, str>) {
    if !headers.iter().any(|(known, _)| known == name) {
        headers.push((name.into(), value));
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
