//! The right of one request to go to an upstream on trial.

use crate::policy::upstream::UpstreamId;

/// Names one lease of a trial: plain data, by which the upstream's state finds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId {
    /// The request's, unique among all of the proxy.
    pub id: u64,
    /// The generation of the state that lent it.
    pub generation: u32,
}

/// The right of one request to go to an upstream on trial. It can't be copied: its holder gives it back exactly
/// once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not given back blocks its trial until its lease expires"]
pub struct Permit {
    upstream: UpstreamId,
    lease: LeaseId,
}

impl Permit {
    /// Returns the permit for this lease of the upstream.
    pub fn new(upstream: UpstreamId, lease: LeaseId) -> Self {
        Permit { upstream, lease }
    }

    /// Returns the upstream that it is for.
    pub fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    /// Returns the lease that it holds.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Ends the permit, so that its lease can be given back.
    pub fn into_lease(self) -> (UpstreamId, LeaseId) {
        (self.upstream, self.lease)
    }
}
