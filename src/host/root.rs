//! One policy in one VM: its configuration, its ticks, and the active checks while this VM leads them.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, Status};

use super::check::{Checks, Finished};
use super::worker::{self, Worker};
use super::{evidence, fetch, metric, store};
use crate::policy::check::CheckCall;
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::policy::{Mode, Policy};
use crate::value::hash;
use crate::value::time::Time;

/// The most problems of a refused policy that are logged, as each VM logs them all.
const LOGGED: usize = 20;

/// A VM that does not renew its lease in this time is given up. Four ticks at least.
const LEASE: Duration = Duration::from_secs(1);

/// After how long a policy that needs no ticks has its only one.
const FIRST: Duration = Duration::from_millis(50);

/// The root context.
pub struct Root {
    /// The id of the context.
    pub id: u32,
    /// What works by its policy. Nothing before it has one.
    pub worker: Option<Rc<Worker>>,
    tick: Duration,
    /// Whether the policy has come into use; one that the proxy only tries out never ticks.
    ticked: bool,
    checks: Checks,
}

impl Root {
    /// A root with no policy yet. `id` is that of its context.
    pub fn new(id: u32) -> Self {
        Root { id, worker: None, tick: Duration::ZERO, ticked: false, checks: Checks::default() }
    }

    /// Takes a policy. Whether it can be used.
    pub fn on_configure(&mut self, size: usize) -> bool {
        let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let text = text.ok().flatten().unwrap_or_default();
        let plugin = hostcalls::get_property(vec!["plugin_name"]).ok().flatten().unwrap_or_default();
        let plugin = String::from_utf8_lossy(&plugin);
        let node = hostcalls::get_property(vec!["xds", "node", "id"]).ok().flatten();
        let policy = match Policy::for_node(&text, &node.unwrap_or_default()) {
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
            let tick = policy.tick().map(|tick| format!(", a tick each {} ms", tick.as_millis()));
            let summary = policy.summary();
            log::info!("policy {}: loaded: {summary}{}", policy.name, tick.unwrap_or_default());
        }
        let worker = Worker::new(policy, hash::key(0, &text));
        fetch::seed(&worker.policy);
        if worker.policy.mode == Mode::Off {
            worker.show_in_use();
        } else {
            // Each policy has a first tick, by which it is in use.
            self.tick = worker.tick().unwrap_or(FIRST);
            // Can't fail: a root may always set its tick.
            let _ = hostcalls::set_tick_period(self.tick);
        }
        self.worker = Some(Rc::new(worker));
        true
    }

    /// What others saw comes in first, so that whether a check is due is judged by the newest state.
    pub fn on_tick(&mut self) {
        let Some(worker) = self.worker.clone() else {
            return;
        };
        if !core::mem::replace(&mut self.ticked, true) {
            worker.take_over();
            if worker.tick().is_none() {
                let _ = hostcalls::set_tick_period(Duration::ZERO);
            }
        }
        let now = worker::now();
        evidence::look_at_waiting(&worker, self.id, now);
        for (id, upstream) in worker.policy.upstream_ids().filter(|(_, upstream)| upstream.is_watched()) {
            // Renewed while a check is under way, too: one that takes its time must not make another VM
            // send the next.
            let leads = worker.claim_lead(id, now, LEASE);
            worker.refresh(id, now, leads);
            if leads {
                worker.show_ready(id);
                #[cfg(feature = "faults")]
                super::fault::on_lead();
                self.check(&worker, id, upstream, now);
            }
        }
        worker.refresh_gates(now, LEASE);
        worker.refresh_lifecycle(now, LEASE);
        worker.refresh_releases(now);
    }

    /// Takes the end of an HTTP callout.
    pub fn on_http_call_response(&mut self, token: u32, headers: usize) {
        let Some(worker) = &self.worker else {
            return;
        };
        let asked = |id| {
            let upstream = worker.policy.upstream(id)?;
            match &upstream.check.as_ref()?.call {
                CheckCall::Http(get) => Some((upstream.cluster.as_str(), get)),
                CheckCall::Grpc(_) => None,
            }
        };
        let finished = self.checks.answered(token, headers, worker::now(), asked);
        finish(worker, finished);
    }

    /// Takes the end of a gRPC callout: its message, or its status.
    pub fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        let finished = self.checks.ended(token, status, size);
        if let Some(worker) = &self.worker {
            finish(worker, finished);
        }
    }

    /// Sends the upstream's next check, if it is due.
    fn check(&mut self, worker: &Worker, id: UpstreamId, upstream: &Upstream, now: Time) {
        let (Some(check), Some(state)) = (&upstream.check, worker.snapshot(id)) else {
            return;
        };
        let slack = self.tick / 2;
        let due = !self.checks.busy(id, now) && state.is_check_due(check, now, slack);
        // Claimed before it is sent: should the lease change hands now, the next holder knows.
        if !due || !worker.claim_check(id, now, slack) {
            return;
        }
        match self.checks.start(id, upstream, check, state.generation, now) {
            Ok(()) => {}
            Err(status) if worker.note_unsent(id) => {
                let (policy, name) = (&worker.policy.name, &upstream.name);
                let why = unsent(status, &upstream.cluster);
                log::warn!("policy {policy}: upstream {name}: check not sent: {why}");
            }
            Err(_) => {}
        }
    }
}

/// Why a check was not sent, in words.
fn unsent(status: Status, cluster: &str) -> String {
    match status {
        Status::BadArgument => format!("the proxy has no cluster {cluster:?}"),
        Status::InternalFailure => {
            format!("cluster {cluster:?} has no host to connect to, is at its limits, or is not there")
        }
        status => format!("cluster {cluster:?}: {status:?}"),
    }
}

fn finish(worker: &Worker, finished: Option<Finished>) {
    if let Some(Finished { upstream, generation, result }) = finished {
        worker.checked(upstream, generation, result);
    }
}

/// Whether this VM is the first of the proxy to be given this text, so that it is the one to say so.
fn is_news(plugin: &str, policy: &Policy, text: &[u8]) -> bool {
    let hash = hash::key(0, text);
    let key = format!("graygate/{}/loaded/{plugin}", policy.name);
    let first = store::update(&key, |last: Option<u64>| {
        let news = last != Some(hash);
        (news, news.then_some(hash))
    });
    first.unwrap_or(false)
}
