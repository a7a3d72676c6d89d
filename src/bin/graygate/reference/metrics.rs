//! The page of metrics.

use graygate::proxy::MetricKind;
use graygate::worker::metric::spec::{METRICS, MODE, MetricSpec, PREFIX};

use super::markdown::{code, head, table};

const INTRO: &str = "\
Envoy shows them in `/stats` and in `/stats/prometheus`. For labels in Prometheus, Envoy needs rules for the names.
`graygate stats-tags` prints them: by `--for` as `stats_tags` of a bootstrap, for Istio or for Envoy Gateway. Without the
rules, the labels are part of the name.

A gauge shows the newest document of a policy. What leaves a policy gets a value on which no alert fires:

- `graygate_upstream_ready` of an upstream that leaves is 1.
- `graygate_version_share_basis_points` of a version that leaves is 0.
- `graygate_policy_enforced` and `graygate_policy_document` of a policy that leaves are 0.

Counters of releases and gates have the label `mode=\"shadow\"` while the policy is in `mode: shadow`.
[Reasons](reasons.md) explains the values of `reason`, `result`, `from` and `to`.

## Counters begin at 0

`increase()` of Prometheus sees no rise in a series that begins at 1. So each counter whose labels follow from the policy exists
at 0 soon after the policy came into use. Some 130 series begin each second, the first signs of an outage before all others.
An alert on the first outage then fires.

These begin with their first event:

- replies to a probe with `passThrough`, by the status of the app's response, other than 200 and 503
- transitions out of a phase that only an earlier policy made possible, such as a ramp that it no longer has
- in a large document, what exceeds [7,000 series](../evaluate/limits.md#series-of-a-large-policy)

The metrics of a plugin exist from the start of its VM. A wrong document counts in `graygate_policies_refused_total` once the
counter has been at 0 for 65 seconds, which is one scrape. `graygate_policy_refused` is 1 at once. If `onWrongPolicy` is
`refuse`, the document counts at once. A proxy that refuses its first document ends the VM, and Envoy drops its metrics. Then
Envoy's own `listener_manager.lds.update_rejected` or `extension_config_discovery…config_fail` rises.
";

/// What a label holds.
fn about_label(label: &str) -> &'static str {
    match label {
        "policy" => "the name of the policy",
        "release" => "the name of the release",
        "version" => "the name of the version; of `graygate_build_info`, the version of the module",
        "upstream" => "the name of the upstream in the policy",
        "reason" => "the reason as a [code](reasons.md)",
        "result" => "the result as a [code](reasons.md)",
        "from" => "the phase that ended",
        "to" => "the phase or lifecycle that began; of a fallback, its upstream, or `answer`",
        "probe" => "the name of the probe; of a single check, `PROBE/UPSTREAM`; `drain`, `status`, `grpc`",
        "code" => "the status of the reply; for gRPC, the grpc-status",
        "revision" => "the commit from which the module was built, or `unknown`",
        "plugin" => "the name of the plugin in Envoy's configuration",
        "mode" => "`shadow`, or absent",
        _ => "",
    }
}

/// Returns the page.
pub fn page() -> String {
    let mut page = head("Metrics", INTRO);
    page += "\n## All metrics\n\n";
    page += &table(
        ["metric", "kind", "labels", "unit", "meaning", "since"],
        METRICS.iter().map(|spec| row(spec)),
    );
    page += "\n## Labels\n\n";
    let labels = graygate::worker::metric::spec::labels();
    page +=
        &table(["label", "value"], labels.iter().map(|label| [code(label), about_label(label).to_owned()]));
    page
}

fn row(spec: &MetricSpec) -> [String; 6] {
    let kind = match spec.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    let mode = spec.counts_decisions.then_some(MODE.0);
    let labels: Vec<_> = spec.labels.iter().copied().chain(mode).map(code).collect();
    [
        format!("`{PREFIX}{}`", spec.name),
        kind.to_owned(),
        labels.join(", "),
        spec.unit.to_owned(),
        spec.about.to_owned(),
        spec.since.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_is_described() {
        for label in graygate::worker::metric::spec::labels() {
            assert_ne!(about_label(label), "", "{label}");
        }
    }
}
