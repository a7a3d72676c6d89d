//! The policy document: what a user writes, checked and compiled once.
//!
//! Reading has two steps. [`document`] turns text into a tree and gives no meaning to anything. The readers,
//! one file per part, then go through the tree once, note every problem, and build the types that the rest
//! of the crate works with. A value that makes no sense can't be built.
//!
//! Names are those that users already know: a check is a Kubernetes probe stanza, a match an Istio
//! `HTTPMatchRequest`, a sticky key an Istio `consistentHash` stanza, a failure one of Envoy's `retry_on`
//! words. A key that is not known is refused, never ignored.

pub mod check;
pub mod document;
pub mod gate;
pub mod index;
pub mod matcher;
pub mod probe;
pub mod problem;
pub mod reader;
pub mod release;
pub mod upstream;

use core::time::Duration;
use std::collections::BTreeSet;

use crate::value::hash;
use document::Node;
use gate::{Fallback, Gate, WhenAllNotReady};
use index::Index;
use probe::Probes;
use problem::{ProblemLog, Problems};
use reader::Value;
use release::Release;
use upstream::{Breaker, Upstream, UpstreamId};

/// A compiled policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A DNS label; in logs, metrics and replies.
    pub name: String,
    /// Whether decisions take effect.
    pub mode: Mode,
    /// The share of all proxies, in percent, on which they do.
    pub rollout: u32,
    /// The upstreams, in the document's order; [`UpstreamId`] is an index into it.
    pub upstreams: Vec<Upstream>,
    /// The health endpoints.
    pub probes: Probes,
    /// The releases.
    pub releases: Vec<Release>,
    /// The gates.
    pub gates: Vec<Gate>,
    /// The most of the gated upstreams that may be gated at a time, in percent. 1 to 100, default 100.
    pub max_gated_percent: u32,
    /// The upstreams that gates are on, each once.
    pub gated: Vec<UpstreamId>,
    /// The upstreams whose breaker takes only some requests as evidence.
    pub selective: Vec<UpstreamId>,
    /// Headers by which releases and fallbacks steer and that no release trusts, each once, in ascending order. One that
    /// any release trusts may be meant for a later hop.
    pub untrusted_headers: Vec<String>,
    /// Finds releases by what they match.
    pub release_index: Index,
    /// Finds gates by what they match.
    pub gate_index: Index,
}

/// Whether decisions take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They do.
    Enforce,
    /// They are made and counted, and nothing follows from them.
    Shadow,
    /// The filter does nothing at all.
    Off,
}

impl Mode {
    /// All modes by name.
    pub const NAMES: [(&str, Mode); 3] =
        [("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];

    /// What a log line ends with that tells of something that has no effect.
    pub fn mark(self) -> &'static str {
        if self == Mode::Shadow { " (mode: shadow)" } else { "" }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

impl Policy {
    /// Reads a document as the filter receives it, for no proxy in particular: the rollout changes nothing.
    pub fn from_json(text: &[u8]) -> Result<Self, Problems> {
        Self::compile(&parse(text)?, None)
    }

    /// Reads a document as the filter receives it, for the proxy with this node id. Where the rollout has not
    /// reached that proxy yet, `enforce` becomes `shadow`. A larger rollout includes all proxies of a smaller
    /// one.
    pub fn for_node(text: &[u8], node_id: &[u8]) -> Result<Self, Problems> {
        Self::compile(&parse(text)?, Some(node_id))
    }

    /// Reads a document that is a tree already, for no proxy in particular.
    pub fn from_document(document: &Node) -> Result<Self, Problems> {
        Self::compile(document, None)
    }

    fn compile(document: &Node, node_id: Option<&[u8]>) -> Result<Self, Problems> {
        let log = ProblemLog::default();
        let policy = read(&Value::root(document, &log), node_id);
        log.finish(policy)
    }

    /// How often a VM looks at the shared state: a quarter of the shortest check period or wait, from 50 to
    /// 250 ms; 250 ms for a startup probe, a drain switch, or a release that changes alone. `None`: nothing that is shared can change.
    pub fn tick(&self) -> Option<Duration> {
        let checks =
            self.upstreams.iter().filter_map(|upstream| Some(upstream.check.as_ref()?.periods.shortest()));
        let lives = self.probes.drain.is_some()
            || self.probes.of(probe::ProbeKind::Startup).is_some()
            || self.releases.iter().any(Release::changes);
        let lifecycle = lives.then_some(Duration::from_secs(1));
        let spans = checks.chain(self.breakers().map(|breaker| breaker.not_ready_for)).chain(lifecycle);
        let shortest = spans.min()?;
        Some((shortest / 4).clamp(Duration::from_millis(50), Duration::from_millis(250)))
    }

    /// How many upstreams may be gated at a time: the share in whole upstreams, but at least one.
    pub fn most_gated(&self) -> usize {
        let percent = usize::try_from(self.max_gated_percent).unwrap_or(100);
        (self.gated.len() * percent / 100).max(1)
    }

    /// Whether a gate could ever let a request through though its upstream is not Ready.
    pub fn may_fail_open(&self) -> bool {
        self.most_gated() < self.gated.len()
            || self.gates.iter().any(|gate| gate.when_all_not_ready == WhenAllNotReady::Forward)
    }

    /// What the policy holds, in one line.
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

    /// The upstream with this id.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Upstream> {
        self.upstreams.get(id.0)
    }

    /// The name of the upstream with this id.
    pub fn name_of(&self, id: UpstreamId) -> &str {
        self.upstream(id).map_or("", |upstream| &upstream.name)
    }

    /// The breakers of all upstreams that have one.
    pub fn breakers(&self) -> impl Iterator<Item = &Breaker> {
        self.upstreams.iter().filter_map(|upstream| upstream.breaker.as_ref())
    }

    /// The upstreams with their ids.
    pub fn upstream_ids(&self) -> impl Iterator<Item = (UpstreamId, &Upstream)> {
        self.upstreams.iter().enumerate().map(|(index, upstream)| (UpstreamId(index), upstream))
    }
}

/// Parses JSON text. Envoy 1.40 hands over a `google.protobuf.Struct` in its binary form, whatever its
/// reference says, hence the hint.
fn parse(text: &[u8]) -> Result<Node, Problems> {
    serde_json::from_slice(text).map_err(|error| {
        Problems::unreadable(format!(
            "not a JSON document: {error}; allowed: one JSON object, in Envoy as a google.protobuf.StringValue"
        ))
    })
}

fn read(document: &Value<'_>, node_id: Option<&[u8]>) -> Option<Policy> {
    let fields = document.object(&[
        "name",
        "mode",
        "rollout",
        "upstreams",
        "probes",
        "releases",
        "gates",
        "maxGatedPercent",
    ])?;
    let name = fields.require("name", "a DNS label such as reviews").and_then(Value::dns_label);
    let mode = fields.read("mode", Mode::Enforce, |value| value.choice(&Mode::NAMES));
    let rollout = fields.read("rollout", 100, |value| {
        let fields = value.object(&["percent"])?;
        fields.require("percent", "a whole number from 0 to 100")?.integer(0..=100)
    });

    let drafts = fields.read("upstreams", Vec::new(), upstream::read);
    let known = drafts.as_deref();
    let probes = fields.read("probes", Probes::default(), |value| probe::read(value, known));
    let releases = fields.read("releases", Vec::new(), |value| release::read(value, known));
    let gates = fields.read("gates", Vec::new(), |value| gate::read(value, known, releases.as_deref()));
    let max_gated_percent = fields.read("maxGatedPercent", 100, |value| value.integer(1..=100));

    let (name, mode, rollout) = (name?, mode?, rollout?);
    let (releases, gates) = (releases?, gates?);
    let guarded = guarded(&releases, &gates);
    let drafts = drafts?.into_iter().enumerate();
    let upstreams: Vec<_> =
        drafts.map(|(index, draft)| draft.build(guarded.contains(&UpstreamId(index)))).collect();
    let gated: BTreeSet<_> = gates.iter().map(|gate| gate.upstream).collect();
    let selects =
        |upstream: &Upstream| upstream.breaker.as_ref().is_some_and(|breaker| breaker.is_selective());
    let selective = upstreams.iter().enumerate().filter(|(_, upstream)| selects(upstream));
    Some(Policy {
        mode: mode_at(name, mode, rollout, node_id),
        name: name.to_owned(),
        rollout,
        probes: probes?,
        max_gated_percent: max_gated_percent?,
        gated: gated.into_iter().collect(),
        selective: selective.map(|(index, _)| UpstreamId(index)).collect(),
        untrusted_headers: untrusted_headers(&releases, &gates),
        release_index: Index::new(releases.iter().map(|release| &release.matches)),
        gate_index: Index::new(gates.iter().map(|gate| &gate.matches)),
        upstreams,
        releases,
        gates,
    })
}

/// Returns the mode at the proxy with this node id.
fn mode_at(name: &str, mode: Mode, rollout: u32, node_id: Option<&[u8]>) -> Mode {
    let reached = |id| u32::from(hash::bucket(hash::key(hash::seed(name), id))) < rollout.saturating_mul(100);
    match node_id {
        Some(id) if mode == Mode::Enforce && !reached(id) => Mode::Shadow,
        _ => mode,
    }
}

/// Returns the upstreams that gates fall back to, with the headers that lead there.
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

/// Returns the headers by which releases and fallbacks steer and that no release trusts, in ascending order.
fn untrusted_headers(releases: &[Release], gates: &[Gate]) -> Vec<String> {
    let steers = releases.iter().filter_map(|release| release.steer.header());
    let trusted = |header: &str| {
        releases.iter().any(|release| release.steer.header() == Some(header) && release.trust_incoming)
    };
    let headers = steers.chain(fallbacks(gates).map(|(_, header)| header));
    let untrusted: BTreeSet<&str> = headers.filter(|header| !trusted(header)).collect();
    untrusted.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
