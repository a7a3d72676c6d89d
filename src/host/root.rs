//! One policy in one VM: its configuration, its ticks, and the active checks while this VM leads them.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, MapType, Status};
use twox_hash::XxHash64;

use super::worker::{self, Worker};
use super::{metric, store, stream};
use crate::policy::upstream::{Check, Upstream, UpstreamId};
use crate::policy::{Mode, Policy};
use crate::readiness::check;
use crate::time::Time;

/// The most problems of a refused policy that are logged, as each VM logs them all.
const LOGGED: usize = 20;

/// A VM that does not renew its lease in this time is given up. Four ticks at least.
const LEASE: Duration = Duration::from_secs(1);

/// The root context.
pub struct Root {
    worker: Option<Rc<Worker>>,
    tick: Duration,
    /// Checks under way, by the callout's token.
    in_flight: HashMap<u32, InFlight>,
}

struct InFlight {
    upstream: UpstreamId,
    generation: u32,
}

impl Root {
    /// A root with no policy yet.
    pub fn new() -> Self {
        Root { worker: None, tick: Duration::ZERO, in_flight: HashMap::new() }
    }

    /// Sends the upstream's next check, if it is due.
    fn check(&mut self, worker: &Worker, id: UpstreamId, upstream: &Upstream, now: Time) {
        let in_flight = self.in_flight.values().any(|check| check.upstream == id);
        let (Some(check), Some(state), false) = (&upstream.check, worker.snapshot(id), in_flight) else {
            return;
        };
        if !check::is_due(&state, check, now, self.tick / 2) {
            return;
        }
        // Noted first: should the lease change hands now, the next holder knows when one is due.
        worker.check_started(id, now);
        match send(check, &upstream.cluster) {
            Ok(token) => {
                self.in_flight.insert(token, InFlight { upstream: id, generation: state.generation });
            }
            Err(status) if worker.check_unsent(id) => {
                let (policy, name) = (&worker.policy.name, &upstream.name);
                let why = unsent(status, &upstream.cluster);
                log::warn!("policy {policy}: upstream {name}: check not sent: {why}");
            }
            Err(_) => {}
        }
    }
}

/// Sends one check as a callout.
fn send(check: &Check, cluster: &str) -> Result<u32, Status> {
    let mut headers = vec![
        (":method", "GET"),
        (":scheme", check.scheme),
        (":path", check.path.as_str()),
        (":authority", check.authority.as_str()),
    ];
    headers.extend(check.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if !check.headers.iter().any(|(name, _)| name == "user-agent") {
        headers.push(("user-agent", concat!("graygate/", env!("CARGO_PKG_VERSION"))));
    }
    hostcalls::dispatch_http_call(cluster, headers, None, Vec::new(), check.timeout)
}

/// Why a check was not sent, in words.
fn unsent(status: Status, cluster: &str) -> String {
    match status {
        Status::BadArgument => format!("the proxy has no cluster {cluster:?}"),
        Status::InternalFailure => {
            format!("cluster {cluster:?} has no host to connect to, or is at its limits")
        }
        status => format!("cluster {cluster:?}: {status:?}"),
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, _: usize, _: usize) {
        let (Some(InFlight { upstream, generation }), Some(worker)) =
            (self.in_flight.remove(&token), &self.worker)
        else {
            return;
        };
        // With no headers there is no map to ask, and asking would end the VM.
        let result = if headers == 0 {
            check::judge(None, false)
        } else {
            // The router adds this header to every answer of an upstream, and to none of its own.
            let header = "x-envoy-upstream-service-time";
            let served = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, header);
            check::judge(stream::status(MapType::HttpCallResponseHeaders), matches!(served, Ok(Some(_))))
        };
        worker.checked(upstream, generation, result);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let text = text.ok().flatten().unwrap_or_default();
        let plugin = hostcalls::get_property(vec!["plugin_name"]).ok().flatten().unwrap_or_default();
        let plugin = String::from_utf8_lossy(&plugin);
        let policy = match Policy::from_json(&text) {
            Ok(policy) => policy,
            Err(problems) => {
                let count = problems.iter().count();
                for problem in problems.iter().take(LOGGED) {
                    log::error!("policy refused: {problem}");
                }
                if count > LOGGED {
                    log::error!(
                        "policy refused: {} more problems; `graygate check` prints them all",
                        count - LOGGED
                    );
                }
                metric::refused(&plugin);
                return false;
            }
        };
        if is_news(&plugin, &policy, &text) {
            log::info!("policy {}: loaded: {}", policy.name, policy.summary());
        }
        if policy.mode != Mode::Off
            && let Some(tick) = policy.tick()
        {
            self.tick = tick;
            // Can't fail: a root may always set its tick.
            let _ = hostcalls::set_tick_period(tick);
        }
        self.worker = Some(Rc::new(Worker::new(policy)));
        true
    }

    /// What others saw comes in first, so that whether a check is due is judged by the newest state.
    fn on_tick(&mut self) {
        let Some(worker) = self.worker.clone() else {
            return;
        };
        let now = worker::now();
        for (id, upstream) in worker.policy.upstream_ids().filter(|(_, upstream)| upstream.is_watched()) {
            // Renewed while a check is under way, too: one that takes its time must not make another VM
            // send the next.
            let leads = worker.leads(id, now, LEASE);
            worker.refresh(id, now, leads);
            if leads {
                self.check(&worker, id, upstream, now);
            }
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let worker = self.worker.clone()?;
        Some(Box::new(stream::Stream::new(worker)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Whether this VM is the first of the proxy to be given this text, so that it is the one to say so.
fn is_news(plugin: &str, policy: &Policy, text: &[u8]) -> bool {
    let hash = XxHash64::oneshot(0, text);
    let key = format!("graygate/{}/loaded/{plugin}", policy.name);
    let first = store::update(&key, |last: Option<u64>| {
        let news = last != Some(hash);
        (news, news.then_some(hash))
    });
    first.unwrap_or(false)
}
