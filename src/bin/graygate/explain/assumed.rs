//! The state of the upstreams that `explain` assumes.

use graygate::policy::Policy;
use graygate::policy::upstream::{Upstream, UpstreamId};
use graygate::readiness::{Admission, Permit, Readiness, UpstreamReason, UpstreamStatus};
use graygate::value::date::Date;
use graygate::value::lifecycle::Lifecycle;
use graygate::value::time::Time;

/// The state of the upstreams: as the policy forces or assumes it, save for those in `not_ready`.
pub struct AssumedReadiness<'p> {
    /// The policy.
    pub policy: &'p Policy,
    /// The names of upstreams that are not ready.
    pub not_ready: &'p [String],
    /// The date of the request.
    pub date: Date,
}

/// The time of the request. It is the last of all, so the effect of a rollback before it is complete.
pub const NOW: Time = Time::from_millis(u64::MAX);

impl AssumedReadiness<'_> {
    /// Returns the admission of a request to this upstream. An operator's `force` takes precedence over `--not-ready`.
    fn assumed_admission(&self, upstream: &Upstream) -> Admission {
        match upstream.force {
            Some(true) => Admission::Ready,
            Some(false) => Admission::NotReady(UpstreamReason::Forced),
            None if !upstream.assume_ready || self.not_ready.contains(&upstream.name) => {
                Admission::NotReady(UpstreamReason::Assumed)
            }
            None => Admission::Ready,
        }
    }

    fn admission_of(&self, id: UpstreamId) -> Admission {
        self.policy.upstream(id).map_or(Admission::Ready, |upstream| self.assumed_admission(upstream))
    }

    /// Returns the names of the upstreams that are not ready.
    pub fn not_ready_names(&self) -> Vec<&str> {
        let is_not_ready = |upstream: &&Upstream| self.assumed_admission(upstream) != Admission::Ready;
        self.policy.upstreams.iter().filter(is_not_ready).map(|upstream| upstream.name.as_str()).collect()
    }

    /// Describes the state, with the source of what is not usual.
    pub fn describe(&self) -> String {
        /// How many upstreams are named.
        const MOST: usize = 10;
        let unusual = self.policy.upstreams.iter().filter_map(|upstream| {
            let is_named = self.not_ready.contains(&upstream.name);
            let state = match upstream.force {
                Some(true) if is_named => "ready (force: ready is stronger than --not-ready)",
                Some(true) => return None,
                Some(false) => "not ready (force: notReady)",
                None if is_named => "not ready (--not-ready)",
                None if !upstream.assume_ready => "not ready (assume: notReady)",
                None => return None,
            };
            Some(format!("{} {state}", upstream.name))
        });
        let unusual: Vec<String> = unusual.collect();
        let more = match unusual.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(", {more} more"),
        };
        let others = match (unusual.len(), self.policy.upstreams.len()) {
            (0, _) => return "all assumed ready".to_owned(),
            (named, all) if named == all => "",
            _ => ", the others ready",
        };
        let named: Vec<&str> = unusual.iter().take(MOST).map(String::as_str).collect();
        format!("assumed: {}{more}{others}", named.join(", "))
    }
}

impl Readiness for AssumedReadiness<'_> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.admission_of(id)
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        // Assumes that each upstream that is ready was checked just now, and that no other was checked yet.
        let admission = self.admission_of(id);
        let ready = admission == Admission::Ready;
        let held_back_since = (!ready).then_some(NOW);
        UpstreamStatus {
            admission,
            held_back_since,
            until: None,
            last_result_at: ready.then_some(NOW),
            verified: ready,
        }
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { started: true, ..Lifecycle::default() }
    }

    fn now(&self) -> Time {
        NOW
    }

    fn date(&self) -> Date {
        self.date
    }

    fn random(&mut self) -> u64 {
        0
    }
}
