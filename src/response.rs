//! What a response says about the upstream it came from: one classification for all that judge responses.

use crate::policy::upstream::FailOn;

/// What one response is evidence of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream works.
    Success,
    /// It doesn't.
    Failure,
    /// Nothing about the upstream: a reply of this or another filter, or of the proxy's own limits.
    Ignored,
}

/// How the proxy came by a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The upstream sent it.
    Upstream,
    /// The router made it up, as no connection could be made.
    NoConnection,
    /// The router made it up, as no answer came.
    NoAnswer,
    /// Anything else.
    Proxy,
}

/// Judges a response by its status and by Envoy's `response.code_details`.
///
/// Only details that name the upstream count: a rate limit, an authorization filter or a direct response
/// says nothing about it. Nor does `overflow`, the proxy's own limit on connections and requests.
pub fn classify(status: Option<u16>, details: &[u8], fail_on: &[FailOn]) -> Verdict {
    let origin = origin(details);
    let failed = |word: &FailOn| match (word, origin) {
        (_, Origin::Proxy) => false,
        (FailOn::ConnectFailure, origin) => origin == Origin::NoConnection,
        (_, Origin::NoConnection | Origin::NoAnswer) => true,
        (FailOn::ServerError, Origin::Upstream) => matches!(status, Some(500..=599)),
        (FailOn::GatewayError, Origin::Upstream) => matches!(status, Some(502..=504)),
        (FailOn::Reset, Origin::Upstream) => false,
    };
    match origin {
        Origin::Proxy => Verdict::Ignored,
        _ if fail_on.iter().any(failed) => Verdict::Failure,
        Origin::Upstream => Verdict::Success,
        // No answer, and the policy does not call that a failure: no success either.
        Origin::NoConnection | Origin::NoAnswer => Verdict::Ignored,
    }
}

/// Whether a response with these `response.code_details` tells how the upstream is: it is the upstream's own,
/// or the router's for want of one.
pub fn is_of_upstream(details: &[u8]) -> bool {
    origin(details) != Origin::Proxy
}

/// The details that Envoy's router sets, in its own words.
fn origin(details: &[u8]) -> Origin {
    let starts = |text: &str| details.starts_with(text.as_bytes());
    let contains = |text: &str| details.windows(text.len()).any(|part| part == text.as_bytes());
    if details == b"via_upstream" {
        return Origin::Upstream;
    }
    // The cluster has no host, or is not there: a request for it can't be served either way.
    if starts("no_healthy_upstream") || starts("cluster_not_found") {
        return Origin::NoConnection;
    }
    if starts("upstream_reset_before_response_started") {
        return match () {
            () if contains("{overflow") => Origin::Proxy,
            () if contains("connection_failure") || contains("connection_timeout") => Origin::NoConnection,
            () => Origin::NoAnswer,
        };
    }
    let timeouts = [
        "response_timeout",
        "upstream_response_timeout",
        "upstream_per_try_timeout",
        "upstream_per_try_idle_timeout",
    ];
    if timeouts.into_iter().any(starts) { Origin::NoAnswer } else { Origin::Proxy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailOn::{ConnectFailure, GatewayError, Reset, ServerError};
    use Verdict::{Failure, Ignored, Success};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const REFUSED: &str = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
    const CLOSED: &str = "upstream_reset_before_response_started{connection_termination}";

    #[test]
    fn each_word_covers_what_envoy_says_it_covers() {
        let rows: &[(FailOn, u16, &str, Verdict)] = &[
            (ServerError, 500, "via_upstream", Failure),
            (ServerError, 404, "via_upstream", Success),
            (ServerError, 503, REFUSED, Failure),
            (ServerError, 504, "response_timeout", Failure),
            (GatewayError, 500, "via_upstream", Success),
            (GatewayError, 502, "via_upstream", Failure),
            (GatewayError, 503, "no_healthy_upstream", Failure),
            (Reset, 503, "via_upstream", Success),
            (Reset, 503, CLOSED, Failure),
            (ConnectFailure, 503, REFUSED, Failure),
            (ConnectFailure, 503, CLOSED, Ignored),
            (ConnectFailure, 504, "response_timeout", Ignored),
        ];
        for (word, status, details, expected) in rows {
            assert_eq!(
                classify(Some(*status), details.as_bytes(), &[*word]),
                *expected,
                "{word:?} {status} {details}"
            );
        }
    }

    #[test]
    fn replies_of_the_proxy_itself_are_no_evidence() {
        let own = [
            "",
            "direct_response",
            "graygate_gate{a|b|c}",
            "rbac_access_denied_matched_policy[x]",
            "upstream_reset_before_response_started{overflow}",
            "route_not_found",
            "\u{fffd}",
        ];
        for details in own {
            assert_eq!(classify(Some(503), details.as_bytes(), &[ServerError]), Ignored, "{details}");
        }
    }
}
