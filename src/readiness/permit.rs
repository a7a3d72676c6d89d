//! Permits for requests to an upstream on trial.

use crate::policy::upstream::UpstreamId;

/// Identifies one lease of a trial. It is plain data, by which the upstream's state finds the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId {
    /// The id of the request, unique in the proxy.
    pub id: u64,
    /// The generation of the state that granted the lease.
    pub generation: u32,
}

/// Permits one request to an upstream on trial. It can't be copied, because its holder must give it back
/// exactly once. A build with debug assertions panics where one is dropped instead, so that a test finds it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not given back blocks its trial until its lease expires"]
pub struct Permit {
    upstream: UpstreamId,
    lease: LeaseId,
}

impl Permit {
    /// Creates the permit for this lease of the upstream.
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

    /// Consumes the permit and returns its lease, to be given back.
    pub fn into_lease(self) -> (UpstreamId, LeaseId) {
        let lease = (self.upstream, self.lease);
        core::mem::forget(self);
        lease
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "a permit was dropped and not given back: {self:?}");
    }
}
