//! The keys of `upstreams`.

use super::matcher::MATCHES;
use super::shapes::{
    DAY, HEADER_NAME, HEADER_VALUE, HOST, HOUR, MAX_HEADERS, ONE_CONDITION, PERCENT, PORT, SECOND, TEXT, key,
    required,
};
use super::spec::KeyRule::{AtMostOne, ExactlyOne};
use super::spec::Shape::{Choice, Duration, Either, List, Object, Refused, Seconds, Whole};
use super::spec::{Format, Need, ObjectSpec, Shape};

/// One of `upstreams`.
pub static UPSTREAM: ObjectSpec = ObjectSpec::new(
    "an upstream",
    &[
        required("cluster", Shape::Text(Format::Cluster)).about("The name of its Envoy cluster."),
        key("readinessProbe", Object(&CHECK))
            .about("The active check, as in a Pod. Without it, the upstream is not checked."),
        key("circuitBreaker", Object(&BREAKER)).about(
            "Judges the upstream by the responses to real requests. `{}` means all defaults. \
                    Without it, responses are no evidence.",
        ),
        key("assume", Choice(&["ready", "notReady"]))
            .default("ready")
            .about("The state before the first evidence. `notReady` needs a `readinessProbe`."),
        key("force", Choice(&["none", "ready", "notReady"]))
            .default("none")
            .about("Sets the state by your word, whatever the evidence says."),
    ],
)
.example("{cluster: reviews-v1}");

/// `readinessProbe` of an upstream.
pub static CHECK: ObjectSpec = ObjectSpec::new(
    "readinessProbe",
    &[
        key("httpGet", Object(&HTTP_GET)).about("Checks by an HTTP request. The statuses 200 to 399 pass."),
        key("grpc", Object(&GRPC_CHECK)).about(
            "Checks by `grpc.health.v1.Health/Check`. `SERVING` passes. The cluster must speak \
                    HTTP/2.",
        ),
        key("tcpSocket", Refused("not supported: a filter cannot open a socket; use httpGet or grpc"))
            .about("Not supported: a filter cannot open a socket."),
        key("exec", Refused("not supported: a filter cannot start a process; use httpGet or grpc"))
            .about("Not supported: a filter cannot start a process."),
        key("expectedStatuses", List(&Either(&[Whole(100, 599), Object(&STATUS_RANGE)])))
            .default_in_words("200 to 399, as with the kubelet")
            .entries(1, 500)
            .about("The statuses that pass. With this key, no redirect is followed."),
        key("initialDelaySeconds", Seconds(&[0, HOUR]))
            .default("0")
            .about("The delay before the first check."),
        key("initialJitterSeconds", Seconds(&[0, HOUR])).default("0").about(
            "Adds a random time, up to this, to the first delay, so that proxies that start \
                    together do not check together.",
        ),
        key("periodSeconds", Seconds(&[100, HOUR]))
            .default("10")
            .about("The time from the start of one check to the start of the next."),
        key("notReadyPeriodSeconds", Seconds(&[100, HOUR]))
            .default_in_words("`periodSeconds`")
            .about("The period while the upstream is not ready."),
        key("edgePeriodSeconds", Seconds(&[100, HOUR]))
            .default_in_words("`periodSeconds`")
            .about("The period while the latest results speak for a change, but too few of them."),
        key("idlePeriodSeconds", Seconds(&[100, HOUR]))
            .default_in_words("`periodSeconds`")
            .about("The period while no request has needed the upstream for that long."),
        key("jitterPercent", Whole(0, 100))
            .default("0")
            .about("Adds a random time to each period, up to this share of it."),
        key("timeoutSeconds", Seconds(&[10, 300 * SECOND]))
            .default("1")
            .about("How long a response may take, redirects included."),
        key("failureThreshold", Whole(1, 1_000))
            .default("3")
            .about("How many checks in a row must fail before the upstream is not ready."),
        key("successThreshold", Whole(1, 1_000))
            .default("1")
            .about("How many checks in a row must pass before the upstream is ready."),
        key(
            "terminationGracePeriodSeconds",
            Refused("has no effect here, as the proxy ends no container; leave it out"),
        )
        .about("Has no effect here, as the proxy ends no container."),
    ],
)
.rule(ExactlyOne(&["httpGet", "grpc"]))
.example("{httpGet: {path: /healthz}}");

/// A range in `expectedStatuses`.
pub static STATUS_RANGE: ObjectSpec = ObjectSpec::new(
    "a range of statuses",
    &[
        required("start", Whole(100, 599)).about("The first status."),
        required("end", Whole(101, 600)).about("The status after the last one."),
    ],
)
.example("{start: 200, end: 300}");

/// `httpGet` of a check.
pub static HTTP_GET: ObjectSpec = ObjectSpec::new(
    "httpGet",
    &[
        key("method", Choice(&["GET", "HEAD", "OPTIONS"]))
            .default("GET")
            .about("The method. A check must not change anything, so only safe methods are allowed."),
        key("path", Shape::Text(Format::ProbePath))
            .default("/")
            .about("The path, with its query. A missing leading slash is added, and a fragment is dropped."),
        key("port", PORT)
            .about("The port that the host header names. The cluster decides where the check connects."),
        key("host", HOST)
            .default_in_words("the upstream's name, with `-` for each character that a host cannot have")
            .about("The host that the request names. The cluster decides where the check connects."),
        key("scheme", Choice(&["HTTP", "HTTPS"]))
            .default("HTTP")
            .about("The scheme that the request names. The cluster decides whether TLS is used."),
        key("httpHeaders", List(&Object(&HTTP_HEADER)))
            .entries(0, MAX_HEADERS)
            .about("Further headers of the request."),
    ],
)
.example("{path: /healthz}");

/// One of `httpHeaders`.
pub static HTTP_HEADER: ObjectSpec = ObjectSpec::new(
    "a header of a check",
    &[
        required("name", Shape::Text(Format::CheckHeader))
            .about("The name. `host` replaces the host of the request."),
        required("value", HEADER_VALUE).about("The value."),
    ],
)
.example("{name: X-Probe, value: graygate}");

/// `grpc` of a check.
pub static GRPC_CHECK: ObjectSpec = ObjectSpec::new(
    "grpc of a check",
    &[
        key("service", HEADER_VALUE)
            .default_in_words("the server as a whole")
            .about("The service whose health is asked for."),
        key("port", PORT)
            .about("The port that the authority names. The cluster decides where the check connects."),
    ],
)
.example("{service: shop.Reviews}");

/// Words of Envoy's `retry_on` and `retry_grpc_on`, statuses, and headers.
pub const FAILURES: Shape = List(&Either(&[
    Choice(&[
        "5xx",
        "4xx",
        "gateway-error",
        "reset",
        "connect-failure",
        "retriable-4xx",
        "retried",
        "cancelled",
        "deadline-exceeded",
        "resource-exhausted",
        "internal",
        "unavailable",
    ]),
    Shape::Text(Format::ErrorStatus),
    Object(&RESPONSE_HEADER),
]));

/// A response header in `failOn` or `ignoreOn`.
pub static RESPONSE_HEADER: ObjectSpec = ObjectSpec::new(
    "a response header",
    &[
        required("header", HEADER_NAME)
            .about("The name of the response header. Without a condition, any value counts."),
        key("exact", Shape::Text(Format::Any)).about("The whole value."),
        key("prefix", TEXT).about("The beginning of the value."),
        key("regex", Shape::Text(Format::Regex))
            .about("An expression for the whole value. `\"*\"` means any value."),
    ],
)
.rule(AtMostOne(&ONE_CONDITION))
.example("{header: x-error, exact: \"yes\"}")
.keeping_nulls();

/// `circuitBreaker` of an upstream.
pub static BREAKER: ObjectSpec = ObjectSpec::new(
    "circuitBreaker",
    &[
        key("failOn", FAILURES).default_in_words("`[5xx]`").entries(1, 250).about(
            "The responses that are failures: words of Envoy's `retry_on`, statuses in quotes, or \
                    response headers.",
        ),
        key("ignoreOn", FAILURES)
            .entries(0, 250)
            .about("The responses that are no evidence. Takes precedence over `failOn`."),
        key("record", MATCHES)
            .default_in_words("all requests")
            .about("The requests whose responses are evidence."),
        key("ignore", MATCHES)
            .default_in_words("none")
            .about("The requests, among those of `record`, whose responses are no evidence."),
        key("consecutiveFailures", Whole(0, 100_000))
            .default_in_words("5 if neither `failurePercent` nor `slowPercent` is given, otherwise off")
            .about("How many failures in a row make the upstream not ready. 0 turns this trigger off."),
        key("consecutiveLocalOriginFailures", Whole(0, 100_000))
            .default_in_words("they count in `consecutiveFailures`")
            .about(
                "How many requests in a row without a response make the upstream not ready. With 0, \
                    such requests count in no row.",
            ),
        key("unansweredAfter", Duration(&[1, HOUR])).default_in_words("the route's timeout").about(
            "How long a request may wait for a response before it counts as a failure, even if its \
                    client has left.",
        ),
        key("failurePercent", PERCENT)
            .default_in_words("failures are not judged by their share")
            .about("The share of failures in the window that makes the upstream not ready."),
        key("slowPercent", PERCENT)
            .default_in_words("slowness is not judged")
            .about("The share of slow responses in the window that makes the upstream not ready."),
        key("slowerThan", Duration(&[1, HOUR])).about(
            "The time to a response's headers above which it is slow. Must be shorter than \
                    `unansweredAfter`.",
        ),
        key("window", Duration(&[SECOND, HOUR])).default("10s").about("The window of the shares."),
        key("minimumRequests", Whole(1, 1_000_000))
            .default("20")
            .about("The least number of responses in the window. With fewer, no share counts."),
        key("notReadyFor", Duration(&[100, HOUR])).default("5s").about(
            "The first wait before a trial. It doubles with each trip in a row, and up to a tenth \
                    is added at random.",
        ),
        key("maxNotReadyFor", Duration(&[100, DAY]))
            .default_in_words("`60s`, or `notReadyFor` if that is longer")
            .about("The longest wait. At least `notReadyFor`."),
        key("maxRetryAfter", Duration(&[0, DAY])).default_in_words("`maxNotReadyFor`").about(
            "The longest wait that a failing response may ask for by `retry-after` or \
                    `grpc-retry-pushback-ms`.",
        ),
        key("trial", Object(&TRIAL))
            .default_in_words("a trial with all defaults")
            .about("How a trial decides whether the upstream is ready again."),
    ],
)
.needs(&[
    Need { key: "slowPercent", any_of: &["slowerThan"] },
    Need { key: "slowerThan", any_of: &["slowPercent"] },
    Need { key: "window", any_of: &["failurePercent", "slowPercent"] },
    Need { key: "minimumRequests", any_of: &["failurePercent", "slowPercent"] },
])
.example("{}");

/// `trial` of a breaker.
pub static TRIAL: ObjectSpec = ObjectSpec::new(
    "trial",
    &[
        key("requests", Whole(1, 100))
            .default("3")
            .about("How many requests all workers together let through at the same time."),
        key("successes", Whole(1, 1_000))
            .default("3")
            .about("How many successes end the trial. The first failure makes the upstream not ready again."),
        key("leaseFor", Duration(&[SECOND, HOUR]))
            .default("30s")
            .about("How long a request may hold its permit without a response."),
        key("rampOver", Duration(&[0, HOUR])).default("0s").about(
            "How long the share of requests let through rises in a line after a trial, or after \
                    checks found the upstream ready. 0 means no ramp.",
        ),
    ],
)
.example("{requests: 3}");
