//! The keys of `gates`.

use super::matcher::MATCHES;
use super::shapes::{HEADER_NAME, HEADERS, MAX_HEADERS, ONE_CONDITION, TEXT, WRITTEN_HEADER, key, required};
use super::spec::KeyRule::ExactlyOne;
use super::spec::Shape::{Boolean, Choice, List, Object, Upstream, Whole};
use super::spec::{Format, Need, ObjectSpec, Shape};

/// One of `gates`.
pub static GATE: ObjectSpec = ObjectSpec::new(
    "a gate",
    &[
        key("match", MATCHES)
            .default_in_words("those whose route leads to the upstream's cluster")
            .about("The requests that need the upstream."),
        required("upstream", Upstream).about("The upstream that these requests need."),
        key("fallback", Object(&FALLBACK))
            .default_in_words("`reply`")
            .about("What requests get while the upstream is not ready: another upstream, or a fixed answer."),
        key("reply", Object(&REPLY))
            .default_in_words("503 with a line that names policy, upstream and reason")
            .about("The reply to requests that get no fallback."),
        key("whenAllNotReady", Choice(&["reply", "forward"])).default("reply").about(
            "What the gate does while none of the policy's gated upstreams is ready. `forward` lets \
                    requests through. If only one upstream is gated, its gate then never blocks.",
        ),
        key("preflight", Choice(&["forward", "reply"]))
            .default("forward")
            .about("What the gate does with a CORS preflight. `reply` treats it like any other request."),
        key("cors", Object(&CORS)).default_in_words("none").about(
            "The pages of other origins that may read what the gate says, in the terms of Istio's \
                    CorsPolicy.",
        ),
        key("details", Choice(&["never", "always"]))
            .default_in_words("`never` if `probes.details` is `never`, otherwise `always`")
            .about("Whether clients are told the upstream and the reason. Your own `body` stays as it is."),
    ],
)
.example("{upstream: app}");

/// `fallback` of a gate. `clusterHeader` goes with `upstream`.
pub static FALLBACK: ObjectSpec = ObjectSpec::new(
    "fallback",
    &[
        key("upstream", Upstream).about("The upstream to forward to. One that is not ready is no fallback."),
        key("clusterHeader", WRITTEN_HEADER).about(
            "The header that gets the name of that upstream's cluster. A route with \
                    `cluster_header` reads it. Required with `upstream`.",
        ),
        key("answer", Object(&ANSWER)).about("A fixed answer. gRPC requests get `reply` instead."),
    ],
)
.rule(ExactlyOne(&["upstream", "answer"]))
.needs(&[
    Need { key: "upstream", any_of: &["clusterHeader"] },
    Need { key: "clusterHeader", any_of: &["upstream"] },
])
.example("{upstream: search-static, clusterHeader: x-gray-cluster}");

/// `reply` of a gate.
pub static REPLY: ObjectSpec = ObjectSpec::new(
    "reply",
    &[
        key("status", Whole(400, 599)).default("503").about("The HTTP status."),
        key("grpcStatus", Whole(1, 16))
            .default_in_words("what Envoy maps the status to, which is 14 for 503")
            .about("The gRPC status of a gRPC request."),
        key("retryAfterSeconds", Whole(0, 86_400))
            .default_in_words("the rest of the current wait, or 5")
            .about("The `retry-after` header, in seconds."),
        key("headers", HEADERS)
            .entries(0, MAX_HEADERS)
            .about("Further headers. They replace the gate's own. Not `retry-after` and not `grpc-*`."),
        key("retriable", Boolean).default("false").about("Whether an Envoy in front may retry the request."),
        key("body", TEXT).default_in_words("a line that names policy, upstream and reason").about(
            "The body, at most 16 KiB. `{upstream}`, `{reason}` and `{retryAfter}` are replaced. A \
                    gRPC request gets it as its message.",
        ),
    ],
)
.example("{status: 503, retryAfterSeconds: 5}");

/// `answer` of a fallback.
pub static ANSWER: ObjectSpec = ObjectSpec::new(
    "answer",
    &[
        key("status", Whole(200, 599)).default("200").about("The HTTP status."),
        key("headers", HEADERS).entries(0, MAX_HEADERS).about("Further headers."),
        key("retriable", Boolean).default("false").about("Whether an Envoy in front may retry the request."),
        key("body", TEXT)
            .default_in_words("a line that names policy, upstream and reason")
            .about("The body, at most 16 KiB. Not with the statuses 204, 205 and 304."),
    ],
)
.example("{status: 200, body: \"[]\"}");

/// `cors` of a gate.
pub static CORS: ObjectSpec = ObjectSpec::new(
    "cors",
    &[
        required("allowOrigins", List(&Object(&ORIGIN)))
            .entries(1, 100)
            .about("The origins of the pages. `exact: \"*\"` means any origin."),
        key("allowCredentials", Boolean)
            .default("false")
            .about("Whether they may read replies to requests with cookies."),
        key("exposeHeaders", List(&HEADER_NAME))
            .default_in_words("only those that any page may read")
            .about("The headers of a reply that a page's script may read."),
    ],
)
.example("{allowOrigins: [{exact: https://shop.example}]}");

/// One of `allowOrigins`. No page has an empty origin.
pub static ORIGIN: ObjectSpec = ObjectSpec::new(
    "an origin",
    &[
        key("exact", TEXT).about("The whole origin, such as `https://shop.example`."),
        key("prefix", TEXT).about("The beginning of the origin."),
        key("regex", Shape::Text(Format::Regex)).about("An expression for the whole origin."),
    ],
)
.rule(ExactlyOne(&ONE_CONDITION))
.example("{exact: https://shop.example}");
