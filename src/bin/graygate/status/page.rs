//! Reads a status page.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::report::{NotReadyUpstream, PolicyStatus, ProxyStatus, SourceKind};

/// The parts of the page that the report has. A later module may tell more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageAnswer {
    policy: PagePolicy,
    module_version: String,
    revision: String,
    lifecycle: PageLifecycle,
    upstreams: Vec<PageUpstream>,
    releases: Vec<PageRelease>,
}

#[derive(Deserialize)]
struct PagePolicy {
    name: String,
    mode: String,
    document: u64,
}

#[derive(Deserialize)]
struct PageLifecycle {
    draining: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageUpstream {
    name: String,
    state: String,
    reason: String,
    reason_detail: Option<String>,
}

#[derive(Deserialize)]
struct PageRelease {
    name: String,
    versions: Vec<PageVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageVersion {
    name: String,
    share_percent: f64,
    rolled_back: bool,
}

/// Returns what the page tells of its policy.
pub fn read(document: serde_json::Value) -> Result<ProxyStatus, String> {
    let page: PageAnswer = serde_json::from_value(document)
        .map_err(|error| format!("the answer is neither a status page nor statistics: {error}"))?;
    let (mut shares, mut rolled_back) = (BTreeMap::new(), Vec::new());
    for release in page.releases {
        for version in &release.versions {
            if !(0.0..=100.0).contains(&version.share_percent) {
                return Err(format!(
                    "not an answer of graygate: {}/{} has a sharePercent of {}, which is not in 0 to 100",
                    release.name, version.name, version.share_percent
                ));
            }
        }
        let back = release.versions.iter().filter(|version| version.rolled_back);
        rolled_back.extend(back.map(|version| format!("{}/{}", release.name, version.name)));
        let held = release.versions.into_iter().filter(|version| version.share_percent > 0.0);
        shares.insert(release.name, held.map(|version| (version.name, version.share_percent)).collect());
    }
    let not_ready = page.upstreams.into_iter().filter(|upstream| upstream.state != "ready");
    let not_ready = not_ready.map(|upstream| NotReadyUpstream {
        reason: Some(match upstream.reason_detail {
            Some(detail) => format!("{}: {detail}", upstream.reason),
            None => upstream.reason,
        }),
        upstream: upstream.name,
        state: upstream.state,
    });
    let policy = PolicyStatus {
        policy: page.policy.name,
        module_version: Some(page.module_version),
        revision: Some(page.revision),
        document: Some(page.policy.document),
        mode: Some(page.policy.mode),
        draining: Some(page.lifecycle.draining),
        not_ready: not_ready.collect(),
        shares,
        rolled_back: Some(rolled_back),
        rollbacks: BTreeMap::new(),
    };
    Ok(ProxyStatus { kind: Some(SourceKind::Page), policies: vec![policy], ..ProxyStatus::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(share: f64) -> Result<ProxyStatus, String> {
        read(json!({
            "policy": {"name": "shop", "mode": "enforce", "document": 1}, "moduleVersion": "1", "revision": "a",
            "lifecycle": {"started": true, "draining": true}, "upstreams": [],
            "releases": [{"name": "web", "versions": [{"name": "v1", "sharePercent": share, "rolledBack": true}]}],
        }))
    }

    #[test]
    fn a_page_tells_whether_the_proxy_drains_and_what_is_rolled_back() {
        let read = page(0.0).unwrap();
        assert_eq!((read.kind, read.policies[0].draining), (Some(SourceKind::Page), Some(true)));
        assert_eq!(read.policies[0].rolled_back.as_deref(), Some(["web/v1".to_owned()].as_slice()));
    }

    #[test]
    fn a_share_that_no_proxy_has_is_an_error() {
        for share in [1e308, -0.1, 100.1] {
            assert!(page(share).unwrap_err().starts_with("not an answer of graygate: web/v1 "), "{share}");
        }
        assert_eq!(page(100.0).unwrap().policies[0].shares["web"]["v1"], 100.0);
    }
}
