//! `upstreams`: what a request may need, and how its readiness is learnt.

use core::time::Duration;

use super::check::Check;
use super::document::Node;
use super::matcher::Matches;
use super::reader::{Fields, Value, is_label};
use crate::value::response::{Classifier, FailOn};

/// Which upstream of a policy; an index into [`super::Policy::upstreams`].
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
    /// The operator's word: Ready or not, whatever is known.
    pub force: Option<bool>,
    /// Whether a gate or a version keeps requests away while it is not Ready.
    pub guarded: bool,
}

/// An upstream as it is read, before the rest of the policy is known. Its fields are those of [`Upstream`].
pub struct UpstreamDraft {
    /// See [`Upstream::name`].
    pub name: String,
    /// See [`Upstream::cluster`].
    pub cluster: String,
    /// See [`Upstream::check`].
    pub check: Option<Check>,
    /// See [`Upstream::breaker`].
    pub breaker: Option<Breaker>,
    /// See [`Upstream::assume_ready`].
    pub assume_ready: bool,
    /// See [`Upstream::force`].
    pub force: Option<bool>,
}

impl Upstream {
    /// Whether anything can change what is known of the upstream.
    pub fn is_watched(&self) -> bool {
        self.check.is_some() || self.breaker.is_some()
    }

    /// What knowledge of the upstream is about: what is reached, how it is asked, and whether it is watched at
    /// all. All else only says what follows from it.
    pub fn identity(&self) -> impl core::hash::Hash + '_ {
        (&self.cluster, self.check.as_ref().map(|check| check.call.asks()), self.is_watched())
    }
}

/// `circuitBreaker`: readiness from the traffic itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// Which responses are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// Which responses are no evidence, whatever `failOn` says.
    pub ignore_on: Vec<FailOn>,
    /// Requests whose responses are evidence. Empty: all.
    pub record: Matches,
    /// Of these, the ones whose responses are none. Empty: no one.
    pub ignore: Matches,
    /// Consecutive failures that make it NotReady. 1 to 100,000, default 5.
    pub consecutive_failures: u32,
    /// The same of requests with no answer, which then do not count above. 1 to 100,000. Absent: they count above.
    pub local_origin_failures: Option<u32>,
    /// A request that has waited this long for an answer has none, whether its client is still there or has left.
    /// 1 ms to 1 h. Absent: none by itself.
    pub unanswered_after: Option<Duration>,
    /// What shares of the latest responses do, if any.
    pub shares: Option<Shares>,
    /// How long it then stays NotReady before a trial. 100 ms to 1 h, default 5 s.
    pub not_ready_for: Duration,
    /// The most that wait may grow to. Default 60 s, or `notReadyFor` where that is longer.
    pub max_not_ready_for: Duration,
    /// The longest wait that a failing response may ask for. 0 s to 24 h, default `maxNotReadyFor`.
    pub max_retry_after: Duration,
    /// How it earns trust again.
    pub trial: Trial,
}

/// Shares of the responses in a window that make it NotReady. At least one of the two is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shares {
    /// `failurePercent`, 1 to 100.
    pub failure_percent: Option<u32>,
    /// `slowPercent` and `slowerThan`.
    pub slow: Option<Slow>,
    /// How far it reaches back. 1 s to 1 h, default 10 s.
    pub window: Duration,
    /// How many responses it takes to judge. 1 to 1,000,000, default 20.
    pub minimum_requests: u32,
}

/// When a response is slow, and how many may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slow {
    /// 1 to 100.
    pub percent: u32,
    /// The most time to the response's headers. 1 ms to 1 h.
    pub than: Duration,
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
    /// How long after the trial it takes until all requests go again, their share rising in a straight line. 0 s to
    /// 1 h, default 0 s: at once.
    pub ramp_over: Duration,
}

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Reads `upstreams`. A bad upstream is noted and takes its place with a stand-in, so that what refers to
/// it by name is not reported as well.
pub fn read(value: &Value<'_>) -> Option<Vec<UpstreamDraft>> {
    let entries = value.entries()?;
    Some(
        entries
            .iter()
            .map(|(name, value)| {
                UpstreamDraft::read(name, value).unwrap_or_else(|| UpstreamDraft::bare(name))
            })
            .collect(),
    )
}

/// The most upstreams that a message lists.
const LISTED: usize = 20;

/// Reads the name of an upstream, which must be one of `upstreams`. Where those could not be read, that has
/// been noted, and any name will do.
pub fn reference(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<UpstreamId> {
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

impl UpstreamDraft {
    fn bare(name: &str) -> Self {
        let name = name.to_owned();
        UpstreamDraft {
            cluster: name.clone(),
            name,
            check: None,
            breaker: None,
            assume_ready: true,
            force: None,
        }
    }

    /// Builds the upstream, now that the rest of the policy tells whether it is guarded.
    pub fn build(self, guarded: bool) -> Upstream {
        let UpstreamDraft { name, cluster, check, breaker, assume_ready, force } = self;
        Upstream { name, cluster, check, breaker, assume_ready, force, guarded }
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
        let forces = [("none", None), ("ready", Some(true)), ("notReady", Some(false))];
        let force = fields.read("force", None, |value| value.choice(&forces));

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
        Some(UpstreamDraft {
            name: name.to_owned(),
            cluster,
            check: check?,
            breaker: breaker?,
            assume_ready: assume_ready?,
            force: force?,
        })
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            fail_on: vec![FailOn::ServerError],
            ignore_on: Vec::new(),
            record: Matches::default(),
            ignore: Matches::default(),
            consecutive_failures: 5,
            local_origin_failures: None,
            unanswered_after: None,
            shares: None,
            not_ready_for: 5 * SECOND,
            max_not_ready_for: 60 * SECOND,
            max_retry_after: 60 * SECOND,
            trial: Trial::default(),
        }
    }
}

impl Breaker {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&[
            "failOn",
            "ignoreOn",
            "record",
            "ignore",
            "consecutiveFailures",
            "consecutiveLocalOriginFailures",
            "unansweredAfter",
            "failurePercent",
            "slowPercent",
            "slowerThan",
            "window",
            "minimumRequests",
            "notReadyFor",
            "maxNotReadyFor",
            "maxRetryAfter",
            "trial",
        ])?;
        let default = Breaker::default();
        let shares = Shares::read(&fields);
        let fail_on = read_fail_on(&fields);
        let ignore_on = fields.each("ignoreOn", read_word);
        let record = fields.read("record", Matches::default(), Matches::read);
        let ignore = fields.read("ignore", Matches::default(), Matches::read);
        let consecutive = |value: &Value<'_>| value.integer(1..=100_000);
        let consecutive_failures =
            fields.read("consecutiveFailures", default.consecutive_failures, consecutive);
        let local_origin_failures =
            fields.read("consecutiveLocalOriginFailures", None, |value| consecutive(value).map(Some));
        let unanswered_after =
            fields.read("unansweredAfter", None, |value| value.duration(ms(1)..=HOUR).map(Some));
        let not_ready_for =
            fields.read("notReadyFor", default.not_ready_for, |value| value.duration(ms(100)..=HOUR));
        let floor = not_ready_for.unwrap_or(ms(100));
        let longest = floor.max(default.max_not_ready_for);
        let max_not_ready_for =
            fields.read("maxNotReadyFor", longest, |value| value.duration(floor..=24 * HOUR));
        let longest = max_not_ready_for.unwrap_or(HOUR);
        let max_retry_after =
            fields.read("maxRetryAfter", longest, |value| value.duration(ms(0)..=24 * HOUR));
        let trial = fields.read("trial", default.trial, Trial::read);
        if let (Some(fail_on), Some(ignore_on)) = (&fail_on, &ignore_on)
            && !(Classifier { fail_on, ignore_on }).unanswered().is_failure()
            && let Some(value) = fields.get("unansweredAfter")
        {
            value.problem::<()>(
                "means nothing where no answer is no failure; allowed: with one of 5xx, gateway-error, reset, unavailable in failOn, and none in ignoreOn",
            );
        }
        let slower_than = shares.iter().flatten().find_map(|shares| shares.slow.as_ref());
        if let (Some(Some(most)), Some(slow), Some(value)) =
            (unanswered_after, slower_than, fields.get("slowerThan"))
            && slow.than >= most
        {
            value.problem::<()>(
                "no answer is slower, as none that late counts; allowed: less than unansweredAfter",
            );
        }
        Some(Breaker {
            fail_on: fail_on?,
            ignore_on: ignore_on?,
            record: record?,
            ignore: ignore?,
            consecutive_failures: consecutive_failures?,
            local_origin_failures: local_origin_failures?,
            unanswered_after: unanswered_after?,
            shares: shares?,
            not_ready_for: not_ready_for?,
            max_not_ready_for: max_not_ready_for?,
            max_retry_after: max_retry_after?,
            trial: trial?,
        })
    }
}

impl Shares {
    fn read(fields: &Fields<'_>) -> Option<Option<Self>> {
        let percent = |value: &Value<'_>| value.integer(1..=100).map(Some);
        let failure_percent = fields.read("failurePercent", None, percent);
        let slow_percent = fields.read("slowPercent", None, percent);
        let slower_than = fields.read("slowerThan", None, |value| value.duration(ms(1)..=HOUR).map(Some));
        let window = fields.read("window", 10 * SECOND, |value| value.duration(SECOND..=HOUR));
        let minimum = fields.read("minimumRequests", 20, |value| value.integer(1..=1_000_000));
        let needs = |key: &str, others: &[&str]| match fields.get(key) {
            Some(value) if !others.iter().any(|other| fields.get(other).is_some()) => {
                value.problem(format!("means nothing by itself; allowed: with {}", others.join(" or ")))
            }
            _ => Some(()),
        };
        let whole = [
            needs("slowPercent", &["slowerThan"]),
            needs("slowerThan", &["slowPercent"]),
            needs("window", &["failurePercent", "slowPercent"]),
            needs("minimumRequests", &["failurePercent", "slowPercent"]),
        ];
        let (failure_percent, slow_percent, slower_than) = (failure_percent?, slow_percent?, slower_than?);
        let slow = slow_percent.zip(slower_than).map(|(percent, than)| Slow { percent, than });
        let shares = Shares { failure_percent, slow, window: window?, minimum_requests: minimum? };
        whole.into_iter().collect::<Option<Vec<()>>>()?;
        Some(Some(shares).filter(|shares| shares.failure_percent.is_some() || shares.slow.is_some()))
    }
}

impl Default for Trial {
    fn default() -> Self {
        Self { requests: 3, successes: 3, lease_for: 30 * SECOND, ramp_over: Duration::ZERO }
    }
}

impl Trial {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["requests", "successes", "leaseFor", "rampOver"])?;
        let default = Trial::default();
        let ramp_over = fields.read("rampOver", default.ramp_over, |value| value.duration(ms(0)..=HOUR));
        let requests = fields.read("requests", default.requests, |value| value.integer(1..=100));
        let successes = fields.read("successes", default.successes, |value| value.integer(1..=1_000));
        let lease_for = fields.read("leaseFor", default.lease_for, |value| value.duration(SECOND..=HOUR));
        Some(Trial {
            requests: requests?,
            successes: successes?,
            lease_for: lease_for?,
            ramp_over: ramp_over?,
        })
    }
}

/// Reads the field `failOn`, a list of words; `5xx` where it is absent.
pub fn read_fail_on(fields: &Fields<'_>) -> Option<Vec<FailOn>> {
    fields.read("failOn", vec![FailOn::ServerError], |value| {
        let words = value.list()?;
        if words.is_empty() {
            return value
                .problem("an empty list, so that nothing would be a failure; allowed: at least one word");
        }
        Some(words.iter().filter_map(read_word).collect())
    })
}

fn read_word(value: &Value<'_>) -> Option<FailOn> {
    if let Node::Text(text) = value.node()
        && let Some(status) = text.parse().ok().filter(|status| (400..=599).contains(status))
    {
        return Some(FailOn::Status(status));
    }
    let words = [
        ("5xx", FailOn::ServerError),
        ("gateway-error", FailOn::GatewayError),
        ("reset", FailOn::Reset),
        ("connect-failure", FailOn::ConnectFailure),
        ("retriable-4xx", FailOn::Retriable4xx),
        ("cancelled", FailOn::Grpc(1)),
        ("deadline-exceeded", FailOn::Grpc(4)),
        ("resource-exhausted", FailOn::Grpc(8)),
        ("internal", FailOn::Grpc(13)),
        ("unavailable", FailOn::Grpc(14)),
    ];
    value.choice_or(&words, ", or a status from 400 to 599 such as \"429\"")
}

impl Breaker {
    /// The most time that a response may take, if that is judged.
    pub fn slower_than(&self) -> Option<Duration> {
        Some(self.shares.as_ref()?.slow.as_ref()?.than)
    }

    /// Which responses are failures, and which are no evidence.
    pub fn classifier(&self) -> Classifier<'_> {
        Classifier { fail_on: &self.fail_on, ignore_on: &self.ignore_on }
    }

    /// Whether requests with no answer are counted apart.
    pub fn counts_apart(&self) -> bool {
        self.local_origin_failures.is_some()
    }

    /// Whether some requests are no evidence.
    pub fn is_selective(&self) -> bool {
        !self.record.is_empty() || !self.ignore.is_empty()
    }

    /// After how long on trial a request with no answer has failed, whatever may come of it.
    pub fn trial_deadline(&self) -> Option<Duration> {
        self.unanswered_after.into_iter().chain(self.slower_than()).min()
    }
}

/// Reads the field `upstream` of an object, which must be there.
pub fn required_reference(fields: &Fields<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<UpstreamId> {
    fields.require("upstream", "the name of an upstream").and_then(|value| reference(value, upstreams))
}
