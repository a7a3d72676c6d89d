//! Decides whether one request is admitted to an upstream.

use crate::policy::upstream::UpstreamId;
use crate::readiness::{Admission, Permit, Readiness, UpstreamReason, is_admitted_on_ramp};

/// Returns the reason if the request is not admitted to the upstream.
///
/// On trial the request needs a permit, which is added to `permits`. One permit suffices, however often the
/// request needs the upstream.
pub fn admit(
    upstream: UpstreamId,
    readiness: &mut impl Readiness,
    permits: &mut Vec<Permit>,
) -> Result<(), UpstreamReason> {
    match readiness.admission(upstream) {
        Admission::Ready => Ok(()),
        Admission::NotReady(reason) => Err(reason),
        Admission::Ramp { from, until, reason } => {
            let is_admitted = is_admitted_on_ramp(from, until, readiness.now(), readiness.random());
            if is_admitted { Ok(()) } else { Err(reason) }
        }
        Admission::Trial(_) if permits.iter().any(|held| held.upstream() == upstream) => Ok(()),
        Admission::Trial(reason) => match readiness.lend_permit(upstream) {
            Some(permit) => {
                permits.push(permit);
                Ok(())
            }
            // The worker read the shared state for the permit and found that the trial has ended.
            None if readiness.admission(upstream) == Admission::Ready => Ok(()),
            None => Err(reason),
        },
    }
}
