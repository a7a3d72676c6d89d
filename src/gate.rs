//! Gates: what a request is told whose upstream is not Ready.

use crate::policy::Policy;
use crate::policy::gate::Gate;
use crate::policy::upstream::UpstreamId;
use crate::readiness::Reason;
use crate::reply::{Cause, Reply};

/// The reply of `gate`, whose upstream is not Ready for `reason`.
///
/// A gRPC request gets the same: Envoy turns the status into a grpc-status and the body into grpc-message.
pub fn reply(policy: &Policy, gate: &Gate, reason: Reason) -> Reply {
    let upstream = name(policy, gate.upstream);
    let retry_after = gate.reply.retry_after_seconds.to_string();
    let body = match &gate.reply.body {
        Some(body) => fill(
            body,
            &[("{upstream}", upstream), ("{reason}", reason.code()), ("{retryAfter}", &retry_after)],
        ),
        None => format!("policy {}: upstream {upstream} is not ready: {reason}\n", policy.name),
    };
    let mut headers = gate.reply.headers.clone();
    if !headers.iter().any(|(name, _)| name == "content-type") {
        // A body that looks like JSON is, unless the policy says otherwise.
        let json = body.trim_start().starts_with(['{', '[']);
        let content_type = if json { "application/json" } else { "text/plain; charset=utf-8" };
        headers.push(("content-type".to_owned(), content_type.to_owned()));
    }
    headers.push(("retry-after".to_owned(), retry_after));
    Reply {
        status: gate.reply.status,
        grpc_status: None,
        headers,
        body: body.into_bytes(),
        details: format!("graygate_gate{{{}|{upstream}|{}}}", policy.name, reason.code()),
        cause: Cause::Gate { upstream: gate.upstream, reason },
    }
}

fn name(policy: &Policy, id: UpstreamId) -> &str {
    policy.upstream(id).map_or("", |upstream| upstream.name.as_str())
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
