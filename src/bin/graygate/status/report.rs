//! What the command found out: the policies of each proxy, and who differs.

use std::collections::BTreeMap;

use serde::Serialize;

/// All that the command found out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The proxies, in the order of the sources.
    pub proxies: Vec<ProxyStatus>,
    /// What proxies with a policy of the same name do not have in common.
    pub differences: Vec<Difference>,
    /// Whether all proxies could be read, none differ, and none has refused its newest document.
    pub agree: bool,
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceKind {
    /// A status page, which shows one policy.
    Page,
    /// Statistics, which show all policies.
    Statistics,
}

/// One source.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The URL or the file.
    pub source: String,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SourceKind>,
    /// The plugins whose newest document was refused. Only statistics tell it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_refused: Vec<String>,
    /// Its policies.
    pub policies: Vec<PolicyStatus>,
}

/// One policy of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The policy's name.
    pub policy: String,
    /// The version of the module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// The commit of the module's sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The number of the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<u64>,
    /// The mode. From statistics, only `enforce` is known from the others, which are `not enforced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether the proxy drains. Statistics tell it of a policy with `probes.drain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// The upstreams that are not ready.
    pub not_ready: Vec<NotReadyUpstream>,
    /// The shares of each release in percent, by version. Those without a share are left out.
    pub shares: BTreeMap<String, BTreeMap<String, f64>>,
    /// The versions that are rolled back, as `RELEASE/VERSION`. Statistics do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<Vec<String>>,
    /// How often each version was rolled back, by `RELEASE/VERSION`. Only statistics tell it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rollbacks: BTreeMap<String, u64>,
}

/// An upstream that is not ready.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotReadyUpstream {
    /// Its name.
    pub upstream: String,
    /// Its state. Statistics only tell that it is not ready.
    pub state: String,
    /// The reason, if the source tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Something in which proxies differ.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The policy's name.
    pub policy: String,
    /// What differs.
    pub what: &'static str,
    /// Each value with the proxies that have it. The value that most have comes first.
    pub groups: Vec<DifferenceGroup>,
}

/// The proxies with one value.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceGroup {
    /// The value.
    pub value: String,
    /// The proxies.
    pub proxies: Vec<String>,
}
