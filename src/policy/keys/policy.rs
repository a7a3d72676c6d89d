//! The keys of the document and of a policy.

use super::gate::GATE;
use super::probe::PROBES;
use super::release::RELEASE;
use super::shapes::{DNS_LABEL, HOSTS, MODE, ON_WRONG_POLICY, PERCENT, key, required};
use super::spec::Shape::{Choice, List, Map, Object, Whole};
use super::spec::{KeySpec, ObjectSpec};
use super::upstream::UPSTREAM;

// In a document of several policies, only the document has it.
const WRONG_POLICY: KeySpec = key("onWrongPolicy", ON_WRONG_POLICY).default("refuse").about(
    "What a proxy does with a wrong document. `refuse`: Envoy refuses the configuration and \
                    keeps its earlier one; a new proxy answers 500. `lastGood`: the last good policy of \
                    that name stays in force; on a new proxy, requests pass.",
);

/// The policy, which is the whole document or one of several.
pub static POLICY: ObjectSpec = ObjectSpec::new(
    "a policy",
    &[
        required("name", DNS_LABEL).about("The policy's name. It appears in logs, metrics and replies."),
        key("hosts", HOSTS).default_in_words("every host").entries(1, 1_000).about(
            "The hosts whose requests this policy handles. A request is for the first policy of the \
                    document whose hosts it meets.",
        ),
        key("mode", MODE).default("enforce").about(
            "`enforce`: decisions take effect. `shadow`: probes are answered, but releases and \
                    gates only decide and count. `off`: the filter does nothing.",
        ),
        key("rollout", Object(&ROLLOUT))
            .default_in_words("all proxies")
            .about("The share of proxies that follow `mode`. The others are in `shadow`."),
        key("requestLabel", Choice(&["shadow", "always"])).default("shadow").about(
            "Which requests get a label for access logs and traces, with release, version, reason and gate. \
                    `shadow`: those in `mode: shadow`. `always`: also those in `enforce`, for one more call to the \
                    proxy each.",
        ),
        key("upstreams", Map(&Object(&UPSTREAM)))
            .about("The services that requests need, by names of your choice."),
        key("probes", Object(&PROBES)).about("The health probes that the proxy answers."),
        key("releases", List(&Object(&RELEASE)))
            .about("The gray releases: which requests get which version."),
        key("gates", List(&Object(&GATE))).about(
            "Which requests are answered at once while their upstream is not ready. The first gate \
                    that is closed decides.",
        ),
        key("maxGatedPercent", PERCENT).default("100").about(
            "The largest share of the gated upstreams that gates may block at the same time, but at \
                    least one upstream. Those that have not been ready for the longest stay blocked.",
        ),
        WRONG_POLICY,
    ],
)
.with_extensions();

/// A document of several policies. Only the document has `onWrongPolicy` then. Its `mode` limits those of the policies.
pub static DOCUMENT: ObjectSpec = ObjectSpec::new(
    "a document of several policies",
    &[
        required("policies", List(&Object(&POLICY)))
            .entries(1, 200)
            .about("The policies, each with a name of its own. A policy without `hosts` comes last."),
        key("mode", MODE)
            .default("enforce")
            .about("Limits the mode of each policy: `shadow` here stops all of them from changing anything."),
        WRONG_POLICY,
    ],
)
.with_extensions();

/// `rollout`.
pub static ROLLOUT: ObjectSpec = ObjectSpec::new(
    "rollout",
    &[required("percent", Whole(0, 100)).about(
        "The share of proxies that follow `mode`, chosen by a hash of the node ID. A larger \
                    share includes every proxy of a smaller one.",
    )],
)
.example("{percent: 25}");
