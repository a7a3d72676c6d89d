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

/// The header by which a filter tells later filters of the same proxy which leases a request has.
pub const HEADER: &str = "x-graygate-permit";

/// Returns the value of [`HEADER`] for these leases.
pub fn write(leases: impl Iterator<Item = u64>) -> String {
    leases.map(|id| format!("{id:016x}")).collect::<Vec<_>>().join(",")
}

/// Returns the leases in the value of [`HEADER`]. The value is untrusted. A lease that does not exist has no effect.
pub fn read(value: &[u8]) -> Vec<u64> {
    let ids = value.split(|byte| *byte == b',').filter_map(|id| core::str::from_utf8(id).ok());
    ids.filter_map(|id| u64::from_str_radix(id, 16).ok()).take(MAX_LEASES).collect()
}

/// The number of leases that are read. A request has one for each upstream on trial that it needs.
const MAX_LEASES: usize = 8;

/// The data of a request that asks for a permit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermitQuery {
    /// A new id, unique in the proxy.
    pub id: u64,
    /// The ids of the leases that the request took in filters before this one.
    pub held: Vec<u64>,
    /// The client.
    pub client: u32,
    /// Whether the whole request has come.
    pub is_whole: bool,
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
