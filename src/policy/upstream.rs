//! `upstreams`: what a request may need, and how its readiness is learnt.

use core::net::Ipv6Addr;
use core::time::Duration;

use super::document::Node;
use super::reader::{Fields, LABEL, Value, is_label};

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
        let asked = self.check.as_ref();
        let asked = asked.map(|check| (&check.path, check.scheme, &check.authority, &check.headers));
        (&self.cluster, asked, self.is_watched())
    }
}

/// `readinessProbe`, in the terms and with the defaults of a Pod's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// The request's path, with its query.
    pub path: String,
    /// `http` or `https`: what the request says. Whether TLS is spoken is the cluster's own setting.
    pub scheme: &'static str,
    /// The `:authority` of the request.
    pub authority: String,
    /// Further headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// From the moment the upstream is first known to its first check. 0 to 1 h, default 0.
    pub initial_delay: Duration,
    /// From the start of one check to the start of the next. 100 ms to 1 h, default 10 s.
    pub period: Duration,
    /// How long an answer may take. 10 ms to 5 min, default 1 s.
    pub timeout: Duration,
    /// Consecutive failures that make it NotReady. 1 to 1,000, default 3.
    pub failure_threshold: u32,
    /// Consecutive successes that make it Ready. 1 to 1,000, default 1.
    pub success_threshold: u32,
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
        if !is_label(name) {
            value.problem::<()>(format!("a bad name for an upstream; allowed: {LABEL}"));
        }
        let fields = value.object(&["cluster", "readinessProbe", "circuitBreaker", "assume", "force"])?;
        let cluster = fields.require("cluster", "the name of an Envoy cluster").and_then(Value::header_value);
        let check = fields.read("readinessProbe", None, |value| Check::read(name, value).map(Some));
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

impl Check {
    fn read(upstream: &str, value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&[
            "httpGet",
            "grpc",
            "tcpSocket",
            "exec",
            "initialDelaySeconds",
            "periodSeconds",
            "timeoutSeconds",
            "failureThreshold",
            "successThreshold",
        ])?;
        for key in ["tcpSocket", "exec"] {
            if let Some(value) = fields.get(key) {
                value.problem::<()>(
                    "not supported: a filter can open no socket and start no process; allowed: httpGet",
                );
            }
        }
        fields.later("grpc", |value| {
            let fields = value.object(&["service", "port"])?;
            fields.get("service").and_then(Value::header_value);
            fields.get("port").and_then(|port| port.integer(1..=65_535))
        });
        let get = match fields.get("httpGet") {
            Some(get) => HttpGet::read(upstream, get),
            None if ["grpc", "tcpSocket", "exec"].iter().any(|key| fields.get(key).is_some()) => None,
            None => fields.require("httpGet", "an object such as {path: /healthz}").and(None),
        };
        let initial_delay = fields.read("initialDelaySeconds", ms(0), |value| value.seconds(ms(0)..=HOUR));
        let period = fields.read("periodSeconds", 10 * SECOND, |value| value.seconds(ms(100)..=HOUR));
        let timeout = fields.read("timeoutSeconds", SECOND, |value| value.seconds(ms(10)..=300 * SECOND));
        let failure_threshold = fields.read("failureThreshold", 3, |value| value.integer(1..=1_000));
        let success_threshold = fields.read("successThreshold", 1, |value| value.integer(1..=1_000));
        let get = get?;
        Some(Check {
            path: get.path,
            scheme: get.scheme,
            authority: get.authority,
            headers: get.headers,
            initial_delay: initial_delay?,
            period: period?,
            timeout: timeout?,
            failure_threshold: failure_threshold?,
            success_threshold: success_threshold?,
        })
    }
}

/// `httpGet`, as in a Pod.
struct HttpGet {
    path: String,
    scheme: &'static str,
    authority: String,
    headers: Vec<(String, String)>,
}

impl HttpGet {
    fn read(upstream: &str, value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["path", "port", "host", "scheme", "httpHeaders"])?;
        let path = fields.read("path", "/", |value| {
            let text = value.text()?;
            let clean = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
            clean.then_some(text).or_else(|| value.refuse("a path that starts with \"/\", in visible ASCII"))
        });
        let scheme =
            fields.read("scheme", "http", |value| value.choice(&[("HTTP", "http"), ("HTTPS", "https")]));
        let host = fields.read("host", upstream.to_owned(), |value| {
            let text = value.text()?;
            let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte));
            let host = match text.parse::<Ipv6Addr>() {
                Ok(_) => format!("[{text}]"),
                Err(_) => text.to_owned(),
            };
            clean.then_some(host).or_else(|| value.refuse("a host name or address"))
        });
        let port = fields.read("port", None, |value| match value.node() {
            Node::Text(_) => {
                value.refuse("a number from 1 to 65535, as a filter does not know a Pod's port names")
            }
            _ => value.integer(1..=65_535).map(Some),
        });
        let headers = fields.each("httpHeaders", |value| {
            let fields = value.object(&["name", "value"])?;
            let name = fields.require("name", "a header name").and_then(|value| {
                // The host is the policy's to say; what else frames a message is the proxy's.
                let name = value.header_name(false)?;
                if name == "host" { Some(name) } else { value.header_name(true) }
            });
            let text = fields.require("value", "a header value").and_then(Value::header_value);
            Some((name?, text?.to_owned()))
        });
        let headers = headers?;
        if let Some(value) = fields.get("httpHeaders") {
            value.headers_at_most(headers.len());
        }
        // As with the kubelet, a Host header names the host.
        let named = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
        let authority = match (named, port?) {
            (Some(host), _) => host,
            (None, Some(port)) => format!("{}:{port}", host?),
            (None, None) => host?,
        };
        let headers = headers.into_iter().filter(|(name, _)| name != "host").collect();
        Some(HttpGet { path: path?.to_owned(), scheme: scheme?, authority, headers })
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

        let fail_on = fields.read("failOn", vec![FailOn::ServerError], |value| {
            let words = value.list()?;
            if words.is_empty() {
                return value.problem(
                    "an empty list, so that nothing would be a failure; allowed: at least one word",
                );
            }
            Some(words.iter().filter_map(FailOn::read).collect())
        });
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
