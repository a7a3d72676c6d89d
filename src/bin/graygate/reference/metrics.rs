//! The page of metrics.

use graygate::proxy::MetricKind;
use graygate::worker::metric::spec::{METRICS, MODE, MetricSpec, PREFIX};

use super::markdown::{code, head, table};

const INTRO: &str = "\
Envoy shows them in `/stats` and in `/stats/prometheus`. To have labels in Prometheus, Envoy needs `stats_tags`: those of
`envoy/envoy.yaml`, or those that `graygate render --kind envoy` prints. In Istio, name the labels in `extraStatTags`, as in
[the runbook](../../istio/runbook.md#before-you-begin). Without the tags, the labels are part of the name.

A gauge shows the newest document of a policy. What leaves a policy gets a value on which no alert fires:

- `graygate_upstream_ready` of an upstream that leaves is 1.
- `graygate_version_share_basis_points` of a version that leaves is 0.
- `graygate_policy_enforced` and `graygate_policy_document` of a policy that leaves are 0.

Counters of releases and gates have the label `mode=\"shadow\"` while the policy is in `mode: shadow`.
[Reasons](reasons.md) explains the values of `reason`, `result`, `from` and `to`.
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
