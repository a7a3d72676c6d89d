//! What a response says about the upstream it came from: one classification for all that judge responses.

pub mod retry_after;

use crate::value::time::Time;

/// What one response is evidence of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseClass {
    /// The upstream works.
    Success,
    /// It doesn't, by its own answer.
    Failure,
    /// It doesn't, as no answer came, or none to its end: the network's failure as well as the app's.
    Unanswered,
    /// It works, but takes longer than it may. Whoever knows how long it took says so.
    Slow,
    /// Nothing about the upstream: a reply of this or another filter, or of the proxy's own limits.
    Ignored,
}

impl ResponseClass {
    /// Whether it speaks against the upstream by a word of `failOn`.
    pub fn is_failure(self) -> bool {
        matches!(self, ResponseClass::Failure | ResponseClass::Unanswered)
    }
}

/// One response as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it says.
    pub class: ResponseClass,
    /// Until when it asked to be left alone, if it did.
    pub retry_at: Option<Time>,
}

impl From<ResponseClass> for Sample {
    fn from(class: ResponseClass) -> Self {
        Sample { class, retry_at: None }
    }
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

/// One of Envoy's `retry_on` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailOn {
    /// `5xx`: any status from 500 to 599, and no answer at all.
    ServerError,
    /// `gateway-error`: 502, 503, 504, and no answer at all.
    GatewayError,
    /// `reset`: no answer at all.
    Reset,
    /// `connect-failure`: no connection.
    ConnectFailure,
    /// `retriable-4xx`: 409, as Envoy has it.
    Retriable4xx,
    /// A status of 400 to 599, such as `"429"`.
    Status(u16),
    /// A gRPC status by its name in Envoy's `retry_grpc_on`, such as `resource-exhausted`.
    Grpc(u32),
}

impl FailOn {
    /// Whether only the status of a gRPC response can tell.
    pub fn asks_for_grpc_status(self) -> bool {
        matches!(self, FailOn::Grpc(_))
    }
}

/// Classifies responses by the words of a policy.
#[derive(Clone, Copy)]
pub struct Classifier<'p> {
    /// Words for failures.
    pub fail_on: &'p [FailOn],
    /// Words for responses that are ignored, whatever `fail_on` says.
    pub ignore_on: &'p [FailOn],
}

impl Classifier<'_> {
    /// Classifies a response by its status and by Envoy's `response.code_details`.
    ///
    /// Only details that name the upstream count: a rate limit, an authorization filter or a direct response
    /// says nothing about it. Nor does `overflow`, the proxy's own limit on connections and requests.
    ///
    /// `grpc_status` is the service's own, of a gRPC response whose status is known.
    pub fn classify(self, status: Option<u16>, details: &[u8], grpc_status: Option<u32>) -> ResponseClass {
        self.judge(status, origin(details), grpc_status)
    }

    /// Whether an upstream's response with this status is a success, if no gRPC status says otherwise.
    pub fn is_success(self, status: u16) -> bool {
        self.judge(Some(status), Origin::Upstream, None) == ResponseClass::Success
    }

    /// Classifies a request that has waited for an answer for longer than one may take.
    pub fn unanswered(self) -> ResponseClass {
        self.judge(None, Origin::NoAnswer, None)
    }

    fn judge(self, status: Option<u16>, origin: Origin, grpc_status: Option<u32>) -> ResponseClass {
        let covered = |words: &[FailOn]| words.iter().any(|word| covers(*word, status, origin, grpc_status));
        match origin {
            Origin::Proxy => ResponseClass::Ignored,
            _ if covered(self.ignore_on) => ResponseClass::Ignored,
            Origin::Upstream if covered(self.fail_on) => ResponseClass::Failure,
            Origin::Upstream => ResponseClass::Success,
            Origin::NoConnection | Origin::NoAnswer if covered(self.fail_on) => ResponseClass::Unanswered,
            // No answer, and the policy does not call that a failure: no success either.
            Origin::NoConnection | Origin::NoAnswer => ResponseClass::Ignored,
        }
    }
}

/// The details of a response that an upstream sent.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// Whether the word is one for such a response.
fn covers(word: FailOn, status: Option<u16>, origin: Origin, grpc_status: Option<u32>) -> bool {
    match (word, origin) {
        (_, Origin::Proxy) => false,
        (FailOn::ConnectFailure, origin) => origin == Origin::NoConnection,
        (FailOn::Status(_) | FailOn::Retriable4xx, Origin::NoConnection | Origin::NoAnswer) => false,
        // A client sees the router's own 503 as UNAVAILABLE.
        (FailOn::Grpc(code), Origin::NoConnection | Origin::NoAnswer) => code == UNAVAILABLE,
        (FailOn::Grpc(code), Origin::Upstream) => grpc_status == Some(code),
        (FailOn::Status(code), Origin::Upstream) => status == Some(code),
        (FailOn::Retriable4xx, Origin::Upstream) => status == Some(409),
        (_, Origin::NoConnection | Origin::NoAnswer) => true,
        (FailOn::ServerError, Origin::Upstream) => matches!(status, Some(500..=599)),
        (FailOn::GatewayError, Origin::Upstream) => matches!(status, Some(502..=504)),
        (FailOn::Reset, Origin::Upstream) => false,
    }
}

/// The gRPC status UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

/// Whether these details, at the end of a stream whose response had begun, are of one that the upstream broke off. A
/// response that the route's timeout cut is none: it may be its client that is slow to read.
pub fn broke_off(details: &[u8]) -> bool {
    details.starts_with(BROKEN)
}

/// Whether these details, at the end of a stream whose response had begun, are of one that the route's timeout cut.
pub fn was_cut(details: &[u8]) -> bool {
    details.starts_with(b"response_timeout")
}

const BROKEN: &[u8] = b"upstream_reset_after_response_started";

/// Whether these details are of a request whose route leads to a cluster that is not there.
pub fn had_no_cluster(details: &[u8]) -> bool {
    details == b"cluster_not_found"
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
    if details == VIA_UPSTREAM {
        return Origin::Upstream;
    }
    // The cluster has no host, or is not there: a request for it can't be served either way.
    if starts("no_healthy_upstream") || had_no_cluster(details) {
        return Origin::NoConnection;
    }
    if starts("upstream_reset_before_response_started") {
        return match () {
            () if contains("{overflow") => Origin::Proxy,
            () if contains("connection_failure") || contains("connection_timeout") => Origin::NoConnection,
            () => Origin::NoAnswer,
        };
    }
    if details.starts_with(BROKEN) {
        return Origin::NoAnswer;
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
    use ResponseClass::{Failure, Ignored, Success, Unanswered};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn classified(status: u16, details: &str, grpc_status: Option<u32>, word: FailOn) -> ResponseClass {
        let classifier = Classifier { fail_on: &[word], ignore_on: &[] };
        classifier.classify(Some(status), details.as_bytes(), grpc_status)
    }

    const REFUSED: &str = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
    const CLOSED: &str = "upstream_reset_before_response_started{connection_termination}";

    #[test]
    fn each_word_covers_what_envoy_says_it_covers() {
        let rows: &[(FailOn, u16, &str, ResponseClass)] = &[
            (ServerError, 500, "via_upstream", Failure),
            (ServerError, 404, "via_upstream", Success),
            (ServerError, 503, REFUSED, Unanswered),
            (ServerError, 504, "response_timeout", Unanswered),
            (GatewayError, 500, "via_upstream", Success),
            (GatewayError, 502, "via_upstream", Failure),
            (GatewayError, 503, "no_healthy_upstream", Unanswered),
            (Reset, 503, "via_upstream", Success),
            (Reset, 503, CLOSED, Unanswered),
            (ConnectFailure, 503, REFUSED, Unanswered),
            (ConnectFailure, 503, CLOSED, Ignored),
            (ConnectFailure, 504, "response_timeout", Ignored),
        ];
        for (word, status, details, expected) in rows {
            assert_eq!(classified(*status, details, None, *word), *expected, "{word:?} {status} {details}");
        }
    }

    #[test]
    fn statuses_may_be_named_one_by_one() {
        for (status, word, expected) in [
            (429, FailOn::Status(429), Failure),
            (503, FailOn::Status(429), Success),
            (409, FailOn::Retriable4xx, Failure),
            (404, FailOn::Retriable4xx, Success),
        ] {
            assert_eq!(classified(status, "via_upstream", None, word), expected, "{status} {word:?}");
        }
        assert_eq!(classified(503, REFUSED, None, FailOn::Status(503)), Ignored);
    }

    #[test]
    fn a_grpc_status_is_the_services_own_or_what_a_client_sees_of_no_answer() {
        let (exhausted, unavailable) = (FailOn::Grpc(8), FailOn::Grpc(14));
        for (details, status, word, expected) in [
            ("via_upstream", Some(8), exhausted, Failure),
            ("via_upstream", Some(0), exhausted, Success),
            ("via_upstream", None, exhausted, Success),
            ("via_upstream", Some(14), unavailable, Failure),
            (REFUSED, None, unavailable, Unanswered),
            (REFUSED, None, exhausted, Ignored),
        ] {
            assert_eq!(classified(200, details, status, word), expected, "{details} {status:?} {word:?}");
        }
    }

    #[test]
    fn a_response_that_breaks_off_is_none() {
        let details = "upstream_reset_after_response_started{remote_reset}";
        assert!(
            broke_off(details.as_bytes()) && !broke_off(b"response_timeout") && !broke_off(b"via_upstream")
        );
        for word in [ServerError, GatewayError, Reset] {
            assert_eq!(classified(200, details, None, word), Unanswered, "{word:?}");
        }
        assert_eq!(classified(200, details, None, ConnectFailure), Ignored);
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
            assert_eq!(classified(503, details, None, ServerError), Ignored, "{details}");
        }
    }

    #[test]
    fn what_is_to_be_ignored_is_neither_a_failure_nor_a_success() {
        let classifier =
            Classifier { fail_on: &[ServerError], ignore_on: &[FailOn::Status(501), ConnectFailure] };
        let judged = |status, details: &str| classifier.classify(Some(status), details.as_bytes(), None);
        assert_eq!(judged(501, "via_upstream"), Ignored);
        assert_eq!(judged(500, "via_upstream"), Failure);
        assert_eq!((judged(503, REFUSED), judged(503, CLOSED)), (Ignored, Unanswered));
    }

    #[test]
    fn a_request_that_has_waited_for_too_long_has_no_answer() {
        let waited = |word| Classifier { fail_on: &[word], ignore_on: &[] }.unanswered();
        assert_eq!([ServerError, GatewayError, Reset].map(waited), [Unanswered; 3]);
        assert_eq!([ConnectFailure, FailOn::Status(504)].map(waited), [Ignored; 2]);
    }
}
