//! What a policy has to find out of each response. Each costs host calls, so what no part of the policy needs is not
//! asked for.

use crate::policy::Policy;
use crate::value::response::FailOn;

/// The signals that the breakers and rollbacks of a policy judge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredSignals {
    /// Anything at all: a breaker judges responses.
    pub responses: bool,
    /// How long a response took.
    pub time: bool,
    /// The status of a gRPC service.
    pub grpc_status: bool,
    /// Whether a request has waited for too long.
    pub waits: bool,
}

impl RequiredSignals {
    /// Returns those of a policy.
    pub fn of(policy: &Policy) -> Self {
        let breakers = || policy.breakers();
        let rollbacks = || policy.releases.iter().filter_map(|release| release.rollback.as_ref());
        let words = breakers()
            .flat_map(|breaker| breaker.fail_on.iter().chain(&breaker.ignore_on))
            .chain(rollbacks().flat_map(|rollback| &rollback.fail_on));
        RequiredSignals {
            responses: breakers().next().is_some(),
            waits: breakers().any(|breaker| breaker.unanswered_after.is_some()),
            time: breakers().any(|breaker| breaker.slower_than().or(breaker.unanswered_after).is_some())
                || rollbacks().any(|rollback| rollback.latency.is_some()),
            grpc_status: words.copied().any(FailOn::asks_for_grpc_status),
        }
    }
}
