//! The signals that a policy needs from each response. Each signal costs host calls, so only those are read.

use core::time::Duration;

use crate::policy::Policy;
use crate::policy::upstream::Breaker;
use crate::value::response::FailOn;

/// The signals that the breakers and rollbacks of a policy judge by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSignals {
    /// Whether any response counts for an upstream, because the policy has a breaker.
    pub responses: bool,
    /// Whether the time that a response takes matters.
    pub time: bool,
    /// The shortest time after which a response is slow for any breaker, if one can be.
    pub slower_than: Option<Duration>,
    /// Whether a gRPC status can be a failure or be ignored.
    pub grpc_status: bool,
    /// Whether it matters how often a request was sent.
    pub attempts: bool,
    /// The response headers that can make a response a failure or ignored. Each is named once.
    pub headers: Vec<String>,
    /// The shortest time after which a request counts as unanswered while it waits, if one can.
    pub unanswered_after: Option<Duration>,
}

impl RequiredSignals {
    /// Returns the signals that the policy needs.
    pub fn of(policy: &Policy) -> Self {
        let breakers = || policy.breakers();
        let rollbacks = || policy.releases.iter().filter_map(|release| release.rollback.as_ref());
        let conditions = || {
            let of_breakers = breakers().flat_map(|breaker| breaker.fail_on.iter().chain(&breaker.ignore_on));
            of_breakers.chain(rollbacks().flat_map(|rollback| &rollback.fail_on))
        };
        let mut headers: Vec<String> = conditions().filter_map(FailOn::header).map(str::to_owned).collect();
        headers.sort_unstable();
        headers.dedup();
        RequiredSignals {
            responses: breakers().next().is_some(),
            unanswered_after: breakers().filter_map(|breaker| breaker.unanswered_after).min(),
            slower_than: breakers().filter_map(Breaker::slower_than).min(),
            time: breakers().any(|breaker| breaker.slower_than().or(breaker.unanswered_after).is_some())
                || rollbacks().any(|rollback| rollback.latency.is_some()),
            grpc_status: conditions().any(FailOn::asks_for_grpc_status),
            attempts: conditions().any(FailOn::asks_for_attempts),
            headers,
        }
    }
}
