//! Reads Envoy's statistics: its text, its JSON, and the form of Prometheus.
//!
//! The module writes its labels into the names, as `label=.=value;.;`. With the `stats_tags` of the documents, the form of
//! Prometheus has them as labels. Without them, it has replaced the characters that separate labels, so it cannot be read.

use std::collections::BTreeMap;

use graygate::worker::metric::spec;
use serde_json::Value;

use super::report::{NotReadyUpstream, PolicyStatus, ProxyStatus, SourceKind};

/// The share of a version that has all requests.
const WHOLE: u64 = 10_000;

/// One value of a metric of the module.
#[derive(Debug, PartialEq)]
pub struct StatSample {
    /// The name, without the prefix of all metrics.
    name: String,
    labels: BTreeMap<String, String>,
    value: u64,
}

impl StatSample {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads statistics as text, in either form.
pub fn of_text(text: &str) -> Vec<StatSample> {
    text.lines().filter_map(|line| prometheus(line).or_else(|| raw_line(line))).collect()
}

/// Reads the list in statistics as JSON.
pub fn of_json(stats: &Value) -> Vec<StatSample> {
    let entries = stats.as_array().map_or(&[][..], Vec::as_slice).iter();
    entries.filter_map(|entry| raw(entry.get("name")?.as_str()?, entry.get("value")?.as_u64()?)).collect()
}

/// Reads `NAME.LABELS: VALUE`.
fn raw_line(line: &str) -> Option<StatSample> {
    let (name, value) = line.rsplit_once(": ")?;
    raw(name, value.trim().parse().ok()?)
}

fn raw(name: &str, value: u64) -> Option<StatSample> {
    let (_, name) = name.split_once(spec::PREFIX)?;
    let (name, labels) = name.split_once('.')?;
    let labels = labels.split_terminator(";.;").map(|label| {
        let (label, value) = label.split_once("=.=")?;
        Some((label.to_owned(), value.to_owned()))
    });
    Some(StatSample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value })
}

/// Reads `NAME{LABEL="VALUE",…} VALUE`.
fn prometheus(line: &str) -> Option<StatSample> {
    let (name, rest) = line.split_once('{')?;
    let (_, name) = name.split_once(spec::PREFIX).filter(|(before, _)| !before.contains(' '))?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let value: f64 = value.split(' ').next()?.parse().ok()?;
    Some(StatSample { name: name.to_owned(), labels: quoted(labels), value: value as u64 })
}

/// Reads labels whose values are in quotation marks, with their escapes.
fn quoted(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let (mut value, mut characters) = (String::new(), after.chars());
        while let Some(character) = characters.next().filter(|character| *character != '"') {
            value.push(match character {
                '\\' => match characters.next() {
                    Some('n') => '\n',
                    Some(escaped) => escaped,
                    None => break,
                },
                other => other,
            });
        }
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = characters.as_str();
    }
    labels
}

/// Returns what statistics tell of the proxy and of each policy.
pub fn read(samples: Vec<StatSample>) -> Result<ProxyStatus, String> {
    let named = |name: &'static str| samples.iter().filter(move |sample| sample.name == name);
    let of = |name: &'static str, policy: &str| {
        let policy = policy.to_owned();
        named(name).filter(move |sample| sample.label("policy") == policy)
    };
    if let Some(sample) = named(spec::SHARE.name).find(|sample| sample.value > WHOLE) {
        let (release, version) = (sample.label("release"), sample.label("version"));
        return Err(format!(
            "not an answer of graygate: {release}/{version} has a share of {}, which is more than {WHOLE}",
            sample.value
        ));
    }
    // All are 0 if Envoy has the series of a module that has not shown itself yet.
    let build = named(spec::BUILD.name).max_by_key(|sample| sample.value);
    let policies: Vec<PolicyStatus> = named(spec::DOCUMENT.name)
        // 0 is that of a policy that has left the proxy.
        .filter(|sample| sample.value > 0 && !sample.label("policy").is_empty())
        .map(|document| {
            let policy = document.label("policy");
            let enforced = of(spec::ENFORCED.name, policy).next().map(|sample| sample.value > 0);
            let draining = of(spec::DRAINING.name, policy).next().map(|sample| sample.value > 0);
            let not_ready = of(spec::READY.name, policy).filter(|sample| sample.value == 0);
            let not_ready = not_ready.map(|sample| NotReadyUpstream {
                upstream: sample.label("upstream").to_owned(),
                state: "not-ready".to_owned(),
                reason: None,
            });
            let mut shares: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
            for sample in of(spec::SHARE.name, policy).filter(|sample| sample.value > 0) {
                let release = shares.entry(sample.label("release").to_owned()).or_default();
                release.insert(sample.label("version").to_owned(), sample.value as f64 / 100.0);
            }
            // Whether one is still rolled back is not told: a version without a share may have a weight of 0.
            let mut rollbacks: BTreeMap<String, u64> = BTreeMap::new();
            for sample in of(spec::ROLLBACKS.name, policy).filter(|sample| sample.value > 0) {
                let version = format!("{}/{}", sample.label("release"), sample.label("version"));
                let count = rollbacks.entry(version).or_default();
                *count = count.saturating_add(sample.value);
            }
            PolicyStatus {
                policy: policy.to_owned(),
                module_version: build.map(|build| build.label("version").to_owned()),
                revision: build.map(|build| build.label("revision").to_owned()),
                document: Some(document.value),
                mode: enforced.map(|enforced| if enforced { "enforce" } else { "not enforced" }.to_owned()),
                draining,
                not_ready: not_ready.collect(),
                shares,
                rolled_back: None,
                rollbacks,
            }
        })
        .collect();
    let refused = named(spec::REFUSED.name).filter(|sample| sample.value > 0);
    let policy_refused: Vec<String> = refused.map(|sample| sample.label("plugin").to_owned()).collect();
    if policies.is_empty() && policy_refused.is_empty() {
        return Err("no statistics of graygate. Ask for /stats, or add graygate's stats_tags to Envoy so that /stats/prometheus has labels.".to_owned());
    }
    Ok(ProxyStatus { kind: Some(SourceKind::Statistics), policies, policy_refused, ..ProxyStatus::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &str = "\
server.live: 1
wasmcustom.graygate_build_info.version=.=0.1.0;.;revision=.=abc;.;: 1
wasmcustom.graygate_policy_document.policy=.=shop;.;: 77
wasmcustom.graygate_policy_document.policy=.=gone;.;: 0
wasmcustom.graygate_policy_enforced.policy=.=shop;.;: 1
wasmcustom.graygate_upstream_ready.policy=.=shop;.;upstream=.=app;.;: 0
wasmcustom.graygate_upstream_ready.policy=.=shop;.;upstream=.=db;.;: 1
wasmcustom.graygate_version_share_basis_points.policy=.=shop;.;release=.=web;.;version=.=v1;.;: 10000
wasmcustom.graygate_version_share_basis_points.policy=.=shop;.;release=.=web;.;version=.=v2;.;: 0
wasmcustom.graygate_rollbacks_total.policy=.=shop;.;release=.=web;.;version=.=v2;.;reason=.=failures;.;: 1
wasmcustom.graygate_rollbacks_total.policy=.=shop;.;release=.=web;.;version=.=v2;.;reason=.=latency;.;: 2
wasmcustom.graygate_draining.policy=.=shop;.;: 1
wasmcustom.graygate_policy_refused.plugin=.=main;.;: 0
wasmcustom.graygate_policy_refused.plugin=.=canary;.;: 1
cluster.app.upstream_rq_time: P0(nan,1) P25(nan,2)
";

    const PROMETHEUS: &str = "\
# TYPE graygate_policy_document gauge
graygate_build_info{version=\"0.1.0\",revision=\"abc\"} 1
graygate_policy_document{policy=\"shop\"} 77
graygate_policy_document{policy=\"gone\"} 0
graygate_policy_enforced{policy=\"shop\"} 1
graygate_upstream_ready{policy=\"shop\",upstream=\"app\"} 0
graygate_upstream_ready{policy=\"shop\",upstream=\"db\"} 1
graygate_version_share_basis_points{policy=\"shop\",release=\"web\",version=\"v1\"} 10000
graygate_version_share_basis_points{policy=\"shop\",release=\"web\",version=\"v2\"} 0
graygate_rollbacks_total{policy=\"shop\",release=\"web\",version=\"v2\",reason=\"failures\"} 1
graygate_rollbacks_total{policy=\"shop\",release=\"web\",version=\"v2\",reason=\"latency\"} 2
graygate_draining{policy=\"shop\"} 1
graygate_policy_refused{plugin=\"main\"} 0
graygate_policy_refused{plugin=\"canary\"} 1
envoy_cluster_upstream_rq{envoy_response_code=\"200\"} 3
";

    #[test]
    fn all_forms_of_statistics_tell_the_same() {
        let entries = RAW.lines().filter_map(|line| line.rsplit_once(": "));
        let entries = entries.map(|(name, value)| match value.parse::<u64>() {
            Ok(value) => serde_json::json!({"name": name, "value": value}),
            Err(_) => serde_json::json!({"histograms": {}}),
        });
        let json = Value::Array(entries.collect());
        let [raw, prometheus, json] =
            [of_text(RAW), of_text(PROMETHEUS), of_json(&json)].map(|samples| read(samples).unwrap());
        assert_eq!(raw, prometheus);
        assert_eq!(raw, json);
        let [shop] = raw.policies.as_slice() else { panic!("{raw:?}") };
        assert_eq!(
            (shop.policy.as_str(), shop.document, shop.mode.as_deref()),
            ("shop", Some(77), Some("enforce"))
        );
        assert_eq!((shop.module_version.as_deref(), shop.revision.as_deref()), (Some("0.1.0"), Some("abc")));
        assert_eq!(
            shop.not_ready.iter().map(|upstream| upstream.upstream.as_str()).collect::<Vec<_>>(),
            ["app"]
        );
        assert_eq!(shop.shares["web"], BTreeMap::from([("v1".to_owned(), 100.0)]));
        assert_eq!((&shop.rolled_back, shop.draining), (&None, Some(true)));
        assert_eq!(shop.rollbacks, BTreeMap::from([("web/v2".to_owned(), 3)]));
        assert_eq!(raw.policy_refused, ["canary"]);
    }

    #[test]
    fn statistics_without_graygate_are_an_error_that_says_what_to_do() {
        let untagged = "graygate_policy_document_policy___shop____ 77\nenvoy_server_live{} 1\n";
        for text in ["", "server.live: 1\n", untagged] {
            assert!(read(of_text(text)).unwrap_err().contains("stats_tags"));
        }
    }

    #[test]
    fn a_proxy_that_has_refused_its_only_document_is_read() {
        let text = "wasmcustom.graygate_policy_refused.plugin=.=shop;.;: 1\n";
        let read = read(of_text(text)).unwrap();
        assert_eq!((read.policies.len(), read.policy_refused), (0, vec!["shop".to_owned()]));
    }

    #[test]
    fn a_build_at_0_is_better_than_none_and_one_at_1_wins() {
        let build = |lines: &str| {
            let document = "wasmcustom.graygate_policy_document.policy=.=shop;.;: 7\n";
            read(of_text(&format!("{lines}{document}"))).unwrap().policies[0].module_version.clone().unwrap()
        };
        let old = "wasmcustom.graygate_build_info.version=.=0.1.0;.;revision=.=abc;.;: 0\n";
        let new = "wasmcustom.graygate_build_info.version=.=0.2.0;.;revision=.=def;.;: 1\n";
        assert_eq!(build(old), "0.1.0");
        assert_eq!(
            (build(&format!("{old}{new}")), build(&format!("{new}{old}"))),
            ("0.2.0".to_owned(), "0.2.0".to_owned())
        );
    }

    #[test]
    fn a_share_that_no_proxy_has_is_an_error() {
        let text = RAW.replace("10000", "10001");
        assert!(read(of_text(&text)).unwrap_err().starts_with("not an answer of graygate: web/v1 "));
    }

    #[test]
    fn escapes_in_labels_are_undone() {
        let labels = quoted(r#"a="x\"y\\z",b="1,c=\"2\"""#);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(labels, BTreeMap::from([pair("a", r#"x"y\z"#), pair("b", r#"1,c="2""#)]));
    }
}
