//! The policy: the document that a user writes, validated and compiled once.
//!
//! Reading takes two steps. [`document`] parses text into a tree and gives no meaning to it. The readers, one file per
//! section, then walk the tree once, report every problem, and build the types that the rest of the crate uses. An
//! invalid value cannot be built.
//!
//! Keys have names that users already know. A check is a Kubernetes probe stanza, a match is an Istio
//! `HTTPMatchRequest`, and a sticky key is an Istio `consistentHash` stanza. A failure is one of Envoy's `retry_on`
//! values. An unknown key is an error and is never ignored.

pub mod check;
pub mod document;
pub mod format;
pub mod gate;
pub mod host;
pub mod host_index;
pub mod identity;
pub mod index;
pub mod keys;
mod limits;
pub mod matcher;
pub mod module;
pub mod probe;
pub mod problem;
pub mod reader;
pub mod release;
pub mod set;
pub mod spelling;
pub mod upstream;

use core::time::Duration;
use std::collections::BTreeSet;

use crate::value::hash;
use crate::value::host::{Hosts, MeshPlace};
use document::Node;
use gate::{Fallback, Gate, WhenAllNotReady};
use index::Index;
use keys::spec::Shape;
use limits::Totals;
use probe::Probes;
use problem::{ProblemLog, Problems};
use reader::{Fields, Value};
use release::Release;
use upstream::{Breaker, Upstream, UpstreamId};

/// A compiled policy.
///
/// [`Policy::from_json`] shows how to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A DNS label. Appears in logs, metrics and replies.
    pub name: String,
    /// The hosts whose requests are for this policy. None means every host.
    pub hosts: Hosts,
    /// Whether decisions take effect on this proxy, with the rollout applied.
    pub mode: Mode,
    /// The share of proxies on which decisions take effect, in percent. 0 to 100, default 100.
    pub rollout: u32,
    /// The upstreams, in document order. An [`UpstreamId`] is an index into this list.
    pub upstreams: Vec<Upstream>,
    /// Whether requests are labelled also where decisions take effect.
    pub labels_enforced: bool,
    /// The health endpoints that the proxy answers.
    pub probes: Probes,
    /// The releases, in document order.
    pub releases: Vec<Release>,
    /// The gates, in document order.
    pub gates: Vec<Gate>,
    /// The largest share of the gated upstreams that may be gated at the same time, in percent. 1 to 100, default 100.
    pub max_gated_percent: u32,
    /// The upstreams that have a gate, each once.
    pub gated: Vec<UpstreamId>,
    /// The upstreams whose breaker takes only some requests as evidence.
    pub selective: Vec<UpstreamId>,
    /// The upstreams that have a breaker, in ascending order of their clusters.
    pub judged: Vec<UpstreamId>,
    /// The headers that releases and fallbacks steer by and that no release trusts. Each occurs once, in ascending
    /// order. A header that any release trusts is left out, as it may be meant for a later hop.
    pub untrusted_headers: Vec<String>,
    /// The same for members of `baggage`, by their keys.
    pub untrusted_members: Vec<String>,
    /// Whether a release steers by a member of `baggage`.
    pub steers_by_baggage: bool,
    /// Finds the releases that a request may match.
    pub release_index: Index,
    /// Finds the gates that a request may match.
    pub gate_index: Index,
}

/// Whether decisions take effect.
///
/// The rollout turns `Enforce` into `Shadow` on proxies that it has not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Decisions take effect.
    Enforce,
    /// Decisions are made and counted, but have no effect.
    Shadow,
    /// The filter does nothing.
    Off,
}

impl Mode {
    /// Returns the suffix of a log line about a decision: empty, unless the decision has no effect.
    pub fn mark(self) -> &'static str {
        if self == Mode::Shadow { " (mode: shadow)" } else { "" }
    }

    /// Returns the mode with this name in the document. Any other text is `Enforce`, which limits nothing.
    pub fn named(name: &str) -> Self {
        match name {
            "shadow" => Mode::Shadow,
            "off" => Mode::Off,
            _ => Mode::Enforce,
        }
    }

    /// Reads the mode of a document that may be wrong. Without a valid one, it is `Enforce`.
    pub fn of(document: &Node) -> Self {
        document.field("mode").and_then(Node::text).map_or(Mode::Enforce, Mode::named)
    }

    /// Returns the mode that does less.
    pub fn limited_to(self, limit: Mode) -> Mode {
        match (self, limit) {
            (Mode::Off, _) | (_, Mode::Off) => Mode::Off,
            (Mode::Shadow, _) | (_, Mode::Shadow) => Mode::Shadow,
            (Mode::Enforce, Mode::Enforce) => Mode::Enforce,
        }
    }

    /// Returns the mode's name in the document.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
            Mode::Off => "off",
        }
    }
}

impl Policy {
    /// Reads a document in JSON, the form that the filter receives. Does not apply the rollout, as that takes a
    /// proxy's node ID.
    ///
    /// # Errors
    ///
    /// Returns every problem of the document, in document order. Each names the path, the value and what is allowed.
    ///
    /// # Examples
    ///
    /// ```
    /// use graygate::policy::Policy;
    ///
    /// let policy = Policy::from_json(
    ///     br#"{
    ///         "name": "reviews",
    ///         "upstreams": {"app": {"cluster": "app", "readinessProbe": {"httpGet": {"path": "/healthz"}}}},
    ///         "gates": [{"upstream": "app"}]
    ///     }"#,
    /// )?;
    /// assert_eq!(policy.upstreams[0].cluster, "app");
    /// assert_eq!(policy.gates.len(), 1);
    ///
    /// let problems = Policy::from_json(br#"{"name": "reviews", "mode": "on", "gatse": []}"#).unwrap_err();
    /// let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    /// assert_eq!(paths, ["mode", "gatse"]);
    /// # Ok::<(), graygate::policy::problem::Problems>(())
    /// ```
    pub fn from_json(text: &[u8]) -> Result<Self, Problems> {
        Self::compile(&parse(text)?, None)
    }

    /// Reads a document in JSON for the proxy with this node ID and applies the rollout. If the rollout has not reached
    /// that proxy, `enforce` becomes `shadow`. A larger rollout includes every proxy of a smaller one. The node ID of a
    /// proxy of Istio also tells in which namespace a Service has a short name.
    ///
    /// # Errors
    ///
    /// The same as for [`Policy::from_json`].
    pub fn for_node(text: &[u8], node_id: &[u8]) -> Result<Self, Problems> {
        Self::compile(&parse(text)?, Some(node_id))
    }

    /// Compiles a document that is already parsed. Does not apply the rollout.
    ///
    /// # Errors
    ///
    /// The same as for [`Policy::from_json`].
    pub fn from_document(document: &Node) -> Result<Self, Problems> {
        // The filter gets the document as JSON, whatever it was written in.
        limit_size(document.to_json().len())?;
        Self::compile(document, None)
    }

    fn compile(document: &Node, node_id: Option<&[u8]>) -> Result<Self, Problems> {
        let log = ProblemLog::default();
        let proxy = node_id.and_then(MeshPlace::of_node);
        let root = Value::root(document, &log, Shape::Object(&keys::POLICY)).for_proxy(proxy.as_ref());
        let fields = root.object();
        let policy = fields.and_then(|fields| read(&fields, node_id, &mut Totals::default()));
        log.finish(policy)
    }

    /// Returns the tick: the interval at which a worker reads and writes the shared state.
    ///
    /// The tick is a quarter of the shortest check period or `notReadyFor`, but at least 50 ms and at most 250 ms. It
    /// is 250 ms if only a startup probe, a drain switch, or a release with a schedule or a rollback needs one. Returns
    /// `None` if nothing that is shared can change.
    pub fn tick(&self) -> Option<Duration> {
        let checks =
            self.upstreams.iter().filter_map(|upstream| Some(upstream.check.as_ref()?.periods.shortest()));
        let lifecycle_changes = self.probes.drain.is_some()
            || self.probes.of(probe::ProbeKind::Startup).is_some()
            || self.releases.iter().any(|release| release.changes() || release.rollback.is_some());
        let lifecycle = lifecycle_changes.then_some(Duration::from_secs(1));
        let intervals = checks.chain(self.breakers().map(|breaker| breaker.not_ready_for)).chain(lifecycle);
        let shortest = intervals.min()?;
        Some((shortest / 4).clamp(Duration::from_millis(50), Duration::from_millis(250)))
    }

    /// Returns the number of upstreams that have a check or a breaker.
    pub fn watched(&self) -> usize {
        self.upstreams.iter().filter(|upstream| upstream.is_watched()).count()
    }

    /// Returns how many upstreams may be gated at the same time: `max_gated_percent` of the gated upstreams, rounded
    /// down, but at least one.
    pub fn most_gated(&self) -> usize {
        let percent = usize::try_from(self.max_gated_percent).unwrap_or(100);
        (self.gated.len() * percent / 100).max(1)
    }

    /// Returns whether any gate could let a request through while its upstream is not Ready.
    pub fn may_fail_open(&self) -> bool {
        self.most_gated() < self.gated.len()
            || self.gates.iter().any(|gate| gate.when_all_not_ready == WhenAllNotReady::Forward)
    }

    /// Describes the policy's contents in one line.
    pub fn summary(&self) -> String {
        let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let parts = [
            count(self.upstreams.len(), "upstream"),
            count(self.probes.count(), "probe"),
            count(self.releases.len(), "release"),
            count(self.gates.len(), "gate"),
        ];
        let mode = match self.mode {
            Mode::Enforce => String::new(),
            mode => format!(" (mode: {})", mode.name()),
        };
        format!("{}{mode}", parts.join(", "))
    }

    /// Returns the upstream with this ID, if it belongs to this policy.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Upstream> {
        self.upstreams.get(id.0)
    }

    /// Returns the name of the upstream with this ID, or an empty string if it does not belong to this policy.
    pub fn name_of(&self, id: UpstreamId) -> &str {
        self.upstream(id).map_or("", |upstream| &upstream.name)
    }

    /// Returns the breakers of all upstreams that have one.
    pub fn breakers(&self) -> impl Iterator<Item = &Breaker> {
        self.upstreams.iter().filter_map(|upstream| upstream.breaker.as_ref())
    }

    /// Returns the upstreams with this cluster that have a breaker, in document order. The cost does not grow with the number
    /// of upstreams.
    pub fn judged_at(&self, cluster: &[u8]) -> impl Iterator<Item = (UpstreamId, &Breaker)> {
        let cluster_of = |id: &UpstreamId| self.upstream(*id).map(|upstream| upstream.cluster.as_bytes());
        let first = self.judged.partition_point(|id| cluster_of(id) < Some(cluster));
        let from_first = self.judged.get(first..).unwrap_or_default().iter();
        let those = from_first.copied().take_while(move |id| cluster_of(id) == Some(cluster));
        those.filter_map(|id| Some((id, self.upstream(id)?.breaker.as_ref()?)))
    }

    /// Returns the upstreams with their IDs.
    pub fn upstream_ids(&self) -> impl Iterator<Item = (UpstreamId, &Upstream)> {
        self.upstreams.iter().enumerate().map(|(index, upstream)| (UpstreamId(index), upstream))
    }
}

/// What a proxy does with a document that is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWrongPolicy {
    /// The filter refuses the document. The proxy then goes on with its earlier configuration. One that has none answers
    /// each request 500.
    #[default]
    Refuse,
    /// The filter accepts the document. In place of each wrong policy, the last good document of that name goes on. If the
    /// proxy has none, requests pass unmanaged.
    LastGood,
}

impl OnWrongPolicy {
    /// Reads the choice of a document that may be wrong. Without a valid one, it is the default.
    pub fn of(document: &Node) -> Self {
        match document.field("onWrongPolicy").and_then(Node::text) {
            Some("lastGood") => Self::LastGood,
            _ => Self::Refuse,
        }
    }
}

/// Refuses a document with too many bytes of JSON.
fn limit_size(bytes: usize) -> Result<(), Problems> {
    if bytes > limits::MAX_DOCUMENT_BYTES {
        return Err(Problems::unreadable(format!(
            "the document has {bytes} bytes as JSON; allowed: at most {}. Split the policy by host or by team.",
            limits::MAX_DOCUMENT_BYTES
        )));
    }
    Ok(())
}

/// Parses JSON. The error names `StringValue` because Envoy 1.40 passes a `google.protobuf.Struct` in its binary form,
/// contrary to its reference.
fn parse(text: &[u8]) -> Result<Node, Problems> {
    limit_size(text.len())?;
    serde_json::from_slice(text).map_err(|error| {
        let cause = match text.trim_ascii_start().first() {
            None => "the configuration is empty".to_owned(),
            Some(b'{') => {
                format!("not JSON: {error}. JSON has no comments, and no comma before a closing bracket")
            }
            // YAML, text in UTF-16, and a message of protobuf begin with something else.
            Some(_) => "the configuration does not begin with {, so it is not JSON in UTF-8".to_owned(),
        };
        Problems::unreadable(format!(
            "{cause}. Pass the policy as one JSON object, in Envoy as a google.protobuf.StringValue."
        ))
    })
}

/// Reads the fields of a policy. `totals` is what the policies before it in the document hold.
fn read(fields: &Fields<'_>, node_id: Option<&[u8]>, totals: &mut Totals) -> Option<Policy> {
    let name = fields.text("name");
    let hosts = fields.read("hosts", Hosts::default(), host::read);
    let mode = fields.word("mode").map(Mode::named);
    let rollout = fields.read("rollout", 100, |value| value.object()?.whole("percent"));
    fields.word("onWrongPolicy");
    let label = fields.word("requestLabel");
    limits::check_counts(fields, totals)?;
    let drafts = fields.read("upstreams", Vec::new(), upstream::read);
    // Without the list, every reference to an upstream would be one more problem.
    let known = drafts.as_deref().filter(|_| !fields.is_misspelt("upstreams"));
    let probes = fields.read("probes", Probes::default(), |value| probe::read(value, known));
    let releases = fields.read("releases", Vec::new(), |value| release::read(value, known));
    let details = probes.as_ref().map(|probes| probes.details).unwrap_or_default();
    let gates =
        fields.read("gates", Vec::new(), |value| gate::read(value, known, releases.as_deref(), details));
    let max_gated_percent = fields.whole("maxGatedPercent");

    let name = name?;
    let rollout = rollout?;
    let releases = releases?;
    let gates = gates?;
    let guarded = guarded(&releases, &gates);
    let drafts = drafts?.into_iter().enumerate();
    let upstreams: Vec<_> =
        drafts.map(|(index, draft)| draft.build(guarded.contains(&UpstreamId(index)))).collect();
    let gated: BTreeSet<_> = gates.iter().map(|gate| gate.upstream).collect();
    let is_selective =
        |upstream: &Upstream| upstream.breaker.as_ref().is_some_and(|breaker| breaker.is_selective());
    let selective = upstreams.iter().enumerate().filter(|(_, upstream)| is_selective(upstream));
    let mut judged: Vec<_> =
        upstreams.iter().enumerate().filter(|(_, upstream)| upstream.breaker.is_some()).collect();
    judged.sort_by_key(|(_, upstream)| &upstream.cluster);
    let policy = Policy {
        mode: mode_at(name, mode?, rollout, node_id),
        name: name.to_owned(),
        hosts: hosts?,
        rollout,
        labels_enforced: label? == "always",
        probes: probes?,
        max_gated_percent: max_gated_percent?,
        gated: gated.into_iter().collect(),
        selective: selective.map(|(index, _)| UpstreamId(index)).collect(),
        judged: judged.into_iter().map(|(index, _)| UpstreamId(index)).collect(),
        untrusted_headers: untrusted_headers(&releases, &gates),
        untrusted_members: untrusted_members(&releases),
        steers_by_baggage: releases.iter().any(|release| release.steer.member().is_some()),
        release_index: Index::new(releases.iter().map(|release| &release.matches)),
        gate_index: Index::new(gates.iter().map(|gate| &gate.matches)),
        upstreams,
        releases,
        gates,
    };
    let Policy { hosts, upstreams, probes, releases, gates, .. } = &policy;
    let contents = limits::Contents { hosts, upstreams, probes, releases, gates };
    limits::check_sums(&contents, fields.object(), fields, totals)?;
    Some(policy)
}

/// Returns the mode with the rollout applied for the proxy with this node ID. The node ID's bucket decides whether the
/// rollout has reached that proxy.
fn mode_at(name: &str, mode: Mode, rollout: u32, node_id: Option<&[u8]>) -> Mode {
    let is_reached =
        |id| u32::from(hash::bucket(hash::key(hash::seed(name), id))) < rollout.saturating_mul(100);
    match node_id {
        Some(id) if mode == Mode::Enforce && !is_reached(id) => Mode::Shadow,
        _ => mode,
    }
}

/// Returns the upstreams that gates fall back to, with the headers that route requests to them.
fn fallbacks(gates: &[Gate]) -> impl Iterator<Item = (UpstreamId, &str)> {
    gates.iter().filter_map(|gate| match &gate.fallback {
        Some(Fallback::Upstream { upstream, header }) => Some((*upstream, header.as_str())),
        Some(Fallback::Answer(_)) | None => None,
    })
}

/// Returns the upstreams that a gate, a fallback or a version keeps requests from while they are not Ready.
fn guarded(releases: &[Release], gates: &[Gate]) -> BTreeSet<UpstreamId> {
    let versions = releases.iter().flat_map(|release| &release.versions).map(|version| version.upstream);
    let gated = gates.iter().map(|gate| gate.upstream);
    versions.chain(gated).chain(fallbacks(gates).map(|(upstream, _)| upstream)).collect()
}

/// Returns the headers that releases and fallbacks steer by and that no release trusts, in ascending order.
fn untrusted_headers(releases: &[Release], gates: &[Gate]) -> Vec<String> {
    let steers = releases.iter().filter_map(|release| release.steer.header());
    let is_trusted = |header: &str| {
        releases.iter().any(|release| release.steer.header() == Some(header) && release.trust_incoming)
    };
    let headers = steers.chain(fallbacks(gates).map(|(_, header)| header));
    let untrusted: BTreeSet<&str> = headers.filter(|header| !is_trusted(header)).collect();
    untrusted.into_iter().map(str::to_owned).collect()
}

/// Returns the members of `baggage` that releases steer by and that no release trusts.
fn untrusted_members(releases: &[Release]) -> Vec<String> {
    let members = releases.iter().filter_map(|release| release.steer.member());
    let is_trusted = |member: &str| {
        releases.iter().any(|release| release.steer.member() == Some(member) && release.trust_incoming)
    };
    let untrusted: BTreeSet<&str> = members.filter(|member| !is_trusted(member)).collect();
    untrusted.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
