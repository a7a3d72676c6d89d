//! The keys of `probes`.

use super::matcher::MATCHES;
use super::shapes::{
    DAY, HEADER_VALUE, HOST, HOUR, LABEL, MAX_HEADERS, NETWORKS, PATH, WRITTEN_HEADER, key, required,
};
use super::spec::KeyRule::{AtLeastOne, AtMostOne};
use super::spec::Shape::{Boolean, Choice, Duration, List, Map, Object, Refused, Seconds, Upstream, Whole};
use super::spec::{KeySpec, Need, ObjectSpec, Shape};

/// `probes`.
pub static PROBES: ObjectSpec = ObjectSpec::new(
    "probes",
    &[
        key("liveness", Object(&LIVENESS)).about(
            "Passes while the proxy lives. It depends on nothing else, so it does not restart an \
                    app that hangs.",
        ),
        key("startup", Object(&STARTUP)).about(
            "Fails until its checks have passed once, then passes permanently. Readiness fails \
                    until then.",
        ),
        key("readiness", Object(&READINESS)).about(
            "Passes while the upstreams in its checks are ready enough. Fails while the proxy \
                    drains.",
        ),
        key("groups", Map(&Object(&STARTUP))).entries(0, 100).about(
            "Further probes by names of your choice. Startup does not affect them, and a drain only those in \
                    `drain.groups`.",
        ),
        key("grpc", Object(&GRPC_SERVICES)).about("Answers `grpc.health.v1.Health/Check` from readiness."),
        key("drain", Object(&DRAIN))
            .about("What makes readiness fail until it ends: an order, or an upstream that drains."),
        key("status", Object(&STATUS)).about(
            "A page that shows the policy in force, the state of each upstream, and the shares of each release.",
        ),
        key("details", Choice(&["never", "onFailure", "always"])).default("onFailure").about(
            "How much a response tells. `never`: the outcome. `onFailure`: each check as well, if \
                    something is wrong or the client asks. `always`: each check.",
        ),
        key("staleAfterSeconds", Seconds(&[100, DAY]))
            .default_in_words("three times the upstream's longest period, plus its timeout")
            .about(
                "The age from which a check's result is marked as stale. At least the longest period of \
                    its upstream.",
            ),
        key("markerHeaders", Boolean)
            .default("false")
            .about("Whether responses carry the headers that the health checks of another Envoy understand."),
        key("match", MATCHES)
            .default_in_words("every request")
            .about("What a request must also meet to be a probe. Otherwise it goes to the app."),
    ],
);

// Keys that several kinds of probe have.
const PROBE_PATH: KeySpec =
    required("path", PATH).about("The exact path. The probe is a GET or HEAD of it, with any query.");
const COMPONENTS: Shape = List(&Object(&COMPONENT));
const CHECKS: KeySpec =
    key("checks", COMPONENTS).about("The upstreams whose state decides. Without any, the probe passes.");
const SCORE: KeySpec = key("minimumScore", MINIMUM_SCORE).about(
    "The least sum of the weights of all checks that do not fail. Required if a check has a weight, and at \
     most the sum of all weights.",
);
const OUTCOMES: KeySpec =
    key("statuses", Object(&STATUSES)).about("The status of a response for each outcome.");
const APP_RESPONSE: KeySpec = key("passThrough", Object(&PASS_THROUGH))
    .about("Answers with the app's own response, which the proxy caches.");

/// `liveness`, which depends on nothing outside.
pub static LIVENESS: ObjectSpec = ObjectSpec::new(
    "liveness",
    &[
        PROBE_PATH,
        key("checks", Refused("liveness depends on nothing outside the proxy; put checks under readiness"))
            .about("Not here: liveness depends on nothing outside the proxy."),
        key(
            "minimumScore",
            Refused("liveness depends on nothing outside the proxy; put checks under readiness"),
        )
        .about("Not here: liveness depends on nothing outside the proxy."),
        OUTCOMES,
        APP_RESPONSE,
    ],
)
.rule(AtMostOne(&["statuses", "passThrough"]))
.example("{path: /livez}");

/// `startup`, or one of `groups`.
pub static STARTUP: ObjectSpec = ObjectSpec::new(
    "a probe",
    &[
        PROBE_PATH,
        CHECKS,
        SCORE,
        OUTCOMES,
        key("passThrough", Refused("not supported for this probe; use it under liveness or readiness"))
            .about("Not here: only liveness and readiness can pass through."),
    ],
)
.example("{path: /startupz}");

/// `readiness`.
pub static READINESS: ObjectSpec =
    ObjectSpec::new("readiness", &[PROBE_PATH, CHECKS, SCORE, OUTCOMES, APP_RESPONSE])
        .example("{path: /readyz}");

/// At most the sum of the weights, of which there may be as many as there are upstreams.
const MINIMUM_SCORE: Shape = Whole(1, u32::MAX);

/// One of `checks` of a probe.
pub static COMPONENT: ObjectSpec = ObjectSpec::new(
    "a check of a probe",
    &[
        required("upstream", Upstream).about("The upstream."),
        key("weight", Whole(1, 1_000_000))
            .default_in_words("no part in the score")
            .about("What the upstream adds to the score while it does not fail."),
        key("required", Boolean)
            .default_in_words("true without a `weight`, false with one")
            .about("Whether the probe fails while the upstream fails. Otherwise the probe is degraded."),
    ],
)
.example("{upstream: app}");

/// `statuses` of a probe.
pub static STATUSES: ObjectSpec = ObjectSpec::new(
    "statuses",
    &[
        key("passed", Whole(200, 399)).default("200").about("The status for passed."),
        key("degraded", Whole(200, 399)).default("200").about(
            "The status for passed although something is wrong. An error status would keep traffic \
                    away, and a trial cannot end without traffic.",
        ),
        key("failed", Whole(400, 599)).default("503").about("The status for failed."),
    ],
)
.example("{failed: 500}");

/// `passThrough` of a probe.
pub static PASS_THROUGH: ObjectSpec = ObjectSpec::new(
    "passThrough",
    &[
        required("cacheSeconds", Seconds(&[100, HOUR]))
            .about("How long a response is used. The app gets at most one request in that time."),
        key("headers", List(&WRITTEN_HEADER))
            .default_in_words("`[content-type]`")
            .entries(0, MAX_HEADERS)
            .about("The response headers that clients get, except `age`, `set-cookie` and `x-envoy-*`."),
        key("host", HOST)
            .default_in_words("the policy's name")
            .about("The host that requests to the app name."),
        key("upstream", Upstream).default_in_words("the cluster of the request's route").about("The app."),
    ],
)
.example("{cacheSeconds: 2, upstream: app}");

/// `grpc` of `probes`.
pub static GRPC_SERVICES: ObjectSpec = ObjectSpec::new(
    "grpc of probes",
    &[required("services", List(&HEADER_VALUE))
        .entries(1, 1_000)
        .about("The services whose health the proxy answers. `\"\"` is the server as a whole.")],
)
.example("{services: [\"\"]}");

/// `drain`.
pub static DRAIN: ObjectSpec = ObjectSpec::new(
    "drain",
    &[
        key("path", PATH).about(
            "The path of the switch: POST drains, DELETE takes it back, GET tells. Required without `alsoWhen`.",
        ),
        key("from", NETWORKS)
            .default_in_words("the loopback addresses")
            .entries(1, 1_000)
            .about("The networks that may use the switch, by the address of the connection."),
        key("alsoWhen", Object(&ALSO_WHEN))
            .default_in_words("only by order")
            .about("An upstream with which the proxy drains, such as Envoy's admin port."),
        key("groups", List(&LABEL)).default_in_words("none").entries(0, 100).about(
            "The `groups` of probes that fail as soon as the proxy drains, for load balancers that are told first.",
        ),
        key("readinessAfter", Duration(&[0, HOUR])).default("0s").about(
            "How long after the beginning of a drain readiness and gRPC health fail, at the same moment on all \
             workers.",
        ),
    ],
)
.rule(AtLeastOne(&["path", "alsoWhen"]))
.needs(&[Need { key: "from", any_of: &["path"] }])
.example("{path: /drainz}");

/// `alsoWhen` of `drain`.
pub static ALSO_WHEN: ObjectSpec = ObjectSpec::new(
    "alsoWhen",
    &[required("upstream", Upstream).about(
        "The upstream. The proxy drains once `failureThreshold` checks in a row were answered that it is not \
         ready, and until `successThreshold` have passed. Other failures of checks and the breaker do not count.",
    )],
)
.example("{upstream: envoy}");

/// `status` of `probes`.
pub static STATUS: ObjectSpec = ObjectSpec::new(
    "status of probes",
    &[
        required("path", PATH)
            .about("The path of the page. GET answers JSON, or HTML to a browser and to `?format=html`."),
        key("from", NETWORKS)
            .default_in_words("the loopback addresses")
            .entries(1, 1_000)
            .about("The networks that may read the page, by the address of the connection."),
    ],
)
.example("{path: /statusz}");
