//! The table of keys: each object of the document, with the keys that it may have.
//!
//! Readers take the keys that they accept from here, and so do the rules that the tool renders for an API server. A key
//! is added in one place. The test of this module walks the whole table. It fails if a reader does not read a key, reads
//! it in another shape, or does not miss one that is required.

pub mod spec;

use spec::Format::{self, NotEmpty};
use spec::Shape::{
    Boolean, Choice, Duration, Either, List, Map, Object, Refused, Seconds, True, Upstream, Whole,
};
use spec::{KeyRule, KeySpec, ObjectSpec, Shape};

const fn key(name: &'static str, shape: Shape) -> KeySpec {
    KeySpec::optional(name, shape)
}

const fn required(name: &'static str, shape: Shape) -> KeySpec {
    KeySpec::required(name, shape)
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

const DNS_LABEL: Shape = Shape::Text(Format::DnsLabel);
const LABEL: Shape = Shape::Text(Format::Label);
const TEXT: Shape = Shape::Text(NotEmpty);
const HEADER_NAME: Shape = Shape::Text(Format::HeaderName);
const WRITTEN_HEADER: Shape = Shape::Text(Format::WrittenHeader);
const HEADER_VALUE: Shape = Shape::Text(Format::HeaderValue);
const PATH: Shape = Shape::Text(Format::Path);
const HOST: Shape = Shape::Text(Format::Host);
const NETWORKS: Shape = List(&Shape::Text(Format::Network));
const DATE: Shape = Shape::Text(Format::Date);
/// Header names with the values to write.
const HEADERS: Shape = Map(&HEADER_VALUE);

/// The keys whose value must not be null. It could mean all defaults, as in `circuitBreaker:` with nothing after it, or
/// that there is no breaker.
pub const NOT_NULL: [&str; 2] = ["circuitBreaker", "passThrough"];

const HOSTS: Shape = List(&Shape::Text(Format::HostPattern));
const ON_WRONG_POLICY: Shape = Choice(&["refuse", "lastGood"]);

/// The policy, which is the whole document or one of several.
pub static POLICY: ObjectSpec = ObjectSpec::new(
    "a policy",
    &[
        required("name", DNS_LABEL),
        key("hosts", HOSTS),
        key("mode", Choice(&["enforce", "shadow", "off"])),
        key("rollout", Object(&ROLLOUT)),
        key("upstreams", Map(&Object(&UPSTREAM))),
        key("probes", Object(&PROBES)),
        key("releases", List(&Object(&RELEASE))),
        key("gates", List(&Object(&GATE))),
        key("maxGatedPercent", Whole(1, 100)),
        key("onWrongPolicy", ON_WRONG_POLICY),
    ],
);

/// A document of several policies. Only the document has `onWrongPolicy` then. Its `mode` limits those of the policies.
pub static DOCUMENT: ObjectSpec = ObjectSpec::new(
    "a document of several policies",
    &[
        required("policies", List(&Object(&POLICY))),
        key("mode", Choice(&["enforce", "shadow", "off"])),
        key("onWrongPolicy", ON_WRONG_POLICY),
    ],
);

/// `rollout`.
pub static ROLLOUT: ObjectSpec = ObjectSpec::new("rollout", &[required("percent", Whole(0, 100))]);

/// One of `upstreams`.
pub static UPSTREAM: ObjectSpec = ObjectSpec::new(
    "an upstream",
    &[
        required("cluster", HEADER_VALUE),
        key("readinessProbe", Object(&CHECK)),
        key("circuitBreaker", Object(&BREAKER)),
        key("assume", Choice(&["ready", "notReady"])),
        key("force", Choice(&["none", "ready", "notReady"])),
    ],
);

/// `readinessProbe` of an upstream.
pub static CHECK: ObjectSpec = ObjectSpec::with(
    "readinessProbe",
    &[
        key("httpGet", Object(&HTTP_GET)),
        key("grpc", Object(&GRPC_CHECK)),
        key("tcpSocket", Refused),
        key("exec", Refused),
        key("expectedStatuses", List(&Either(&[Whole(100, 599), Object(&STATUS_RANGE)]))),
        key("initialDelaySeconds", Seconds(0, HOUR)),
        key("initialJitterSeconds", Seconds(0, HOUR)),
        key("periodSeconds", Seconds(100, HOUR)),
        key("notReadyPeriodSeconds", Seconds(100, HOUR)),
        key("edgePeriodSeconds", Seconds(100, HOUR)),
        key("idlePeriodSeconds", Seconds(100, HOUR)),
        key("jitterPercent", Whole(0, 100)),
        key("timeoutSeconds", Seconds(10, 300 * SECOND)),
        key("failureThreshold", Whole(1, 1_000)),
        key("successThreshold", Whole(1, 1_000)),
        key("terminationGracePeriodSeconds", Refused),
    ],
    KeyRule::ExactlyOne(&["httpGet", "grpc"]),
);

/// A range in `expectedStatuses`.
pub static STATUS_RANGE: ObjectSpec = ObjectSpec::new(
    "a range of statuses",
    &[required("start", Whole(100, 599)), required("end", Whole(101, 600))],
);

const PORT: Shape = Whole(1, 65_535);

/// `httpGet` of a check.
pub static HTTP_GET: ObjectSpec = ObjectSpec::new(
    "httpGet",
    &[
        key("method", Choice(&["GET", "HEAD", "OPTIONS"])),
        key("path", Shape::Text(Format::ProbePath)),
        key("port", PORT),
        key("host", HOST),
        key("scheme", Choice(&["HTTP", "HTTPS"])),
        key("httpHeaders", List(&Object(&HTTP_HEADER))),
    ],
);

/// One of `httpHeaders`.
pub static HTTP_HEADER: ObjectSpec =
    ObjectSpec::new("a header of a check", &[required("name", HEADER_NAME), required("value", HEADER_VALUE)]);

/// `grpc` of a check.
pub static GRPC_CHECK: ObjectSpec =
    ObjectSpec::new("grpc of a check", &[key("service", HEADER_VALUE), key("port", PORT)]);

const FAILURES: Shape = List(&Either(&[
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
pub static RESPONSE_HEADER: ObjectSpec = ObjectSpec::with(
    "a response header",
    &[
        required("header", HEADER_NAME),
        key("exact", Shape::Text(Format::Any)),
        key("prefix", TEXT),
        key("regex", Shape::Text(Format::Regex)),
    ],
    KeyRule::AtMostOne(&["exact", "prefix", "regex"]),
);

/// `circuitBreaker` of an upstream.
pub static BREAKER: ObjectSpec = ObjectSpec::new(
    "circuitBreaker",
    &[
        key("failOn", FAILURES),
        key("ignoreOn", FAILURES),
        key("record", MATCHES),
        key("ignore", MATCHES),
        key("consecutiveFailures", Whole(0, 100_000)),
        key("consecutiveLocalOriginFailures", Whole(0, 100_000)),
        key("unansweredAfter", Duration(1, HOUR)),
        key("failurePercent", Whole(1, 100)),
        key("slowPercent", Whole(1, 100)),
        key("slowerThan", Duration(1, HOUR)),
        key("window", Duration(SECOND, HOUR)),
        key("minimumRequests", Whole(1, 1_000_000)),
        key("notReadyFor", Duration(100, HOUR)),
        // At least `notReadyFor`.
        key("maxNotReadyFor", Duration(100, DAY)),
        key("maxRetryAfter", Duration(0, DAY)),
        key("trial", Object(&TRIAL)),
    ],
);

/// `trial` of a breaker.
pub static TRIAL: ObjectSpec = ObjectSpec::new(
    "trial",
    &[
        key("requests", Whole(1, 100)),
        key("successes", Whole(1, 1_000)),
        key("leaseFor", Duration(SECOND, HOUR)),
        key("rampOver", Duration(0, HOUR)),
    ],
);

const MATCHES: Shape = List(&Object(&MATCH));
/// Names with conditions. A name without a value is the condition that there is any value.
const CONDITIONS: Shape = Map(&Either(&[Shape::Null, Object(&VALUE_CONDITION)]));

/// One entry of a `match`.
pub static MATCH: ObjectSpec = ObjectSpec::with(
    "an entry of a match",
    &[
        key("name", TEXT),
        key("uri", Object(&CONDITION)),
        key("ignoreUriCase", Boolean),
        key("scheme", Object(&CONDITION)),
        key("method", Object(&CONDITION)),
        key("authority", Object(&VALUE_CONDITION)),
        key("headers", CONDITIONS),
        key("withoutHeaders", CONDITIONS),
        key("queryParams", CONDITIONS),
        // Istio lacks the next three here. It matches cookies only as header text, and has the other two elsewhere.
        key("hosts", HOSTS),
        key("cookies", CONDITIONS),
        key("sourceIpBlocks", NETWORKS),
        key("sourceLabels", Refused),
        key("sourceNamespace", Refused),
        key("gateways", Refused),
        key("statPrefix", Refused),
        key("port", Refused),
    ],
    KeyRule::AtLeastOne(&[
        "uri",
        "scheme",
        "method",
        "authority",
        "headers",
        "withoutHeaders",
        "queryParams",
        "hosts",
        "cookies",
        "sourceIpBlocks",
    ]),
);

const ONE_CONDITION: [&str; 3] = ["exact", "prefix", "regex"];
const CONDITION_KEYS: &[KeySpec] =
    &[key("exact", Shape::Text(Format::Any)), key("prefix", TEXT), key("regex", Shape::Text(Format::Regex))];

/// A condition on a value that each request has.
pub static CONDITION: ObjectSpec =
    ObjectSpec::with("a condition", CONDITION_KEYS, KeyRule::ExactlyOne(&ONE_CONDITION));

/// A condition on a value that may be absent. An empty one holds for any value.
pub static VALUE_CONDITION: ObjectSpec =
    ObjectSpec::with("a condition", CONDITION_KEYS, KeyRule::AtMostOne(&ONE_CONDITION));

/// `probes`.
pub static PROBES: ObjectSpec = ObjectSpec::new(
    "probes",
    &[
        key("liveness", Object(&LIVENESS)),
        key("startup", Object(&STARTUP)),
        key("readiness", Object(&READINESS)),
        key("groups", Map(&Object(&STARTUP))),
        key("grpc", Object(&GRPC_SERVICES)),
        key("drain", Object(&DRAIN)),
        key("details", Choice(&["never", "onFailure", "always"])),
        key("staleAfterSeconds", Seconds(100, DAY)),
        key("markerHeaders", Boolean),
        key("match", MATCHES),
    ],
);

/// `liveness`, which depends on nothing outside.
pub static LIVENESS: ObjectSpec = ObjectSpec::new(
    "liveness",
    &[
        required("path", PATH),
        key("checks", Refused),
        key("minimumScore", Refused),
        key("statuses", Object(&STATUSES)),
        key("passThrough", Object(&PASS_THROUGH)),
    ],
);

/// `startup`, or one of `groups`.
pub static STARTUP: ObjectSpec = ObjectSpec::new(
    "a probe",
    &[
        required("path", PATH),
        key("checks", List(&Object(&COMPONENT))),
        key("minimumScore", MINIMUM_SCORE),
        key("statuses", Object(&STATUSES)),
        key("passThrough", Refused),
    ],
);

/// `readiness`.
pub static READINESS: ObjectSpec = ObjectSpec::new(
    "readiness",
    &[
        required("path", PATH),
        key("checks", List(&Object(&COMPONENT))),
        key("minimumScore", MINIMUM_SCORE),
        key("statuses", Object(&STATUSES)),
        key("passThrough", Object(&PASS_THROUGH)),
    ],
);

/// At most the sum of the weights, of which there may be as many as there are upstreams.
const MINIMUM_SCORE: Shape = Whole(1, u32::MAX);

/// One of `checks` of a probe.
pub static COMPONENT: ObjectSpec = ObjectSpec::new(
    "a check of a probe",
    &[required("upstream", Upstream), key("weight", Whole(1, 1_000_000)), key("required", Boolean)],
);

/// `statuses` of a probe.
pub static STATUSES: ObjectSpec = ObjectSpec::new(
    "statuses",
    &[key("passed", Whole(200, 399)), key("degraded", Whole(200, 399)), key("failed", Whole(400, 599))],
);

/// `passThrough` of a probe.
pub static PASS_THROUGH: ObjectSpec = ObjectSpec::new(
    "passThrough",
    &[
        required("cacheSeconds", Seconds(100, HOUR)),
        key("headers", List(&WRITTEN_HEADER)),
        key("host", HOST),
        key("upstream", Upstream),
    ],
);

/// `grpc` of `probes`.
pub static GRPC_SERVICES: ObjectSpec =
    ObjectSpec::new("grpc of probes", &[required("services", List(&HEADER_VALUE))]);

/// `drain`.
pub static DRAIN: ObjectSpec = ObjectSpec::new("drain", &[required("path", PATH), key("from", NETWORKS)]);

/// One of `releases`.
pub static RELEASE: ObjectSpec = ObjectSpec::new(
    "a release",
    &[
        required("name", LABEL),
        key("match", MATCHES),
        key("skip", MATCHES),
        required("steer", Object(&STEER)),
        key("trustIncoming", Boolean),
        key("hashOn", List(&Object(&HASH_ON))),
        key("startsAt", DATE),
        key("responseHeader", WRITTEN_HEADER),
        // Required, unless it steers by `randomValueHeader`.
        key("versions", List(&Object(&VERSION))),
        key("schedule", List(&Object(&STEP))),
        key("rollback", Object(&ROLLBACK)),
    ],
);

/// `steer`.
pub static STEER: ObjectSpec = ObjectSpec::with(
    "steer",
    &[
        key("header", WRITTEN_HEADER),
        key("clusterHeader", WRITTEN_HEADER),
        key("randomValueHeader", WRITTEN_HEADER),
        // It is the only object that a Wasm filter can set and a route can match on.
        key("filterState", Choice(&["envoy.string"])),
    ],
    KeyRule::ExactlyOne(&["header", "clusterHeader", "randomValueHeader", "filterState"]),
);

/// One of `hashOn`.
pub static HASH_ON: ObjectSpec = ObjectSpec::with(
    "a source of keys",
    &[
        key("httpHeaderName", HEADER_NAME),
        key("httpCookie", Object(&COOKIE)),
        key("httpQueryParameterName", TEXT),
        key("useSourceIp", True),
        key("usePath", True),
        key("all", List(&Object(&HASH_ON))),
        key("ringHash", Refused),
        key("maglev", Refused),
        key("minimumRingSize", Refused),
    ],
    KeyRule::ExactlyOne(&[
        "httpHeaderName",
        "httpCookie",
        "httpQueryParameterName",
        "useSourceIp",
        "usePath",
        "all",
    ]),
);

/// `httpCookie`. All keys but the name need `ttl`.
pub static COOKIE: ObjectSpec = ObjectSpec::new(
    "httpCookie",
    &[
        required("name", Shape::Text(Format::CookieName)),
        key("ttl", Duration(0, 400 * DAY)),
        key("path", PATH),
        key("domain", HOST),
        key("secure", Boolean),
        key("httpOnly", Boolean),
        key("sameSite", Choice(&["Lax", "Strict", "None"])),
        key("partitioned", Boolean),
    ],
);

/// One of `versions`.
pub static VERSION: ObjectSpec = ObjectSpec::new(
    "a version",
    &[
        required("name", LABEL),
        required("upstream", Upstream),
        required("weight", Whole(0, u32::MAX)),
        key("default", Boolean),
        key("match", MATCHES),
        key("allow", List(&TEXT)),
        key("deny", List(&TEXT)),
        key("headers", Object(&HEADER_EDITS)),
    ],
);

/// `headers` of a version.
pub static HEADER_EDITS: ObjectSpec = ObjectSpec::new(
    "headers of a version",
    &[key("request", Object(&EDITS)), key("response", Object(&EDITS))],
);

/// Edits of the headers of one message.
pub static EDITS: ObjectSpec = ObjectSpec::new(
    "edits of headers",
    &[key("set", HEADERS), key("add", HEADERS), key("remove", List(&WRITTEN_HEADER))],
);

/// One step of a `schedule`.
pub static STEP: ObjectSpec = ObjectSpec::new(
    "a step of a schedule",
    &[
        required("at", DATE),
        key("over", Duration(0, 366 * DAY)),
        required("weights", Map(&Whole(0, u32::MAX))),
    ],
);

/// `rollback`.
pub static ROLLBACK: ObjectSpec = ObjectSpec::with(
    "rollback",
    &[
        key("failurePercent", Whole(1, 99)),
        key("latency", Object(&LATENCY)),
        key("checks", Object(&CHECK_FAILURES)),
        key("failOn", FAILURES),
        key("minimumRequests", Whole(1, 1_000_000)),
        key("window", Duration(SECOND, HOUR)),
        key("over", Duration(0, DAY)),
    ],
    KeyRule::AtLeastOne(&["failurePercent", "latency", "checks"]),
);

/// `latency` of a rollback.
pub static LATENCY: ObjectSpec =
    ObjectSpec::new("latency", &[required("percentile", Whole(1, 99)), required("above", Duration(1, HOUR))]);

/// `checks` of a rollback.
pub static CHECK_FAILURES: ObjectSpec =
    ObjectSpec::new("checks of a rollback", &[required("failurePercent", Whole(1, 99))]);

/// One of `gates`.
pub static GATE: ObjectSpec = ObjectSpec::new(
    "a gate",
    &[
        key("match", MATCHES),
        required("upstream", Upstream),
        key("fallback", Object(&FALLBACK)),
        key("reply", Object(&REPLY)),
        key("whenAllNotReady", Choice(&["reply", "forward"])),
        key("preflight", Choice(&["forward", "reply"])),
        key("cors", Object(&CORS)),
        key("details", Choice(&["never", "always"])),
    ],
);

/// `fallback` of a gate. `clusterHeader` goes with `upstream`.
pub static FALLBACK: ObjectSpec = ObjectSpec::with(
    "fallback",
    &[key("upstream", Upstream), key("clusterHeader", WRITTEN_HEADER), key("answer", Object(&ANSWER))],
    KeyRule::ExactlyOne(&["upstream", "answer"]),
);

/// `reply` of a gate.
pub static REPLY: ObjectSpec = ObjectSpec::new(
    "reply",
    &[
        key("status", Whole(400, 599)),
        key("grpcStatus", Whole(1, 16)),
        key("retryAfterSeconds", Whole(0, 86_400)),
        key("headers", HEADERS),
        key("retriable", Boolean),
        key("body", TEXT),
    ],
);

/// `answer` of a fallback.
pub static ANSWER: ObjectSpec = ObjectSpec::new(
    "answer",
    &[key("status", Whole(200, 599)), key("headers", HEADERS), key("retriable", Boolean), key("body", TEXT)],
);

/// `cors` of a gate.
pub static CORS: ObjectSpec = ObjectSpec::new(
    "cors",
    &[
        required("allowOrigins", List(&Object(&ORIGIN))),
        key("allowCredentials", Boolean),
        key("exposeHeaders", List(&HEADER_NAME)),
    ],
);

/// One of `allowOrigins`. No page has an empty origin.
pub static ORIGIN: ObjectSpec = ObjectSpec::with(
    "an origin",
    &[key("exact", TEXT), key("prefix", TEXT), key("regex", Shape::Text(Format::Regex))],
    KeyRule::ExactlyOne(&ONE_CONDITION),
);

#[cfg(test)]
mod tests;
