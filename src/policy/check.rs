//! `readinessProbe`: how an upstream is checked. Keys and defaults are those of a Pod's `readinessProbe`.

use core::net::Ipv6Addr;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::document::Node;
use super::reader::{Fields, Value};

/// How one upstream is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// The request that a check sends.
    pub call: CheckCall,
    /// The delay from the moment the upstream is first known to its first check. 0 to 1 h, default 0.
    pub initial_delay: Duration,
    /// The most that is added to `initial_delay` at random, so that proxies that start together do not check together.
    /// 0 to 1 h, default 0.
    pub initial_jitter: Duration,
    /// The intervals from the start of one check to the start of the next.
    pub periods: Periods,
    /// The most that is added to a period at random, in percent of the period. 0 to 100, default 0.
    pub jitter_percent: u32,
    /// How long a response may take, redirects included. 10 ms to 5 min, default 1 s.
    pub timeout: Duration,
    /// How many consecutive failures make the upstream NotReady. 1 to 1,000, default 3.
    pub failure_threshold: u32,
    /// How many consecutive successes make the upstream Ready. 1 to 1,000, default 1.
    pub success_threshold: u32,
}

impl Check {
    /// Returns the greatest age that the latest result reaches while nothing is wrong. That is the longest period with
    /// all its jitter, plus the timeout, plus one tick, as a check may start up to one tick late.
    pub fn max_result_age(&self) -> Duration {
        self.longest_period() + self.timeout + MAX_TICK
    }

    /// Returns the age from which a result is stale, unless the policy sets one. At that age, two checks have been
    /// missed.
    pub fn stale_after(&self) -> Duration {
        self.longest_period() * 3 + self.timeout
    }

    fn longest_period(&self) -> Duration {
        let longest = self.periods.longest();
        longest + longest * self.jitter_percent / 100
    }
}

/// The periods of a check, each 100 ms to 1 h. `periodSeconds` defaults to 10 s, and the others default to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Periods {
    /// `periodSeconds`, used while the upstream is Ready.
    pub ready: Duration,
    /// `notReadyPeriodSeconds`, used while the upstream is not Ready.
    pub not_ready: Duration,
    /// `edgePeriodSeconds`, used while the latest results are for a transition, but are still below its threshold.
    pub edge: Duration,
    /// `idlePeriodSeconds`, used while the upstream is Ready and no request has needed it for that long.
    pub idle: Duration,
}

impl Periods {
    /// Returns whether the period depends on whether requests need the upstream.
    pub fn go_by_use(&self) -> bool {
        self.idle != self.ready
    }

    /// Returns the shortest period.
    pub fn shortest(&self) -> Duration {
        self.all().into_iter().fold(self.ready, Duration::min)
    }

    /// Returns the longest period.
    pub fn longest(&self) -> Duration {
        self.all().into_iter().fold(self.ready, Duration::max)
    }

    fn all(&self) -> [Duration; 4] {
        [self.ready, self.not_ready, self.edge, self.idle]
    }
}

/// The request that a check sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckCall {
    /// `httpGet`.
    Http(HttpGet),
    /// `grpc`, a call of `grpc.health.v1.Health/Check`.
    Grpc(GrpcHealth),
}

impl CheckCall {
    /// Returns what identifies the request. How its response is judged is no part of that.
    pub fn identity(&self) -> impl core::hash::Hash + '_ {
        match self {
            CheckCall::Http(get) => {
                (get.method, get.scheme, get.host_header(), &get.path, get.headers.as_slice())
            }
            CheckCall::Grpc(health) => ("", "", health.authority.as_str(), &health.service, &[][..]),
        }
    }
}

/// `httpGet`, as in a Pod's `readinessProbe`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpGet {
    /// `GET`, `HEAD` or `OPTIONS`. Only safe methods are allowed, as a check must not change anything. Default `GET`.
    pub method: &'static str,
    /// The request's path with its query. Default `/`.
    pub path: String,
    /// The request's `:scheme`, `http` or `https`. The cluster's own settings decide whether TLS is used.
    pub scheme: &'static str,
    /// The host of the request's URL, with the port. Redirects are judged by it.
    pub authority: String,
    /// The value of a `Host` header in `httpHeaders`, which replaces the URL's host in requests.
    pub host: Option<String>,
    /// Further headers. Names are in lower case.
    pub headers: Vec<(String, String)>,
    /// The statuses that pass. If absent, the kubelet's rule applies.
    pub expected: Option<Vec<RangeInclusive<u16>>>,
}

impl HttpGet {
    /// Returns the `:authority` of the first request.
    pub fn host_header(&self) -> &str {
        self.host.as_deref().unwrap_or(&self.authority)
    }
}

/// `grpc`, as in a Pod's `readinessProbe`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcHealth {
    /// The request's `:authority`.
    pub authority: String,
    /// The service whose health is checked. Default empty, which means the server as a whole.
    pub service: String,
}

/// The longest tick of a worker. See [`super::Policy::tick`].
const MAX_TICK: Duration = ms(250);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Check {
    /// Reads the `readinessProbe` of `upstream`.
    pub fn read(upstream: &str, value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let expected = fields.optional("expectedStatuses", read_statuses);
        let call = match (fields.get("httpGet"), fields.get("grpc")) {
            (Some(get), None) => {
                let get = HttpGet::read(upstream, get);
                get.and_then(|get| Some(CheckCall::Http(HttpGet { expected: expected?, ..get })))
            }
            (None, Some(grpc)) => {
                fields.contradiction(
                    "expectedStatuses",
                    "a gRPC response has no such status; remove it, or use httpGet",
                );
                GrpcHealth::read(upstream, grpc).map(CheckCall::Grpc)
            }
            // Reported by the table's rule.
            (Some(_), Some(_)) | (None, None) => None,
        };
        let initial_delay = fields.seconds("initialDelaySeconds");
        let initial_jitter = fields.seconds("initialJitterSeconds");
        let periods = read_periods(&fields);
        let timeout = fields.seconds("timeoutSeconds");
        let jitter_percent = fields.whole("jitterPercent");
        let failure_threshold = fields.whole("failureThreshold");
        let success_threshold = fields.whole("successThreshold");
        Some(Check {
            call: call?,
            initial_delay: initial_delay?,
            initial_jitter: initial_jitter?,
            periods: periods?,
            jitter_percent: jitter_percent?,
            timeout: timeout?,
            failure_threshold: failure_threshold?,
            success_threshold: success_threshold?,
        })
    }
}

#[cfg(test)]
impl Check {
    /// Returns a check with `httpGet: {}`, all periods set to `period`, and the defaults of a Pod's `readinessProbe`.
    pub fn every(period: Duration) -> Self {
        let get = HttpGet {
            method: "GET",
            path: "/".into(),
            scheme: "http",
            authority: "app".into(),
            host: None,
            headers: Vec::new(),
            expected: None,
        };
        Check {
            call: CheckCall::Http(get),
            initial_delay: Duration::ZERO,
            initial_jitter: Duration::ZERO,
            periods: Periods { ready: period, not_ready: period, edge: period, idle: period },
            jitter_percent: 0,
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }

    /// Returns the HTTP request. Panics for a gRPC check.
    pub fn get(&self) -> &HttpGet {
        match &self.call {
            CheckCall::Http(get) => get,
            CheckCall::Grpc(_) => panic!("a gRPC check"),
        }
    }
}

fn read_periods(fields: &Fields<'_>) -> Option<Periods> {
    let ready = fields.seconds("periodSeconds");
    let [not_ready, edge, idle] = ["notReadyPeriodSeconds", "edgePeriodSeconds", "idlePeriodSeconds"]
        .map(|key| fields.read(key, ready.unwrap_or_default(), Value::seconds));
    Some(Periods { ready: ready?, not_ready: not_ready?, edge: edge?, idle: idle? })
}

/// Reads a list of statuses. Each item is a number, or a range as Envoy writes it: `{start: 200, end: 300}`, which does
/// not include its end.
fn read_statuses(value: &Value<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let status = |value: &Value<'_>| value.whole().and_then(|status| u16::try_from(status).ok());
    let read_item = |item: &Value<'_>| {
        if !matches!(item.node(), Node::Object(_)) {
            return status(item).map(|status| status..=status);
        }
        let fields = item.object()?;
        let [start, end] = ["start", "end"].map(|key| fields.get(key).and_then(status));
        let (start, end) = (start?, end?);
        if start >= end {
            return item.problem(format!("invalid status range: start ({start}) must be below end ({end})"));
        }
        Some(start..=end.saturating_sub(1))
    };
    Some(value.list()?.iter().filter_map(read_item).collect())
}

/// Reads a `host` and returns it as `:authority` has it, with an IPv6 address in brackets.
pub fn read_host(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    Some(match text.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{text}]"),
        Err(_) => text.to_owned(),
    })
}

/// Reads the `port` that `:authority` names. The cluster's settings decide which port the check connects to.
fn read_port(fields: &Fields<'_>) -> Option<Option<u32>> {
    fields.optional("port", |value| match value.node() {
        Node::Text(_) => {
            value.refuse_as(&"a number from 1 to 65535, as a filter does not know a Pod's port names")
        }
        _ => value.whole(),
    })
}

fn authority(host: String, port: Option<u32>) -> String {
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

impl HttpGet {
    fn read(upstream: &str, value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let method = fields.word("method");
        let path = fields.text("path").map(normalize_path);
        let scheme = fields.word("scheme").map(|word| if word == "HTTPS" { "https" } else { "http" });
        let host = fields.read("host", default_host(upstream), read_host);
        let port = read_port(&fields);
        let headers = fields.read_list("httpHeaders", |value| {
            let fields = value.object()?;
            let name = fields.get("name").and_then(Value::header_name);
            let text = fields.text("value");
            Some((name?, text?.to_owned()))
        });
        let headers = headers?;
        let (hosts, headers): (Vec<_>, Vec<_>) = headers.into_iter().partition(|(name, _)| name == "host");
        let host_header = hosts.into_iter().next().map(|(_, value)| value);
        // An empty `Host` header counts as none, as with the kubelet.
        Some(HttpGet {
            method: method?,
            path: path?,
            scheme: scheme?,
            authority: authority(host?, port?),
            host: host_header.filter(|host| !host.is_empty()),
            headers,
            expected: None,
        })
    }
}

/// Returns a path as the kubelet reads it: the leading slash may be missing, and a fragment is dropped.
fn normalize_path(text: &str) -> String {
    let path = text.split('#').next().unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Returns the host that a request names if the policy gives none. It is made from a name of the policy. Such a name may
/// have characters that servers refuse in a host.
pub fn default_host(name: &str) -> String {
    let replaced = name.replace(|c: char| c != '.' && !c.is_ascii_alphanumeric(), "-");
    let labels = replaced.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
    let host = labels.collect::<Vec<_>>().join(".");
    if host.is_empty() { "graygate".to_owned() } else { host }
}

impl GrpcHealth {
    fn read(upstream: &str, value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let service = fields.read("service", "", Value::text);
        let port = read_port(&fields);
        Some(GrpcHealth { authority: authority(default_host(upstream), port?), service: service?.to_owned() })
    }
}
