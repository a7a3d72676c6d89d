//! Whether one request may go to an upstream.

use crate::policy::upstream::UpstreamId;
use crate::readiness::{Admission, Permit, Readiness, UpstreamReason, is_admitted_on_ramp};

/// Whether the request may go to the upstream; on trial, if it gets a permit. One permit does for all that
/// the request needs the upstream for.
pub fn admit(
    upstream: UpstreamId,
    readiness: &mut impl Readiness,
    permits: &mut Vec<Permit>,
) -> Result<(), UpstreamReason> {
    match readiness.admission(upstream) {
        Admission::Ready => Ok(()),
        Admission::NotReady(reason) => Err(reason),
        Admission::Ramp { from, until, reason } => {
            let let_in = is_admitted_on_ramp(from, until, readiness.now(), readiness.random());
            if let_in { Ok(()) } else { Err(reason) }
        }
        Admission::Trial(_) if permits.iter().any(|held| held.upstream() == upstream) => Ok(()),
        Admission::Trial(reason) => match readiness.lend_permit(upstream) {
            Some(permit) => {
                permits.push(permit);
                Ok(())
            }
            // The question brought news, and there is nothing on trial any more.
            None if readiness.admission(upstream) == Admission::Ready => Ok(()),
            None => Err(reason),
        },
    }
}
