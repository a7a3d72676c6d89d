//! `upstreams`: what a request may need, and how its readiness is learnt.

use core::time::Duration;

use super::check::Check;
use super::reader::{Fields, Value, is_label};

/// Which upstream of a policy; the place in [`super::Policy::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The user's name for it.
    pub name: String,
    /// The Envoy cluster it stands for.
    pub cluster: String,
    /// How it is checked, if at all.
    pub check: Option<Check>,
    /// How it is judged by its responses, if at all.
    pub breaker: Option<Breaker>,
    /// Whether it counts as Ready before the first verdict.
    pub assume_ready: bool,
    /// Whether a gate or a version keeps requests away while it is not Ready. Follows from the rest of the
    /// policy.
    pub guarded: bool,
}

impl Upstream {
    /// Whether anything can change what is known of the upstream.
    pub fn is_watched(&self) -> bool {
        self.check.is_some() || self.breaker.is_some()
    }

    /// What knowledge of the upstream is about: what is reached, how it is asked, and whether it is watched at
    /// all. All else only says what follows from it.
    pub fn subject(&self) -> impl core::hash::Hash + '_ {
        (&self.cluster, self.check.as_ref().map(|check| check.call.asks()), self.is_watched())
    }
}

/// `circuitBreaker`: readiness from the traffic itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// Which responses are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// Consecutive failures that make it NotReady. 1 to 100,000, default 5.
    pub consecutive_failures: u32,
    /// How long it then stays NotReady before a trial. 100 ms to 1 h, default 5 s.
    pub not_ready_for: Duration,
    /// The most that wait may grow to. Default 60 s, or `notReadyFor` where that is longer.
    pub max_not_ready_for: Duration,
    /// How it earns trust again.
    pub trial: Trial,
}

/// `trial`: a few real requests decide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trial {
    /// Requests let through at the same time, by all workers together. 1 to 100, default 3.
    pub requests: u32,
    /// Successes that end the trial. 1 to 1,000, default 3.
    pub successes: u32,
    /// How long one request may go without an answer. 1 s to 1 h, default 30 s.
    pub lease_for: Duration,
}

/// One of Envoy's `retry_on` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailOn {
    /// `5xx`: any status from 500 to 599, and no answer at all.
    ServerError,
    /// `gateway-error`: 502, 503, 504, and no answer at all.
    GatewayError,
    /// `reset`: no answer at all.
    Reset,
    /// `connect-failure`: no connection.
    ConnectFailure,
}

/// Words of Envoy's `retry_on` and `retry_grpc_on` whose meaning is not there yet.
const FAIL_ON_LATER: [&str; 9] = [
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Reads `upstreams`. A bad upstream is noted and takes its place with a stand-in, so that what refers to
/// it by name is not reported as well.
pub fn read(value: &Value<'_>) -> Option<Vec<Upstream>> {
    let entries = value.entries()?;
    Some(
        entries
            .iter()
            .map(|(name, value)| Upstream::read(name, value).unwrap_or_else(|| Upstream::bare(name)))
            .collect(),
    )
}

/// The most upstreams that a message lists.
const LISTED: usize = 20;

/// Reads the name of an upstream, which must be one of `upstreams`. Where those could not be read, that has
/// been noted, and any name will do.
pub fn reference(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<UpstreamId> {
    let name = value.text()?;
    let Some(upstreams) = upstreams else {
        return Some(UpstreamId(0));
    };
    let found = upstreams.iter().position(|upstream| upstream.name == name);
    found.map(UpstreamId).or_else(|| {
        // A bad name has been noted already, and a long list helps nobody.
        let names = upstreams.iter().map(|upstream| upstream.name.as_str()).filter(|name| is_label(name));
        let mut names: Vec<&str> = names.take(LISTED + 1).collect();
        if names.len() > LISTED {
            names.truncate(LISTED);
            names.push("…");
        }
        let allowed =
            if names.is_empty() { "none, as upstreams is empty".to_owned() } else { names.join(", ") };
        value.problem(format!("{} is no upstream; allowed: {allowed}", value.node()))
    })
}

impl Upstream {
    fn bare(name: &str) -> Self {
        let name = name.to_owned();
        Upstream {
            cluster: name.clone(),
            name,
            check: None,
            breaker: None,
            assume_ready: true,
            guarded: false,
        }
    }

    fn read(name: &str, value: &Value<'_>) -> Option<Self> {
        value.as_label(name);
        let fields = value.object(&["cluster", "readinessProbe", "circuitBreaker", "assume", "force"])?;
        let cluster = fields.require("cluster", "the name of an Envoy cluster").and_then(Value::header_value);
        let length = cluster.unwrap_or_default().len();
        let check = fields.read("readinessProbe", None, |value| Check::read(name, length, value).map(Some));
        let breaker = fields.read("circuitBreaker", None, |value| Breaker::read(value).map(Some));
        let assume_ready =
            fields.read("assume", true, |value| value.choice(&[("ready", true), ("notReady", false)]));
        fields.later("force", |value| value.choice(&[("none", ()), ("ready", ()), ("notReady", ())]));

        if assume_ready == Some(false) && fields.get("readinessProbe").is_none() {
            value.problem::<()>(
                "assumed notReady with no readinessProbe to find it ready, so that requests for it would be \
                 refused for ever; allowed: a readinessProbe, or assume: ready",
            );
        }
        let cluster = match cluster? {
            "" => return fields.get("cluster")?.refuse("the name of an Envoy cluster"),
            cluster => cluster.to_owned(),
        };
        Some(Upstream {
            name: name.to_owned(),
            cluster,
            check: check?,
            breaker: breaker?,
            assume_ready: assume_ready?,
            guarded: false,
        })
    }
}

impl Breaker {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&[
            "failOn",
            "consecutiveFailures",
            "failurePercent",
            "slowPercent",
            "slowerThan",
            "window",
            "minimumRequests",
            "notReadyFor",
            "maxNotReadyFor",
            "trial",
        ])?;
        let percent = |value: &Value<'_>| value.integer(1..=100);
        fields.later("failurePercent", percent);
        fields.later("slowPercent", percent);
        fields.later("slowerThan", |value| value.duration(ms(1)..=HOUR));
        fields.later("window", |value| value.duration(SECOND..=HOUR));
        fields.later("minimumRequests", |value| value.integer(1..=1_000_000));

        let fail_on = FailOn::read_list(&fields);
        let consecutive_failures = fields.read("consecutiveFailures", 5, |value| value.integer(1..=100_000));
        let not_ready_for = fields.read("notReadyFor", 5 * SECOND, |value| value.duration(ms(100)..=HOUR));
        let floor = not_ready_for.unwrap_or(ms(100));
        let max_not_ready_for =
            fields.read("maxNotReadyFor", floor.max(60 * SECOND), |value| value.duration(floor..=24 * HOUR));
        let trial = fields.read("trial", Trial::default(), Trial::read);
        Some(Breaker {
            fail_on: fail_on?,
            consecutive_failures: consecutive_failures?,
            not_ready_for: not_ready_for?,
            max_not_ready_for: max_not_ready_for?,
            trial: trial?,
        })
    }
}

impl Default for Trial {
    fn default() -> Self {
        Self { requests: 3, successes: 3, lease_for: 30 * SECOND }
    }
}

impl Trial {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["requests", "successes", "leaseFor", "rampOver"])?;
        let default = Trial::default();
        fields.later("rampOver", |value| value.duration(ms(0)..=HOUR));
        let requests = fields.read("requests", default.requests, |value| value.integer(1..=100));
        let successes = fields.read("successes", default.successes, |value| value.integer(1..=1_000));
        let lease_for = fields.read("leaseFor", default.lease_for, |value| value.duration(SECOND..=HOUR));
        Some(Trial { requests: requests?, successes: successes?, lease_for: lease_for? })
    }
}

impl FailOn {
    /// Reads the field `failOn`, a list of words; `5xx` where it is not there.
    pub fn read_list(fields: &Fields<'_>) -> Option<Vec<Self>> {
        fields.read("failOn", vec![FailOn::ServerError], |value| {
            let words = value.list()?;
            if words.is_empty() {
                return value.problem(
                    "an empty list, so that nothing would be a failure; allowed: at least one word",
                );
            }
            Some(words.iter().filter_map(FailOn::read).collect())
        })
    }

    fn read(value: &Value<'_>) -> Option<Self> {
        let words = [
            ("5xx", Some(FailOn::ServerError)),
            ("gateway-error", Some(FailOn::GatewayError)),
            ("reset", Some(FailOn::Reset)),
            ("connect-failure", Some(FailOn::ConnectFailure)),
        ];
        let later = FAIL_ON_LATER.map(|word| (word, None));
        let word = value.choice(&[&words[..], &later[..]].concat())?;
        if word.is_none() {
            value.later();
        }
        word
    }
}

/// Reads the field `upstream` of an object, which must be there.
pub fn required_reference(fields: &Fields<'_>, upstreams: Option<&[Upstream]>) -> Option<UpstreamId> {
    fields.require("upstream", "the name of an upstream").and_then(|value| reference(value, upstreams))
}
