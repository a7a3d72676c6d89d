//! The keys of a `match`.

use super::shapes::{HOSTS, NETWORKS, ONE_CONDITION, TEXT, key};
use super::spec::KeyRule::{AtLeastOne, AtMostOne, ExactlyOne};
use super::spec::Shape::{Boolean, Either, List, Map, Object, Refused};
use super::spec::{Format, KeySpec, ObjectSpec, Shape};

/// A list of matches.
pub const MATCHES: Shape = List(&Object(&MATCH));
/// Names with conditions. A name without a value is the condition that there is any value.
const CONDITIONS: Shape = Map(&Either(&[Shape::Null, Object(&VALUE_CONDITION)]));

/// The key of an Istio `HTTPMatchRequest` that only a control plane can evaluate.
const NOT_SEEN: Shape = Refused("not supported: a filter does not see what this names; leave it out");

/// One entry of a `match`. All its conditions must hold.
pub static MATCH: ObjectSpec = ObjectSpec::new(
    "an entry of a match",
    &[
        key("name", TEXT).about("A name for readers. It has no effect."),
        key("uri", Object(&CONDITION)).about("A condition on the path without its query."),
        key("ignoreUriCase", Boolean)
            .default("false")
            .about("Whether the case of ASCII letters in the path is ignored."),
        key("scheme", Object(&CONDITION)).about("A condition on the scheme."),
        key("method", Object(&CONDITION)).about("A condition on the method."),
        key("authority", Object(&VALUE_CONDITION)).about(
            "A condition on the host. Its case is ignored, and so is the port unless the condition \
                    names one.",
        ),
        key("headers", CONDITIONS)
            .entries(0, 50)
            .about("Conditions on headers, by their names. A name without a condition asks for any value."),
        key("withoutHeaders", CONDITIONS).entries(0, 50).about(
            "Conditions that must not hold. An absent header counts as empty, unless the condition \
                    is empty.",
        ),
        key("queryParams", CONDITIONS).entries(0, 50).about(
            "Conditions on query parameters, by their names. The first value counts, as it is \
                    written.",
        ),
        // Istio lacks the next four here. It matches cookies and baggage only as header text, and has the other two elsewhere.
        key("hosts", HOSTS).entries(1, 1_000).about(
            "The hosts that the request may be for: a name, `*.example.com`, or `reviews.shop` for \
                    a Service of Kubernetes with all its names.",
        ),
        key("cookies", CONDITIONS)
            .entries(0, 50)
            .about("Conditions on cookies, by their names. The first value of each counts."),
        key("baggage", CONDITIONS).entries(0, 50).about(
            "Conditions on members of the W3C's `baggage` header, by their keys. The first value of each \
                    counts, percent-decoded.",
        ),
        key("sourceIpBlocks", NETWORKS)
            .entries(1, 1_000)
            .about("The networks that the request may come from, by its source address as Envoy sees it."),
        key("sourceLabels", NOT_SEEN).about("Not supported: only a control plane can evaluate it."),
        key("sourceNamespace", NOT_SEEN).about("Not supported: only a control plane can evaluate it."),
        key("gateways", NOT_SEEN).about("Not supported: only a control plane can evaluate it."),
        key("statPrefix", NOT_SEEN).about("Not supported: only a control plane can evaluate it."),
        key("port", NOT_SEEN).about("Not supported: only a control plane can evaluate it."),
    ],
)
.rule(AtLeastOne(&[
    "uri",
    "scheme",
    "method",
    "authority",
    "headers",
    "withoutHeaders",
    "queryParams",
    "hosts",
    "cookies",
    "baggage",
    "sourceIpBlocks",
]))
.example("{uri: {prefix: /api}}")
.keeping_nulls();

const CONDITION_KEYS: &[KeySpec] = &[
    key("exact", Shape::Text(Format::Any)).about("The whole value."),
    key("prefix", TEXT).about("The beginning of the value."),
    key("regex", Shape::Text(Format::Regex)).about(
        "An expression for the whole value, in the syntax of RE2 without Unicode classes, at most 1 KiB. \
         `\"*\"` means any value, except for `uri`.",
    ),
];

/// A condition on a value that each request has.
pub static CONDITION: ObjectSpec = ObjectSpec::new("a condition", CONDITION_KEYS)
    .rule(ExactlyOne(&ONE_CONDITION))
    .example("{prefix: /api}")
    .keeping_nulls();

/// A condition on a value that may be absent. An empty one holds for any value.
pub static VALUE_CONDITION: ObjectSpec = ObjectSpec::new("a condition", CONDITION_KEYS)
    .rule(AtMostOne(&ONE_CONDITION))
    .example("{exact: \"yes\"}")
    .keeping_nulls();
