//! The keys of `releases`.

use super::matcher::MATCHES;
use super::shapes::{
    DATE, DAY, HEADERS, HOUR, LABEL, LIMIT_PERCENT, MAX_HEADERS, PATH, SECOND, TEXT, WRITTEN_HEADER, key,
    required,
};
use super::spec::KeyRule::{AtLeastOneUnlessFalse, ExactlyOne};
use super::spec::Shape::{Boolean, Choice, Duration, List, Map, Object, Refused, True, Upstream, Whole};
use super::spec::{Format, Need, ObjectSpec, Shape};
use super::upstream::FAILURES;

/// One of `releases`.
pub static RELEASE: ObjectSpec = ObjectSpec::new(
    "a release",
    &[
        required("name", LABEL).about(
            "The release's name. It seeds the hash, so releases of different names pick different \
                    users.",
        ),
        key("match", MATCHES)
            .default_in_words(
                "the hosts of the versions' clusters, if all are clusters of Istio that name \
                               their host; otherwise every request",
            )
            .about("The requests that get a version."),
        key("skip", MATCHES)
            .default_in_words("none")
            .about("The requests, among those of `match`, that get no version."),
        required("steer", Object(&STEER))
            .about("How the filter tells your routes which version a request gets."),
        key("trustIncoming", Boolean).default("false").about(
            "Whether a version that is already on the request takes precedence. Use it inside the \
                    mesh, never at the edge.",
        ),
        key("hashOn", List(&Object(&HASH_ON)))
            .default_in_words("no key: versions take turns")
            .entries(0, 20)
            .about("The sources of the sticky key. The first one that the request has is used."),
        key("startsAt", DATE).about(
            "When the release begins, as a whole second. Until then, all requests get the default \
                    version.",
        ),
        key("responseHeader", WRITTEN_HEADER).about("The response header that names the version."),
        // Required, unless it steers by `randomValueHeader`.
        key("versions", List(&Object(&VERSION)))
            .entries(1, 2_000)
            .about("The versions. Required, unless `steer` is by `randomValueHeader`."),
        key("schedule", List(&Object(&STEP)))
            .entries(0, 100)
            .about("The times at which the weights change, in ascending order."),
        key("rollback", Object(&ROLLBACK)).about("When a version loses its users to the default one."),
    ],
)
.example("{name: reviews, …}");

/// `steer`.
pub static STEER: ObjectSpec = ObjectSpec::new(
    "steer",
    &[
        key("header", WRITTEN_HEADER).about("The header that gets the version's name. A route matches it."),
        key("clusterHeader", WRITTEN_HEADER).about(
            "The header that gets the name of the version's cluster. A route with `cluster_header` \
                    reads it.",
        ),
        key("randomValueHeader", WRITTEN_HEADER).about(
            "The header that gets a number, the same for the same key. A route's \
                    `weighted_clusters.header_name` reads it, and the route's weights decide.",
        ),
        key("baggage", Shape::Text(Format::MemberKey)).about(
            "The member of the header `baggage` that gets the version's name. All other members stay. A \
                    route matches it by a regular expression.",
        ),
        // It is the only object that a Wasm filter can set and a route can match on.
        key("filterState", Choice(&["envoy.string"])).about(
            "The filter state object that gets the version's name. A route with a match on \
                    `filter_state` reads it.",
        ),
    ],
)
.rule(ExactlyOne(&["header", "clusterHeader", "randomValueHeader", "filterState", "baggage"]))
.example("{header: x-gray-version}");

/// A key of Istio's `consistentHash` about rings.
const RING: Shape =
    Refused("has no effect here, as buckets and not a ring of hosts divide the keys; leave it out");

/// One of `hashOn`.
pub static HASH_ON: ObjectSpec = ObjectSpec::new(
    "a source of keys",
    &[
        key("httpHeaderName", Shape::Text(Format::KeyHeader))
            .about("A header. `host` is the host without the port, and `:path` the path with its query."),
        key("httpCookie", Object(&COOKIE)).about("A cookie, which the filter issues if it has a `ttl`."),
        key("httpQueryParameterName", TEXT).about("A query parameter, as it is written."),
        key("baggage", Shape::Text(Format::MemberKey))
            .about("A member of the W3C's `baggage` header, by its key. Its value is percent-decoded."),
        key("useSourceIp", True).about("The client's address, as Envoy sees it."),
        key("usePath", True).about("The path without its query."),
        key("all", List(&Object(&HASH_ON)))
            .entries(1, 20)
            .about("Several sources together. The key is there only if each of them is."),
        key("ringHash", RING).about("Has no effect here: buckets divide the keys, not a ring of hosts."),
        key("maglev", RING).about("Has no effect here: buckets divide the keys, not a ring of hosts."),
        key("minimumRingSize", RING)
            .about("Has no effect here: buckets divide the keys, not a ring of hosts."),
    ],
)
.rule(ExactlyOne(&[
    "httpHeaderName",
    "httpCookie",
    "httpQueryParameterName",
    "baggage",
    "useSourceIp",
    "usePath",
    "all",
]))
.example("{httpHeaderName: x-user-id}");

/// `httpCookie`. All keys but the name need `ttl`.
pub static COOKIE: ObjectSpec = ObjectSpec::new(
    "httpCookie",
    &[
        required("name", Shape::Text(Format::CookieName)).about("The cookie's name. Its case counts."),
        key("ttl", Duration(&[0, 400 * DAY]))
            .default_in_words("the cookie is only read, never issued")
            .about("How long the cookie lasts. `0s` lasts as long as the browser's session."),
        key("path", PATH).default("/").about("`Path`, without `;`."),
        key("domain", Shape::Text(Format::Domain))
            .default_in_words("only the host that set the cookie gets it")
            .about("`Domain`."),
        key("secure", Boolean).default("false").about("`Secure`: sent only by https."),
        key("httpOnly", Boolean).default("true").about("`HttpOnly`: hidden from scripts."),
        key("sameSite", Choice(&["Lax", "Strict", "None"]))
            .default_in_words("`Lax`, or `None` if `partitioned`")
            .about("`SameSite`. Browsers accept `None` only with `secure`."),
        key("partitioned", Boolean).default("false").about(
            "`Partitioned`: one cookie for each site that embeds this one. Browsers accept it only \
                    with `secure`.",
        ),
    ],
)
.needs(&[
    Need { key: "path", any_of: &["ttl"] },
    Need { key: "domain", any_of: &["ttl"] },
    Need { key: "secure", any_of: &["ttl"] },
    Need { key: "httpOnly", any_of: &["ttl"] },
    Need { key: "sameSite", any_of: &["ttl"] },
    Need { key: "partitioned", any_of: &["ttl"] },
])
.example("{name: gray-id, ttl: 24h}");

/// One of `versions`.
pub static VERSION: ObjectSpec = ObjectSpec::new(
    "a version",
    &[
        required("name", LABEL).about("The version's name. It is also the value of the steer header."),
        required("upstream", Upstream).about("The upstream that serves it."),
        required("weight", Whole(0, u32::MAX))
            .about("Its part of the sum of all weights: 0, or at least 0.01 % of the sum."),
        key("default", Boolean).default("false").about("Whether it is the default version. Exactly one is."),
        key("match", MATCHES)
            .default_in_words("none")
            .about("The requests that always get it, whatever its weight."),
        key("allow", List(&TEXT))
            .entries(0, 10_000)
            .about("The keys that always get it, whatever its weight."),
        key("deny", List(&TEXT))
            .entries(0, 10_000)
            .about("The keys that get the default version instead of it. Not on the default version."),
        key("headers", Object(&HEADER_EDITS))
            .about("Header edits of its requests and responses, as in a VirtualService."),
    ],
)
.example("{name: v1, upstream: reviews-v1, weight: 90}");

/// `headers` of a version.
pub static HEADER_EDITS: ObjectSpec = ObjectSpec::new(
    "headers of a version",
    &[
        key("request", Object(&EDITS)).about("Edits of its requests."),
        key("response", Object(&EDITS)).about("Edits of its responses."),
    ],
)
.example("{request: {set: {x-canary: \"true\"}}}");

/// Edits of the headers of one message.
pub static EDITS: ObjectSpec = ObjectSpec::new(
    "edits of headers",
    &[
        key("set", HEADERS).entries(0, MAX_HEADERS).about("Sets these headers."),
        key("add", HEADERS).entries(0, MAX_HEADERS).about("Adds a value to these headers."),
        key("remove", List(&WRITTEN_HEADER)).entries(0, MAX_HEADERS).about("Removes these headers."),
    ],
)
.example("{set: {x-canary: \"true\"}}");

/// One step of a `schedule`.
pub static STEP: ObjectSpec = ObjectSpec::new(
    "a step of a schedule",
    &[
        required("at", DATE).about("When the step begins, by the wall clock of each proxy."),
        key("over", Duration(&[0, 366 * DAY]))
            .default("0s")
            .about("How long the weights take to change, in a line. The next step begins no earlier."),
        required("weights", Map(&Whole(0, u32::MAX)))
            .about("The weight of each version from then on, by its name."),
    ],
)
.example("{at: 2026-12-01T10:00:00Z, weights: {v1: 70, v2: 30}}");

/// `rollback`.
pub static ROLLBACK: ObjectSpec = ObjectSpec::new(
    "rollback",
    &[
        key("judge", Boolean).default("true").about(
            "Whether a bad version is rolled back. With `false`, responses are counted and nothing is ever \
                    rolled back.",
        ),
        key("failurePercent", LIMIT_PERCENT)
            .about("Rolls a version back if a larger share of its responses fails."),
        key("latency", Object(&LATENCY)).about("Rolls a version back if too many of its responses are slow."),
        key("checks", Object(&CHECK_FAILURES))
            .about("Rolls a version back if too many active checks of its upstream fail."),
        key("failOn", FAILURES)
            .default_in_words("`[5xx]`")
            .entries(1, 250)
            .about("The responses that are failures. The items are those of a `circuitBreaker`."),
        key("minimumRequests", Whole(1, 1_000_000))
            .default("50")
            .about("The least number of responses in the window. With fewer, a version is not judged."),
        key("window", Duration(&[SECOND, HOUR]))
            .default("60s")
            .about("The window in which a version is judged."),
        key("over", Duration(&[0, DAY]))
            .default("0s")
            .about("How long the version takes to lose its users, in a line."),
    ],
)
.rule(AtLeastOneUnlessFalse(&["failurePercent", "latency", "checks"], "judge"))
.example("{failurePercent: 5}");

/// `latency` of a rollback.
pub static LATENCY: ObjectSpec = ObjectSpec::new(
    "latency",
    &[
        key("percentile", LIMIT_PERCENT)
            .default("99")
            .about("The share of responses that must not be slow, in percent."),
        required("above", Duration(&[1, HOUR]))
            .about("The time to a response's headers above which it is slow."),
    ],
)
.example("{percentile: 99, above: 300ms}");

/// `checks` of a rollback.
pub static CHECK_FAILURES: ObjectSpec = ObjectSpec::new(
    "checks of a rollback",
    &[required("failurePercent", LIMIT_PERCENT)
        .about("The share of failed checks above which the version is rolled back.")],
)
.example("{failurePercent: 50}");
