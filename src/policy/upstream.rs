//! `upstreams`: the services that requests need, and how their readiness is determined.

use core::time::Duration;

use super::check::Check;
use super::document::Node;
use super::format;
use super::keys::spec::Format;
use super::matcher::{Matches, Subject};
use super::reader::{Fields, Value};
use super::spelling::nearest;
use crate::value::response::{Classifier, FailOn};
use crate::value::string_match::StringMatch;

/// Identifies an upstream of a policy by its index in [`super::Policy::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// A service that requests may need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The name that the user chose.
    pub name: String,
    /// The name of its Envoy cluster.
    pub cluster: String,
    /// The active check. If absent, the upstream is not checked.
    pub check: Option<Check>,
    /// The circuit breaker. If absent, responses are no evidence.
    pub breaker: Option<Breaker>,
    /// Whether the upstream is Ready before there is any evidence.
    pub assume_ready: bool,
    /// The state that the operator sets, regardless of the evidence: `true` for Ready, `false` for NotReady.
    pub force: Option<bool>,
    /// Whether a gate, a fallback or a version keeps requests away while the upstream is not Ready.
    pub guarded: bool,
}

/// An upstream before the rest of the policy is read. Its fields are those of [`Upstream`].
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
    /// Whether it may have a check that could not be read, which is reported already.
    pub lost_check: bool,
    /// The index of the upstream whose name has this draft's place in alphabetical order. Finds a name among thousands.
    alphabetical: usize,
}

impl Upstream {
    /// Returns whether there can be evidence: the upstream has a check or a breaker.
    pub fn is_watched(&self) -> bool {
        self.check.is_some() || self.breaker.is_some()
    }

    /// Returns what identifies the upstream's state: its cluster, the request of its check, and whether there can be
    /// evidence. State is kept across policies while these stay the same. All other settings only say what follows from
    /// the evidence.
    pub fn identity(&self) -> impl core::hash::Hash + '_ {
        (&self.cluster, self.check.as_ref().map(|check| check.call.identity()), self.is_watched())
    }
}

/// `circuitBreaker`: readiness from the responses to real requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// The responses that are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// The responses that are no evidence. Takes precedence over `failOn`.
    pub ignore_on: Vec<FailOn>,
    /// The requests whose responses are evidence. Empty means all.
    pub record: Matches,
    /// The requests, among those of `record`, whose responses are no evidence. Empty means none.
    pub ignore: Matches,
    /// The row of failures that makes the upstream NotReady. If absent, no row of failures does.
    pub consecutive_failures: Option<ConsecutiveFailures>,
    /// How many consecutive requests without a response make the upstream NotReady. 0 to 100,000, and with 0 no row of
    /// them does. If absent, such requests count towards `consecutive_failures`, otherwise they do not.
    pub local_origin_failures: Option<u32>,
    /// How long a request may wait for a response before it counts as unanswered, even if its client has left. 1 ms to
    /// 1 h. If absent, no request counts as unanswered by its waiting time.
    pub unanswered_after: Option<Duration>,
    /// The shares of recent responses that make the upstream NotReady.
    pub shares: Option<Shares>,
    /// The first wait: how long the upstream stays NotReady before a trial. 100 ms to 1 h, default 5 s.
    pub not_ready_for: Duration,
    /// The longest wait, as waits grow. `notReadyFor` to 24 h, default 60 s, or `notReadyFor` if that is longer.
    pub max_not_ready_for: Duration,
    /// The longest wait that a failing response may ask for. 0 s to 24 h, default `maxNotReadyFor`.
    pub max_retry_after: Duration,
    /// How a trial decides whether the upstream is Ready again.
    pub trial: Trial,
}

/// `consecutiveFailures`: the row of failures that makes an upstream NotReady.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsecutiveFailures {
    /// The number of failures in the row. 1 to 100,000, default 5.
    pub limit: u32,
    /// Whether the limit is the default, because the document does not name one.
    pub is_default: bool,
}

/// The shares of the responses in a window that make an upstream NotReady. At least one of the two is set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shares {
    /// `failurePercent`: the share of failures. 1 to 100.
    pub failure_percent: Option<u32>,
    /// `slowPercent` and `slowerThan`: the share of slow responses.
    pub slow: Option<Slow>,
    /// The length of the window. 1 s to 1 h, default 10 s.
    pub window: Duration,
    /// The least number of responses in the window. With fewer, no share counts. 1 to 1,000,000, default 20.
    pub minimum_requests: u32,
}

/// When a response is slow, and which share of slow responses makes an upstream NotReady.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slow {
    /// The share of slow responses. 1 to 100.
    pub percent: u32,
    /// The longest time to the response's headers that is not slow. 1 ms to 1 h.
    pub than: Duration,
}

/// `trial`: a few real requests decide whether an upstream is Ready again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trial {
    /// The number of permits: how many requests all workers together let through at the same time. 1 to 100, default 3.
    pub requests: u32,
    /// How many successes end the trial. 1 to 1,000, default 3.
    pub successes: u32,
    /// How long a request may hold its permit without a response. 1 s to 1 h, default 30 s.
    pub lease_for: Duration,
    /// The length of the ramp: after the trial, the share of requests let through rises linearly for this long. 0 s to
    /// 1 h. Default 0 s, which means no ramp.
    pub ramp_over: Duration,
}

const SECOND: Duration = Duration::from_secs(1);

/// Reads `upstreams`. Replaces an invalid upstream by a placeholder, so that references to it are not reported as well.
pub fn read(value: &Value<'_>) -> Option<Vec<UpstreamDraft>> {
    let entries = value.entries()?;
    let drafts = entries.into_iter().map(|(name, value)| {
        UpstreamDraft::read(name, &value).unwrap_or_else(|| UpstreamDraft::placeholder(name))
    });
    let mut drafts: Vec<UpstreamDraft> = drafts.collect();
    let mut order: Vec<usize> = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let is_before = |other: &usize| drafts.get(*other).is_some_and(|other| other.name < draft.name);
        order.insert(order.partition_point(is_before), index);
    }
    for (draft, index) in drafts.iter_mut().zip(order) {
        draft.alphabetical = index;
    }
    Some(drafts)
}

/// Returns the index of the upstream with this name.
fn find(upstreams: &[UpstreamDraft], name: &str) -> Option<usize> {
    let named = |place: &UpstreamDraft| upstreams.get(place.alphabetical).map(|draft| draft.name.as_str());
    let place = upstreams.binary_search_by(|place| named(place).cmp(&Some(name)));
    Some(upstreams.get(place.ok()?)?.alphabetical)
}

/// The most upstreams that a message lists.
const MAX_LISTED: usize = 20;

/// Reads the name of an upstream and returns its ID.
///
/// `upstreams` is `None` if the list could not be read, which is reported already. Then every name is accepted, with an
/// ID of 0.
pub fn read_reference(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<UpstreamId> {
    let text = value.text()?;
    let Some(upstreams) = upstreams else {
        return Some(UpstreamId(0));
    };
    find(upstreams, text).map(UpstreamId).or_else(|| {
        // An invalid name is reported already, and may have control characters.
        let names = upstreams.iter().map(|upstream| upstream.name.as_str());
        let mut names: Vec<&str> = names.filter(|name| format::is_label(name)).collect();
        let name = value.node();
        let near = nearest(text, &names);
        value.problem(match (names.first(), near) {
            (None, _) => format!("{name} is not an upstream; add it to upstreams, which is empty"),
            (_, Some(near)) => format!("{name} is not an upstream; did you mean {near:?}?"),
            _ => {
                // A long list helps nobody.
                if names.len() > MAX_LISTED {
                    names.truncate(MAX_LISTED);
                    names.push("…");
                }
                format!("{name} is not an upstream; allowed: {}", names.join(", "))
            }
        })
    })
}

impl UpstreamDraft {
    fn placeholder(name: &str) -> Self {
        let name = name.to_owned();
        UpstreamDraft {
            cluster: name.clone(),
            name,
            check: None,
            breaker: None,
            assume_ready: true,
            force: None,
            lost_check: true,
            alphabetical: 0,
        }
    }

    /// Completes the upstream by whether the rest of the policy guards it.
    pub fn build(self, guarded: bool) -> Upstream {
        let UpstreamDraft { name, cluster, check, breaker, assume_ready, force, .. } = self;
        Upstream { name, cluster, check, breaker, assume_ready, force, guarded }
    }

    fn read(name: &str, value: &Value<'_>) -> Option<Self> {
        value.at_key().validate_label(name);
        let fields = value.object()?;
        let cluster = fields.text("cluster");
        let check = fields.optional("readinessProbe", |value| Check::read(name, value));
        let breaker = fields.optional("circuitBreaker", Breaker::read);
        let assume_ready = fields.word("assume").map(|word| word == "ready");
        let force = fields.word("force").map(|word| match word {
            "ready" => Some(true),
            "notReady" => Some(false),
            _ => None,
        });

        if assume_ready == Some(false) && !fields.has("readinessProbe") {
            value.problem::<()>(
                "assume: notReady without a readinessProbe would block the upstream permanently. \
                 Add a readinessProbe, or use assume: ready.",
            );
        }
        Some(UpstreamDraft {
            name: name.to_owned(),
            cluster: cluster?.to_owned(),
            check: check?,
            breaker: breaker?,
            assume_ready: assume_ready?,
            force: force?,
            lost_check: fields.is_misspelt("readinessProbe"),
            alphabetical: 0,
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
            consecutive_failures: Some(ConsecutiveFailures { limit: 5, is_default: true }),
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
        let fields = value.object()?;
        let default = Breaker::default();
        let shares = Shares::read(&fields);
        let fail_on = read_fail_on(&fields);
        let ignore_on = fields.read_list("ignoreOn", read_fail_on_item);
        let record = fields.read("record", Matches::default(), Matches::read);
        let ignore = fields.read("ignore", Matches::default(), Matches::read);
        // With a named share, the default row would often trip before there are `minimumRequests`.
        let names_share = ["failurePercent", "slowPercent"].iter().any(|key| fields.has(key));
        let default_row = default.consecutive_failures.filter(|_| !names_share);
        let consecutive_failures = fields.read("consecutiveFailures", default_row, ConsecutiveFailures::read);
        let local_origin_failures = fields.optional("consecutiveLocalOriginFailures", Value::whole);
        if let (Some(None), Some(None), Some(None | Some(0)), Some(value)) =
            (&shares, consecutive_failures, local_origin_failures, fields.get("consecutiveFailures"))
            && !names_share
        {
            value.problem::<()>(
                "0 turns off the only trigger, so responses could not make the upstream not ready. \
                 Use a number from 1 to 100000, or add failurePercent, slowPercent with slowerThan, \
                 or consecutiveLocalOriginFailures.",
            );
        }
        let unanswered_after = fields.optional("unansweredAfter", Value::duration);
        let not_ready_for = fields.duration("notReadyFor");
        let first_wait = not_ready_for.unwrap_or_default();
        let default_max_wait = first_wait.max(default.max_not_ready_for);
        let max_not_ready_for = fields.read("maxNotReadyFor", default_max_wait, Value::duration);
        if let Some(max_wait) = max_not_ready_for.filter(|max_wait| *max_wait < first_wait) {
            fields.contradiction(
                "maxNotReadyFor",
                format_args!(
                    "{max_wait:?} is shorter than notReadyFor, which is {first_wait:?}. Use at least that."
                ),
            );
        }
        let max_retry_after =
            fields.read("maxRetryAfter", max_not_ready_for.unwrap_or_default(), Value::duration);
        let trial = fields.read("trial", default.trial, Trial::read);
        if let (Some(fail_on), Some(ignore_on)) = (&fail_on, &ignore_on)
            && !(Classifier { fail_on, ignore_on }).unanswered().is_failure()
            && let Some(value) = fields.get("unansweredAfter")
        {
            value.problem::<()>(
                "has no effect: failOn does not treat a missing response as a failure. Add 5xx, gateway-error, \
                 reset or unavailable to failOn, and remove it from ignoreOn.",
            );
        }
        let slow = shares.iter().flatten().find_map(|shares| shares.slow.as_ref());
        if let (Some(Some(unanswered_after)), Some(slow), Some(value)) =
            (unanswered_after, slow, fields.get("slowerThan"))
            && slow.than >= unanswered_after
        {
            value.problem::<()>("must be shorter than unansweredAfter, or no response could count as slow.");
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

impl ConsecutiveFailures {
    /// Reads the number. Returns `None` inside for 0, which turns the row off.
    fn read(value: &Value<'_>) -> Option<Option<Self>> {
        let limit = value.whole()?;
        Some((limit > 0).then_some(ConsecutiveFailures { limit, is_default: false }))
    }
}

impl Shares {
    fn read(fields: &Fields<'_>) -> Option<Option<Self>> {
        let failure_percent = fields.optional("failurePercent", Value::whole);
        let slow_percent = fields.optional("slowPercent", Value::whole);
        let slower_than = fields.optional("slowerThan", Value::duration);
        let window = fields.duration("window");
        let minimum = fields.whole("minimumRequests");
        let slow = slow_percent?.zip(slower_than?).map(|(percent, than)| Slow { percent, than });
        let shares =
            Shares { failure_percent: failure_percent?, slow, window: window?, minimum_requests: minimum? };
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
        let fields = value.object()?;
        let requests = fields.whole("requests");
        let successes = fields.whole("successes");
        let lease_for = fields.duration("leaseFor");
        let ramp_over = fields.duration("rampOver");
        Some(Trial {
            requests: requests?,
            successes: successes?,
            lease_for: lease_for?,
            ramp_over: ramp_over?,
        })
    }
}

/// Reads the field `failOn`, a list of failure conditions. Default `5xx`.
pub fn read_fail_on(fields: &Fields<'_>) -> Option<Vec<FailOn>> {
    match fields.get("failOn") {
        Some(_) => fields.read_list("failOn", read_fail_on_item),
        None => Some(vec![FailOn::ServerError]),
    }
}

fn read_fail_on_item(value: &Value<'_>) -> Option<FailOn> {
    if matches!(value.node(), Node::Object(_)) {
        return read_header_condition(value);
    }
    if let Node::Text(text) = value.node()
        && format::accepts(Format::ErrorStatus, text)
    {
        return text.parse().ok().map(FailOn::Status);
    }
    Some(match value.word()? {
        "4xx" => FailOn::ClientError,
        "gateway-error" => FailOn::GatewayError,
        "reset" => FailOn::Reset,
        "connect-failure" => FailOn::ConnectFailure,
        "retriable-4xx" => FailOn::Retriable4xx,
        "retried" => FailOn::Retried,
        "cancelled" => FailOn::Grpc(1),
        "deadline-exceeded" => FailOn::Grpc(4),
        "resource-exhausted" => FailOn::Grpc(8),
        "internal" => FailOn::Grpc(13),
        "unavailable" => FailOn::Grpc(14),
        // "5xx".
        _ => FailOn::ServerError,
    })
}

fn read_header_condition(value: &Value<'_>) -> Option<FailOn> {
    let fields = value.object()?;
    let name = fields.get("header").and_then(Value::header_name);
    let value = StringMatch::read_fields(&fields, Subject::Header);
    Some(FailOn::Header { name: name?, value: value? })
}

impl Breaker {
    /// Returns the longest time to a response's headers that is not slow, if the breaker judges slowness.
    pub fn slower_than(&self) -> Option<Duration> {
        Some(self.shares.as_ref()?.slow.as_ref()?.than)
    }

    /// Returns whether a response that took so long is slow.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.slower_than().is_some_and(|limit| took > limit)
    }

    /// Returns the classifier for this breaker's `failOn` and `ignoreOn`.
    pub fn classifier(&self) -> Classifier<'_> {
        Classifier { fail_on: &self.fail_on, ignore_on: &self.ignore_on }
    }

    /// Returns how many consecutive requests without a response make the upstream NotReady, if any number does.
    pub fn local_origin_limit(&self) -> Option<u32> {
        self.local_origin_failures.filter(|limit| *limit > 0)
    }

    /// Returns whether requests without a response are counted separately.
    pub fn counts_apart(&self) -> bool {
        self.local_origin_failures.is_some()
    }

    /// Returns whether the responses to some requests are no evidence.
    pub fn is_selective(&self) -> bool {
        !self.record.is_empty() || !self.ignore.is_empty()
    }

    /// Returns how long a trial request may wait for a response. After that it has failed, even if a response comes
    /// later.
    pub fn trial_deadline(&self) -> Option<Duration> {
        self.unanswered_after.into_iter().chain(self.slower_than()).min()
    }
}

/// Reads the required field `upstream` of an object and returns the upstream's ID.
pub fn read_required_reference(
    fields: &Fields<'_>,
    upstreams: Option<&[UpstreamDraft]>,
) -> Option<UpstreamId> {
    read_reference(fields.get("upstream")?, upstreams)
}
