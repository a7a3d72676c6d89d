//! Reads a status page.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::report::{NotReadyUpstream, PolicyStatus};

/// The parts of the page that the report has. A later module may tell more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageAnswer {
    policy: PagePolicy,
    module_version: String,
    revision: String,
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
pub fn read(document: serde_json::Value) -> Result<PolicyStatus, String> {
    let page: PageAnswer = serde_json::from_value(document)
        .map_err(|error| format!("the answer is neither a status page nor statistics: {error}"))?;
    let (mut shares, mut rolled_back) = (BTreeMap::new(), Vec::new());
    for release in page.releases {
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
    Ok(PolicyStatus {
        policy: page.policy.name,
        module_version: Some(page.module_version),
        revision: Some(page.revision),
        document: Some(page.policy.document),
        mode: Some(page.policy.mode),
        not_ready: not_ready.collect(),
        shares,
        rolled_back,
    })
}
