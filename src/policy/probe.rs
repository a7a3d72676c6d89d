//! `probes`: the health endpoints that the proxy answers itself.

use core::time::Duration;

use ipnet::IpNet;

use super::format::is_label;
use super::matcher::Matches;
use super::reader::{Fields, Value};
use super::spelling::nearest;
use super::upstream::{self, UpstreamDraft, UpstreamId};

/// The `probes` section of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// The HTTP endpoints: liveness, startup and readiness, as far as given, then the groups.
    pub endpoints: Vec<Probe>,
    /// The services whose health the proxy answers by gRPC. Empty means none.
    pub grpc_services: Vec<String>,
    /// What makes readiness fail until it ends.
    pub drain: Option<Drain>,
    /// The page that shows what the proxy knows.
    pub status: Option<StatusPage>,
    /// How much detail a response gives.
    pub details: Details,
    /// The age from which the latest check result of an upstream is stale. 100 ms to 24 h. If absent, it follows from
    /// the periods of the upstream's check.
    pub stale_after: Option<Duration>,
    /// Whether responses carry the headers that tell another Envoy's health checks more than a status does.
    pub marker_headers: bool,
    /// The conditions that a request must also meet to be a probe.
    pub matches: Matches,
}

impl Probes {
    /// Returns whether no request can be a probe.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Returns the number of HTTP endpoints, plus one each for gRPC, the drain switch and the status page, if there are any.
    pub fn count(&self) -> usize {
        let others = [!self.grpc_services.is_empty(), self.drain_path().is_some(), self.status.is_some()];
        self.endpoints.len() + others.into_iter().filter(|has| *has).count()
    }

    /// Returns the path of the drain switch, if there is one.
    pub fn drain_path(&self) -> Option<&str> {
        self.drain.as_ref()?.path.as_deref()
    }

    /// Returns how long after the beginning of a drain a probe of this kind fails, or the one of gRPC for readiness.
    /// `fails_at_once` is the probe's own. Returns `None` if a drain does not make it fail.
    pub fn fails_after(&self, kind: ProbeKind, fails_at_once: bool) -> Option<Duration> {
        let drain = self.drain.as_ref()?;
        match kind {
            ProbeKind::Readiness => Some(drain.readiness_after),
            ProbeKind::Group if fails_at_once => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Returns the first endpoint of this kind.
    pub fn of(&self, kind: ProbeKind) -> Option<&Probe> {
        self.endpoints.iter().find(|probe| probe.kind == kind)
    }
}

/// One HTTP health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The name in bodies, logs and metrics: the name of the kind, or a group's own name.
    pub name: String,
    /// The question that the probe asks.
    pub kind: ProbeKind,
    /// The exact path, without a query.
    pub path: String,
    /// What decides the outcome.
    pub basis: Basis,
    /// The status of the response for each outcome.
    pub statuses: Statuses,
    /// Whether it fails as soon as the proxy drains, which only a group does.
    pub fails_at_once: bool,
}

/// The question that a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Is this proxy alive? Depends on no check.
    Liveness,
    /// Has this proxy started? Once passed, it passes permanently.
    Startup,
    /// May this proxy get traffic? Fails before the proxy has started and while it drains.
    Readiness,
    /// Are the upstreams of this group healthy? Fails while the proxy drains, if `drain` names the group.
    Group,
}

/// What decides the outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The state of upstreams.
    Checks(ProbeComponents),
    /// The app's own response.
    App(PassThrough),
}

/// The upstreams whose state decides the outcome. With none, the probe always passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeComponents {
    /// The components, each with an upstream of its own.
    pub components: Vec<Component>,
    /// The least score that passes. The score is the sum of the weights of all components that do not fail.
    ///
    /// Ranges from 1 to the sum of all weights, or is 0 if no component has a weight.
    pub minimum_score: u32,
}

impl ProbeComponents {
    /// Returns the sum of all weights.
    pub fn weights(&self) -> u32 {
        self.components.iter().fold(0, |sum, component| sum.saturating_add(component.weight))
    }
}

/// One upstream's part in the outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// The upstream.
    pub upstream: UpstreamId,
    /// Whether the probe fails while the upstream fails. Default: true without a weight, false with one.
    pub required: bool,
    /// What the upstream adds to the score while it does not fail. 1 to 1,000,000, or 0 for no weight.
    pub weight: u32,
}

/// The status of a response for each outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// The status for passed. 200 to 399, default 200.
    pub passed: u32,
    /// The status for degraded, which means passed although something is wrong. 200 to 399, default 200. An error
    /// status would keep traffic away from an upstream on trial, and a trial cannot end without traffic.
    pub degraded: u32,
    /// The status for failed. 400 to 599, default 503.
    pub failed: u32,
}

/// `passThrough`: the app's own response, which the proxy caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassThrough {
    /// How long a cached response is fresh. 100 ms to 1 h.
    pub cache: Duration,
    /// The response headers that are cached. Names are in lower case. Default `content-type`.
    pub headers: Vec<String>,
    /// The `:authority` of requests to the app. If absent, the policy's name.
    pub host: Option<String>,
    /// The app. If absent, the route of a request decides.
    pub upstream: Option<UpstreamId>,
}

/// `drain`: what makes readiness fail until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The exact path of the switch, without a query. If absent, nobody can order a drain.
    pub path: Option<String>,
    /// The networks that may use the switch. Default: the loopback addresses.
    pub from: Vec<IpNet>,
    /// The upstream that drains with the proxy. It has a check.
    pub also_when: Option<UpstreamId>,
    /// How long after the beginning of a drain readiness fails. 0 s to 1 h, default 0 s.
    pub readiness_after: Duration,
}

/// `status`: the page that shows what the proxy knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPage {
    /// The exact path, without a query.
    pub path: String,
    /// The networks that may read the page. Default: the loopback addresses.
    pub from: Vec<IpNet>,
}

/// How much detail a probe's response gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Details {
    /// The outcome only.
    Never,
    /// Each check as well, if something is wrong or the request asks for it.
    #[default]
    OnFailure,
    /// Each check as well.
    Always,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { passed: 200, degraded: 200, failed: 503 }
    }
}

/// Reads `probes`.
pub fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Probes> {
    let fields = value.object()?;
    let kinds = [
        ("liveness", ProbeKind::Liveness),
        ("startup", ProbeKind::Startup),
        ("readiness", ProbeKind::Readiness),
    ];
    let [liveness, startup, readiness] =
        kinds.map(|(name, kind)| fields.optional(name, |value| Probe::read(name, kind, value, upstreams)));
    // Also those of groups that could not be read, as references to them are no problem of their own.
    let mut names = Vec::new();
    let groups = fields.read("groups", Vec::new(), |value| {
        let read_group = |(name, value): &(&str, Value<'_>)| {
            let name = value.at_key().validate_label(name)?;
            // A group may have had this name before there was a page.
            let is_page = name == "status" && fields.has(name);
            if is_page || ["liveness", "startup", "readiness", "grpc", "drain"].contains(&name) {
                return value.at_key().problem("the name of another probe; choose a name of its own");
            }
            Probe::read(name, ProbeKind::Group, value, upstreams)
        };
        let entries = value.entries()?;
        names.extend(entries.iter().map(|(name, _)| *name));
        Some(entries.iter().filter_map(read_group).collect())
    });
    let grpc_services = fields.read("grpc", Vec::new(), |value| {
        value.object()?.read_list("services", |value| value.text().map(str::to_owned))
    });
    let mut groups = groups;
    let known = groups.as_deref_mut().filter(|_| !fields.is_misspelt("groups"));
    let drain = fields.optional("drain", |value| Drain::read(value, upstreams, &names, known));
    let status = fields.optional("status", StatusPage::read);
    let details = fields.word("details").map(|word| match word {
        "never" => Details::Never,
        "always" => Details::Always,
        _ => Details::OnFailure,
    });
    let stale_after = fields.optional("staleAfterSeconds", Value::seconds);
    let marker_headers = fields.boolean("markerHeaders");
    let matches = fields.read("match", Matches::default(), Matches::read);

    let probes = Probes {
        endpoints: [liveness?, startup?, readiness?].into_iter().flatten().chain(groups?).collect(),
        grpc_services: grpc_services?,
        drain: drain?,
        status: status?,
        details: details?,
        stale_after: stale_after?,
        marker_headers: marker_headers?,
        matches: matches?,
    };
    let passes_through = |probe: &&Probe| matches!(probe.basis, Basis::App(_));
    if !probes.grpc_services.is_empty()
        && probes.of(ProbeKind::Readiness).as_ref().is_some_and(passes_through)
    {
        return fields.get("grpc")?.problem(
            "readiness passes through, so there is no state to answer gRPC from. Remove grpc, or give readiness checks.",
        );
    }
    if let (Some(limit), Some(upstreams)) = (probes.stale_after, upstreams) {
        let components =
            probes.endpoints.iter().filter_map(Probe::checks).flat_map(|checks| &checks.components);
        let upstreams = components.filter_map(|component| upstreams.get(component.upstream.0));
        let ages = upstreams
            .filter_map(|upstream| Some((upstream.check.as_ref()?.max_result_age(), &upstream.name)));
        if let Some((oldest, name)) = ages.max().filter(|(oldest, _)| *oldest > limit) {
            return fields.get("staleAfterSeconds")?.problem(format!(
                "{limit:?} is too short: between its checks, results of {name} get {oldest:?} old. Use at least that."
            ));
        }
    }
    let drain = probes.drain_path().map(|path| ("drain", path));
    let others = drain.into_iter().chain(probes.status.iter().map(|page| ("status", page.path.as_str())));
    let mut paths: Vec<(&str, &str)> = Vec::new();
    let endpoints = probes.endpoints.iter().map(|probe| (probe.name.as_str(), probe.path.as_str()));
    for (name, path) in endpoints.chain(others) {
        if let Some((other, _)) = paths.iter().find(|(_, taken)| *taken == path) {
            return value
                .problem(format!("{other} and {name} share the path {path:?}; give each a path of its own"));
        }
        paths.push((name, path));
    }
    Some(probes)
}

impl Probe {
    fn read(
        name: &str,
        kind: ProbeKind,
        value: &Value<'_>,
        upstreams: Option<&[UpstreamDraft]>,
    ) -> Option<Self> {
        let fields = value.object()?;
        let path = read_path(&fields);
        let statuses = fields.read("statuses", Statuses::default(), Statuses::read);
        let checks = match kind {
            ProbeKind::Liveness => Some(ProbeComponents::default()),
            _ => ProbeComponents::read(&fields, upstreams),
        };
        let pass_through = fields.optional("passThrough", |value| match kind {
            // Refused by the table.
            ProbeKind::Startup | ProbeKind::Group => None,
            _ => {
                let mut others = ["checks", "minimumScore", "statuses"].into_iter();
                match others.find(|key| kind != ProbeKind::Liveness && fields.has(key)) {
                    Some(other) => {
                        value.problem(format!("the app's response decides; remove it, or {other}"))
                    }
                    None => PassThrough::read(value, upstreams),
                }
            }
        });
        let basis = match pass_through? {
            Some(pass_through) => Basis::App(pass_through),
            None => Basis::Checks(checks?),
        };
        let name = name.to_owned();
        Some(Probe { name, kind, path: path?, basis, statuses: statuses?, fails_at_once: false })
    }

    /// Returns the upstreams whose state decides the outcome. Returns `None` if the app's own response decides it.
    pub fn checks(&self) -> Option<&ProbeComponents> {
        match &self.basis {
            Basis::Checks(checks) => Some(checks),
            Basis::App(_) => None,
        }
    }
}

impl ProbeComponents {
    fn read(fields: &Fields<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Self> {
        let minimum = fields.get("minimumScore");
        let minimum_score = minimum.map(Value::whole);
        // Without each check's weight, the sum would be one more problem.
        let mut is_complete = !fields.is_misspelt("checks");
        let components = fields.read("checks", Vec::new(), |value| {
            let mut components: Vec<Component> = Vec::new();
            for item in value.list()? {
                let Some(component) = Component::read(&item, upstreams) else {
                    is_complete = false;
                    continue;
                };
                // If `upstreams` could not be read, all references have the same ID.
                if upstreams.is_some() && components.iter().any(|other| other.upstream == component.upstream)
                {
                    item.problem::<()>("a second check of the same upstream; keep one");
                }
                components.push(component);
            }
            Some(components)
        });
        let read = ProbeComponents { components: components?, minimum_score: 0 };
        let sum = read.weights();
        if !is_complete {
            return None;
        }
        if sum == 0 {
            return match minimum {
                Some(value) => {
                    value.problem("no check has a weight, so there is no score. Add a weight, or remove it.")
                }
                None => Some(read),
            };
        }
        fields.require("minimumScore");
        let minimum_score = minimum_score??;
        if minimum_score > sum {
            return minimum?
                .refuse_as(&format_args!("a whole number from 1 to {sum}, the sum of all weights"));
        }
        Some(ProbeComponents { minimum_score, ..read })
    }
}

impl Component {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Self> {
        let fields = value.object()?;
        let weight = fields.read("weight", 0, Value::whole).filter(|_| !fields.is_misspelt("weight"));
        let required = fields.read("required", fields.get("weight").is_none(), Value::boolean);
        let upstream = upstream::read_required_reference(&fields, upstreams);
        Some(Component { upstream: upstream?, required: required?, weight: weight? })
    }
}

impl Statuses {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let [passed, degraded, failed] = ["passed", "degraded", "failed"].map(|key| fields.whole(key));
        Some(Statuses { passed: passed?, degraded: degraded?, failed: failed? })
    }
}

impl PassThrough {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Self> {
        let fields = value.object()?;
        let cache = fields.seconds("cacheSeconds");
        let headers = match fields.get("headers") {
            Some(_) => fields.read_list("headers", read_cached_header),
            None => Some(vec!["content-type".to_owned()]),
        };
        let host = fields.optional("host", super::check::read_host);
        let upstream = fields.optional("upstream", |value| upstream::read_reference(value, upstreams));
        Some(PassThrough { cache: cache?, headers: headers?, host: host?, upstream: upstream? })
    }
}

/// Reads the name of a header that may be cached. Refuses headers that belong to one response, and headers that the
/// proxy itself sets.
fn read_cached_header(value: &Value<'_>) -> Option<String> {
    let name = value.header_name()?;
    if name == "age" || name == "set-cookie" || name.starts_with("x-envoy-") {
        return value.problem(format!(
            "{name:?} belongs to one response, so it cannot be cached; use any header but age, set-cookie and x-envoy-*"
        ));
    }
    Some(name)
}

impl Drain {
    /// Reads `drain`, and marks those of `groups` that fail at once. `names` are those of all groups. `groups` is `None` if
    /// it could not be read.
    fn read(
        value: &Value<'_>,
        upstreams: Option<&[UpstreamDraft]>,
        names: &[&str],
        groups: Option<&mut [Probe]>,
    ) -> Option<Self> {
        let fields = value.object()?;
        let from = read_sources(&fields);
        let path = match fields.get("path") {
            Some(_) => read_path(&fields).map(Some),
            None => Some(None),
        };
        let also_when = fields.optional("alsoWhen", |value| {
            let fields = value.object()?;
            let id = upstream::read_required_reference(&fields, upstreams)?;
            let draft = upstreams.and_then(|upstreams| upstreams.get(id.0));
            if draft.is_some_and(|draft| draft.check.is_none() && !draft.lost_check) {
                let name = fields.get("upstream")?;
                return name.problem(format!(
                    "{} has no readinessProbe, so nothing tells that it drains. Add one to the upstream, such as {{httpGet: {{path: /ready}}}}.",
                    name.node()
                ));
            }
            Some(id)
        });
        let readiness_after = fields.duration("readinessAfter");
        if let Some(groups) = groups {
            for value in fields.get("groups").and_then(Value::list).unwrap_or_default() {
                mark_group(&value, names, groups);
            }
        }
        Some(Drain { path: path?, from: from?, also_when: also_when?, readiness_after: readiness_after? })
    }
}

impl StatusPage {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let from = read_sources(&fields);
        Some(StatusPage { path: read_path(&fields)?, from: from? })
    }
}

/// Reads the networks that may use a path. Default: the loopback addresses.
fn read_sources(fields: &Fields<'_>) -> Option<Vec<IpNet>> {
    match fields.get("from") {
        Some(_) => fields.read_list("from", Value::network),
        None => Some(["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect()),
    }
}

/// Marks the group with this name as one that fails at once.
fn mark_group(value: &Value<'_>, names: &[&str], groups: &mut [Probe]) -> Option<()> {
    let name = value.text()?;
    if let Some(group) = groups.iter_mut().find(|group| group.name == name) {
        group.fails_at_once = true;
    }
    if names.contains(&name) {
        return Some(());
    }
    // A bad name is reported where it stands.
    let valid: Vec<&str> = names.iter().copied().filter(|name| is_label(name)).collect();
    value.problem(match (names.first(), nearest(name, &valid)) {
        (None, _) => format!("{name:?} is not a group; add it to probes.groups, which is empty"),
        (_, Some(near)) => format!("{name:?} is not a group; did you mean {near:?}?"),
        _ if valid.is_empty() => format!("{name:?} is not a group; use the name of one"),
        _ => format!("{name:?} is not a group; allowed: {}", valid.join(", ")),
    })
}

/// Reads the path of a probe. Refuses a `*`, as users would take it for a pattern. A probe that matched more than its
/// path would answer other requests.
fn read_path(fields: &Fields<'_>) -> Option<String> {
    let value = fields.get("path")?;
    let path = value.text()?;
    if path.contains('*') {
        return value.problem(format!(
            "{path:?} has a \"*\", but a probe has one exact path. Write it without \"*\"."
        ));
    }
    if path.starts_with(GRPC_HEALTH) {
        return value
            .problem(format!("{path:?} belongs to gRPC; use any path but those under {GRPC_HEALTH}"));
    }
    Some(path.to_owned())
}

/// The path prefix of all methods of gRPC's health service.
pub const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";
