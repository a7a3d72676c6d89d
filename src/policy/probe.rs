//! `probes`: the health endpoints that the proxy answers.

use super::reader::{Fields, Value};
use super::upstream::{self, Upstream, UpstreamId};

/// One health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which question it answers.
    pub kind: Kind,
    /// The exact path, without a query.
    pub path: String,
    /// The upstreams that must all be Ready. Empty: the answer is always yes.
    pub checks: Vec<UpstreamId>,
}

/// The question a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Is this proxy alive? Depends on nothing outside.
    Liveness,
    /// May it be sent traffic?
    Readiness,
}

impl Kind {
    /// The word in bodies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Liveness => "liveness",
            Kind::Readiness => "readiness",
        }
    }
}

/// Reads `probes`.
pub fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Vec<Probe>> {
    let fields = value.object(&["liveness", "readiness", "startup", "grpc", "drain", "details", "match"])?;
    let check = |value: &Value<'_>| read_check(value, upstreams);
    let liveness = fields.read("liveness", None, |value| {
        let fields = value.object(&["path", "checks"])?;
        if let Some(checks) = fields.get("checks") {
            checks.problem::<()>("liveness depends on nothing outside; allowed: checks under readiness");
        }
        Some(Some(Probe { kind: Kind::Liveness, path: read_path(&fields)?, checks: Vec::new() }))
    });
    let readiness = fields.read("readiness", None, |value| {
        let fields = value.object(&["path", "checks", "minimumScore"])?;
        fields.later("minimumScore", |value| value.integer(1..=1_000_000));
        let (path, checks) = (read_path(&fields), fields.each("checks", check));
        Some(Some(Probe { kind: Kind::Readiness, path: path?, checks: checks? }))
    });
    fields.later("startup", |value| {
        let fields = value.object(&["path", "checks"])?;
        fields.each("checks", check);
        read_path(&fields)
    });
    fields.later("grpc", |value| {
        let service = |value: &Value<'_>| value.header_value().map(str::to_owned);
        value.object(&["services"])?.each("services", service)
    });
    fields.later("drain", |value| {
        let fields = value.object(&["path", "from"])?;
        fields.each("from", |value| value.text().map(str::to_owned));
        read_path(&fields)
    });
    fields.later("details", |value| value.choice(&[("never", ()), ("onFailure", ()), ("always", ())]));
    fields.later("match", super::matcher::Matches::read);

    let probes: Vec<Probe> = [liveness?, readiness?].into_iter().flatten().collect();
    if let [first, second] = probes.as_slice()
        && first.path == second.path
    {
        return value.problem(format!(
            "{} and {} share the path {:?}; allowed: a path of its own for each",
            first.kind.name(),
            second.kind.name(),
            first.path
        ));
    }
    Some(probes)
}

fn read_path(fields: &Fields<'_>) -> Option<String> {
    fields.require("path", "a path such as /readyz").and_then(Value::path).map(str::to_owned)
}

fn read_check(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<UpstreamId> {
    let fields = value.object(&["upstream", "weight", "required"])?;
    fields.later("weight", |value| value.integer(1..=1_000_000));
    fields.later("required", Value::boolean);
    upstream::required_reference(&fields, upstreams)
}
