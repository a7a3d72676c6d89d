//! Classifies responses by what they show about their upstream. The breaker, the rollback and the metrics use
//! the same classification.

pub mod retry_after;

use crate::value::peers::Peers;
use crate::value::request::HeaderMap;
use crate::value::string_match::StringMatch;
use crate::value::time::Time;

/// The class of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseClass {
    /// The upstream works.
    Success,
    /// The upstream failed, by its own response.
    Failure,
    /// The upstream sent no response, or did not finish it. The network may be at fault as well as the app.
    Unanswered,
    /// No evidence about the upstream. This or another filter replied, or the proxy refused by a limit of its
    /// own.
    Ignored,
}

impl ResponseClass {
    /// Returns whether the response is a failure by `failOn`.
    pub fn is_failure(self) -> bool {
        matches!(self, ResponseClass::Failure | ResponseClass::Unanswered)
    }
}

/// One response as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The class of the response.
    pub class: ResponseClass,
    /// Whether it took longer than the policy allows. A failure may be slow as well. Has no effect if the class
    /// is [`ResponseClass::Ignored`].
    pub slow: bool,
    /// The end of the backoff that the response asked for, if it asked for one.
    pub retry_at: Option<Time>,
    /// Whether its request has waited for as long as it may. Such a failure shares no cause with others of the same moment,
    /// as those of a connection that closes do.
    pub has_waited: bool,
    /// The host that it came from and the client that it went to, if they matter.
    pub peers: Peers,
    /// The number of successes before it that were not inspected, and for which it stands.
    pub stands_for: u32,
}

impl From<ResponseClass> for Sample {
    fn from(class: ResponseClass) -> Self {
        Sample {
            class,
            slow: false,
            retry_at: None,
            has_waited: false,
            peers: Peers::default(),
            stands_for: 0,
        }
    }
}

impl Sample {
    /// Returns whether it is a success that was not slow.
    pub fn is_good(self) -> bool {
        self.class == ResponseClass::Success && !self.slow
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The upstream sent it.
    Upstream,
    /// The router generated it because no connection could be made.
    NoConnection,
    /// The router generated it because no response came.
    NoAnswer,
    /// Anything else.
    Proxy,
}

/// A failure condition. Most are named as in Envoy's `retry_on` and `retry_grpc_on`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FailOn {
    /// `5xx`: any status from 500 to 599, or no response.
    ServerError,
    /// `4xx`: any status from 400 to 499.
    ClientError,
    /// `gateway-error`: 502, 503, 504, or no response.
    GatewayError,
    /// `reset`: no response.
    Reset,
    /// `connect-failure`: no connection.
    ConnectFailure,
    /// `retriable-4xx`: 409, as in Envoy.
    Retriable4xx,
    /// A status of 400 to 599, such as `"429"`.
    Status(u16),
    /// `retried`: any response that the proxy got only by sending the request again.
    Retried,
    /// A gRPC status by its name in Envoy's `retry_grpc_on`, such as `resource-exhausted`.
    Grpc(u32),
    /// An object such as `{header: x-error, exact: "yes"}`: a header of the upstream's response.
    Header {
        /// The name of the header, in lower case.
        name: String,
        /// The condition on its first value.
        value: StringMatch,
    },
}

impl FailOn {
    /// Returns whether the condition needs the status of a gRPC response.
    pub fn asks_for_grpc_status(&self) -> bool {
        matches!(self, FailOn::Grpc(_))
    }

    /// Returns whether the condition needs to know how often the request was sent.
    pub fn asks_for_attempts(&self) -> bool {
        matches!(self, FailOn::Retried)
    }

    /// Returns the name of the response header that the condition needs, if it needs one.
    pub fn header(&self) -> Option<&str> {
        match self {
            FailOn::Header { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// What is known of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseFacts<'r> {
    /// The `:status`.
    pub status: Option<u16>,
    /// Envoy's `response.code_details`, which tell who made the response.
    pub details: &'r [u8],
    /// The status that the service sent, if the response is gRPC and its status has come.
    pub grpc_status: Option<u32>,
    /// At least the headers that the conditions need.
    pub headers: HeaderMap<'r>,
    /// Whether the proxy sent the request more than once, if the conditions need it.
    pub retried: bool,
}

/// Classifies responses by the conditions of a policy.
///
/// ```
/// use graygate::value::response::{Classifier, FailOn, ResponseClass, ResponseFacts};
///
/// let classifier = Classifier { fail_on: &[FailOn::ServerError], ignore_on: &[FailOn::Status(501)] };
/// let classify = |status, details| {
///     classifier.classify(ResponseFacts { status: Some(status), details, ..ResponseFacts::default() })
/// };
/// let of_upstream = |status| classify(status, b"via_upstream");
/// assert_eq!(of_upstream(200), ResponseClass::Success);
/// assert_eq!(of_upstream(503), ResponseClass::Failure);
/// assert_eq!(of_upstream(501), ResponseClass::Ignored);
///
/// // The router sent this 503 because it had no host to connect to.
/// assert_eq!(classify(503, b"no_healthy_upstream"), ResponseClass::Unanswered);
/// // Another filter sent this 503, so it is no evidence about the upstream.
/// assert_eq!(classify(503, b"request_rate_limited"), ResponseClass::Ignored);
/// ```
#[derive(Clone, Copy)]
pub struct Classifier<'p> {
    /// The conditions of a failure.
    pub fail_on: &'p [FailOn],
    /// The conditions under which a response is ignored. They take precedence over `fail_on`.
    pub ignore_on: &'p [FailOn],
}

impl Classifier<'_> {
    /// Classifies a response.
    ///
    /// Only details that name the upstream count. A rate limit, an authorization filter or a direct response
    /// is no evidence about it. Neither is `overflow`, the proxy's own limit on connections and requests.
    pub fn classify(self, response: ResponseFacts<'_>) -> ResponseClass {
        self.judge(response, origin(response.details))
    }

    /// Returns whether an upstream's response with this status and these headers is a success, unless a gRPC
    /// status or the number of attempts says otherwise.
    pub fn is_success(self, status: u16, headers: HeaderMap<'_>) -> bool {
        let response = ResponseFacts { status: Some(status), headers, ..ResponseFacts::default() };
        self.judge(response, Origin::Upstream) == ResponseClass::Success
    }

    /// Classifies a request that got no response within the time allowed.
    pub fn unanswered(self) -> ResponseClass {
        self.judge(ResponseFacts::default(), Origin::NoAnswer)
    }

    fn judge(self, response: ResponseFacts<'_>, origin: Origin) -> ResponseClass {
        let covered =
            |conditions: &[FailOn]| conditions.iter().any(|condition| covers(condition, response, origin));
        match origin {
            Origin::Proxy => ResponseClass::Ignored,
            _ if covered(self.ignore_on) => ResponseClass::Ignored,
            Origin::Upstream if covered(self.fail_on) => ResponseClass::Failure,
            Origin::Upstream => ResponseClass::Success,
            Origin::NoConnection | Origin::NoAnswer if covered(self.fail_on) => ResponseClass::Unanswered,
            // The policy does not treat a missing response as a failure, and it is no success either.
            Origin::NoConnection | Origin::NoAnswer => ResponseClass::Ignored,
        }
    }
}

/// The `response.code_details` of a response that an upstream sent.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

fn covers(condition: &FailOn, response: ResponseFacts<'_>, origin: Origin) -> bool {
    let status = response.status;
    match (condition, origin) {
        (_, Origin::Proxy) => false,
        (FailOn::ConnectFailure, origin) => origin == Origin::NoConnection,
        (
            FailOn::Status(_)
            | FailOn::ClientError
            | FailOn::Retriable4xx
            | FailOn::Retried
            | FailOn::Header { .. },
            Origin::NoConnection | Origin::NoAnswer,
        ) => false,
        // A client sees the router's own 503 as UNAVAILABLE.
        (FailOn::Grpc(code), Origin::NoConnection | Origin::NoAnswer) => *code == UNAVAILABLE,
        (FailOn::Grpc(code), Origin::Upstream) => response.grpc_status == Some(*code),
        (FailOn::Header { name, value }, Origin::Upstream) => value.holds(response.headers.get(name), false),
        (FailOn::Retried, Origin::Upstream) => response.retried,
        (FailOn::Status(code), Origin::Upstream) => status == Some(*code),
        (FailOn::ClientError, Origin::Upstream) => matches!(status, Some(400..=499)),
        (FailOn::Retriable4xx, Origin::Upstream) => status == Some(409),
        (_, Origin::NoConnection | Origin::NoAnswer) => true,
        (FailOn::ServerError, Origin::Upstream) => matches!(status, Some(500..=599)),
        (FailOn::GatewayError, Origin::Upstream) => matches!(status, Some(502..=504)),
        (FailOn::Reset, Origin::Upstream) => false,
    }
}

const UNAVAILABLE: u32 = 14;

/// Returns whether these details mean that the upstream broke off a response that had begun.
///
/// Returns `false` for a response that the route's timeout cut, because its client may be the one that reads
/// slowly.
pub fn broke_off(details: &[u8]) -> bool {
    details.starts_with(BROKEN)
}

/// Returns whether these details mean that the connection was closed, or the request reset, before a response. Returns
/// `false` if there was no connection.
pub fn was_reset(details: &[u8]) -> bool {
    details.starts_with(b"upstream_reset_before_response_started") && origin(details) == Origin::NoAnswer
}

/// Returns whether these details mean that a timeout of the route or of the caller has passed.
pub fn is_timeout(details: &[u8]) -> bool {
    TIMEOUTS.iter().any(|timeout| details.starts_with(timeout.as_bytes()))
}

/// Returns whether these details mean that a limit of the proxy on idle or whole streams has passed. It is the upstream's
/// fault only if the upstream has the whole request.
pub fn is_limit(details: &[u8]) -> bool {
    let limits = ["stream_idle_timeout", "max_duration_timeout", "upstream_max_stream_duration_reached"];
    limits.iter().any(|limit| details.starts_with(limit.as_bytes()))
}

const TIMEOUTS: [&str; 4] = [
    "response_timeout",
    "upstream_response_timeout",
    "upstream_per_try_timeout",
    "upstream_per_try_idle_timeout",
];

const BROKEN: &[u8] = b"upstream_reset_after_response_started";

/// Returns whether these details mean that the route's cluster does not exist.
pub fn had_no_cluster(details: &[u8]) -> bool {
    details == b"cluster_not_found"
}

/// Returns whether a response with these `response.code_details` is evidence about the upstream. It is if the
/// upstream sent it, or if the router generated it because the upstream sent none.
pub fn is_of_upstream(details: &[u8]) -> bool {
    origin(details) != Origin::Proxy
}

/// Returns the origin of a response by the details that Envoy's router sets.
fn origin(details: &[u8]) -> Origin {
    let starts = |text: &str| details.starts_with(text.as_bytes());
    let contains = |text: &str| details.windows(text.len()).any(|part| part == text.as_bytes());
    if details == VIA_UPSTREAM {
        return Origin::Upstream;
    }
    // The cluster has no host or does not exist, so no request for it can be served.
    if starts("no_healthy_upstream") || had_no_cluster(details) {
        return Origin::NoConnection;
    }
    if starts("upstream_reset_before_response_started") {
        if contains("{overflow") {
            return Origin::Proxy;
        }
        let no_connection = contains("connection_failure") || contains("connection_timeout");
        return if no_connection { Origin::NoConnection } else { Origin::NoAnswer };
    }
    if details.starts_with(BROKEN) {
        return Origin::NoAnswer;
    }
    if is_timeout(details) { Origin::NoAnswer } else { Origin::Proxy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::request::serialize;
    use crate::value::string_match::Pattern;
    use FailOn::{ConnectFailure, GatewayError, Reset, ServerError};
    use ResponseClass::{Failure, Ignored, Success, Unanswered};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn classified(status: u16, details: &str, grpc_status: Option<u32>, condition: FailOn) -> ResponseClass {
        let classifier = Classifier { fail_on: &[condition], ignore_on: &[] };
        classifier.classify(ResponseFacts { grpc_status, ..facts(status, details) })
    }

    fn facts(status: u16, details: &str) -> ResponseFacts<'_> {
        ResponseFacts { status: Some(status), details: details.as_bytes(), ..ResponseFacts::default() }
    }

    const REFUSED: &str = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
    const CLOSED: &str = "upstream_reset_before_response_started{connection_termination}";

    #[test]
    fn each_condition_covers_what_it_covers_in_envoy() {
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
        for (condition, status, details, expected) in rows {
            assert_eq!(
                classified(*status, details, None, condition.clone()),
                *expected,
                "{condition:?} {status} {details}"
            );
        }
    }

    #[test]
    fn client_errors_and_single_statuses_can_be_conditions() {
        for (status, condition, expected) in [
            (429, FailOn::Status(429), Failure),
            (503, FailOn::Status(429), Success),
            (409, FailOn::Retriable4xx, Failure),
            (404, FailOn::Retriable4xx, Success),
            (399, FailOn::ClientError, Success),
            (400, FailOn::ClientError, Failure),
            (499, FailOn::ClientError, Failure),
            (500, FailOn::ClientError, Success),
        ] {
            assert_eq!(
                classified(status, "via_upstream", None, condition.clone()),
                expected,
                "{status} {condition:?}"
            );
        }
        assert_eq!(classified(503, REFUSED, None, FailOn::Status(503)), Ignored);
        assert_eq!(classified(429, "request_rate_limited", None, FailOn::ClientError), Ignored);
    }

    #[test]
    fn a_grpc_condition_covers_the_status_of_the_service_or_unavailable_if_there_is_no_response() {
        let (exhausted, unavailable) = (8, 14);
        for (details, status, condition, expected) in [
            ("via_upstream", Some(8), exhausted, Failure),
            ("via_upstream", Some(0), exhausted, Success),
            ("via_upstream", None, exhausted, Success),
            ("via_upstream", Some(14), unavailable, Failure),
            (REFUSED, None, unavailable, Unanswered),
            (REFUSED, None, exhausted, Ignored),
        ] {
            assert_eq!(
                classified(200, details, status, FailOn::Grpc(condition)),
                expected,
                "{details} {status:?} {condition:?}"
            );
        }
    }

    fn header(name: &str, value: StringMatch) -> FailOn {
        FailOn::Header { name: name.to_owned(), value }
    }

    #[test]
    fn a_header_condition_covers_the_upstreams_own_headers() {
        let bytes = serialize([(&b"x-error"[..], &b"yes\xff"[..]), (b"x-error", b"second")].into_iter());
        let classified = |condition: FailOn, details: &str| {
            let headers = HeaderMap(&bytes);
            let response = ResponseFacts { headers, ..facts(200, details) };
            Classifier { fail_on: &[condition], ignore_on: &[] }.classify(response)
        };
        for (value, expected) in [
            (StringMatch::Present, Failure),
            (StringMatch::Prefix("yes".into()), Failure),
            (StringMatch::Exact("yes".into()), Success),
            (StringMatch::Exact("second".into()), Success),
            // A regular expression matches no value that is not UTF-8.
            (StringMatch::Regex(Pattern::compile(".*", false).unwrap()), Success),
        ] {
            let condition = header("x-error", value);
            assert_eq!(classified(condition.clone(), "via_upstream"), expected, "{condition:?}");
            assert_eq!(classified(condition, REFUSED), Ignored);
        }
        assert_eq!(classified(header("x-other", StringMatch::Present), "via_upstream"), Success);
        assert_eq!(classified(header("x-error", StringMatch::Present), "direct_response"), Ignored);
        let classifier = Classifier {
            fail_on: &[ServerError],
            ignore_on: &[header("x-error", StringMatch::Prefix("yes".into()))],
        };
        let response = ResponseFacts { headers: HeaderMap(&bytes), ..facts(500, "via_upstream") };
        assert_eq!(classifier.classify(response), Ignored);
        assert!(!classifier.is_success(200, HeaderMap(&bytes)));
        assert!(classifier.is_success(200, HeaderMap::default()));
    }

    #[test]
    fn a_response_of_the_upstream_that_took_a_retry_can_be_a_condition() {
        let classifier = Classifier { fail_on: &[FailOn::Retried], ignore_on: &[] };
        for (retried, details, expected) in [
            (true, "via_upstream", Failure),
            (false, "via_upstream", Success),
            (true, REFUSED, Ignored),
            (true, "direct_response", Ignored),
        ] {
            let class = classifier.classify(ResponseFacts { retried, ..facts(200, details) });
            assert_eq!(class, expected, "{retried} {details}");
        }
        let lenient = Classifier { fail_on: &[ServerError], ignore_on: &[FailOn::Retried] };
        let judged =
            |status| lenient.classify(ResponseFacts { retried: true, ..facts(status, "via_upstream") });
        assert_eq!((judged(200), judged(500)), (Ignored, Ignored));
    }

    #[test]
    fn a_response_that_breaks_off_counts_as_unanswered() {
        let details = "upstream_reset_after_response_started{remote_reset}";
        assert!(
            broke_off(details.as_bytes()) && !broke_off(b"response_timeout") && !broke_off(b"via_upstream")
        );
        for condition in [ServerError, GatewayError, Reset] {
            assert_eq!(classified(200, details, None, condition.clone()), Unanswered, "{condition:?}");
        }
        assert_eq!(classified(200, details, None, ConnectFailure), Ignored);
    }

    #[test]
    fn replies_of_the_proxy_are_ignored() {
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
    fn a_response_covered_by_ignore_on_is_neither_a_failure_nor_a_success() {
        let classifier =
            Classifier { fail_on: &[ServerError], ignore_on: &[FailOn::Status(501), ConnectFailure] };
        let judged = |status, details: &str| classifier.classify(facts(status, details));
        assert_eq!(judged(501, "via_upstream"), Ignored);
        assert_eq!(judged(500, "via_upstream"), Failure);
        assert_eq!((judged(503, REFUSED), judged(503, CLOSED)), (Ignored, Unanswered));
    }

    #[test]
    fn a_request_that_waited_too_long_counts_as_unanswered() {
        let waited = |condition| Classifier { fail_on: &[condition], ignore_on: &[] }.unanswered();
        assert_eq!([ServerError, GatewayError, Reset].map(waited), [Unanswered; 3]);
        assert_eq!([ConnectFailure, FailOn::Status(504)].map(waited), [Ignored; 2]);
    }
}
