//! The connection of a check: one of its own, as with the kubelet, or one that the proxy keeps.
//!
//! An app may serve the connections that it has and accept no new one. It may also close a kept connection at the moment
//! of a check. So a check gets a connection of its own: it has `connection: close`, and both sides close after it.
//!
//! HTTP/2 forbids this header. Some servers refuse the request, and some close the connection. The proxy does not say
//! which protocol a cluster has, so each leader learns it:
//!
//! - The first check is sent without the header. After one that passed, the next has the header.
//! - A response that says `connection: close` proves HTTP/1. From then on, results count at once.
//! - Without that proof, a failure that the header may have caused does not count. The check is sent once more, without
//!   the header and with a whole timeout. If it passes, the next 100 checks are sent without the header. It may have
//!   been a slow response to HTTP/1, or the cluster may change its protocol, so the header is then tried again. A failed
//!   check ends this sooner.
//! - If such a failure comes after the proof, it counts. The next check is again sent without the header.
//!
//! A VM that serves requests never sends the header, because its connections may be those of users.

use super::failure::CheckFailure;

/// What is known of how an upstream takes checks with a connection of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionUse {
    /// Nothing. Checks are sent without the header.
    #[default]
    Unknown,
    /// The last check passed. The next one has the header.
    Trying,
    /// The upstream speaks HTTP/1. Checks have the header.
    Own,
    /// The upstream has failed a check with the header and passed it without. This many checks have passed since.
    Kept(u8),
}

/// The number of checks that pass without the header before it is tried again.
const TRIED_AGAIN_AFTER: u8 = 100;

impl ConnectionUse {
    /// Returns whether the next check has a connection of its own. `shared` is whether the VM serves requests.
    pub fn closes(self, shared: bool) -> bool {
        !shared && matches!(self, ConnectionUse::Trying | ConnectionUse::Own)
    }

    /// Returns whether a check is sent once more if the connection is reset. Otherwise a connection that the app closes
    /// at that moment would count as a failure.
    pub fn retries(self, shared: bool) -> bool {
        shared || self != ConnectionUse::Own
    }

    /// Takes a response of the upstream to a request with the header. `confirms` is whether it says `connection: close`.
    pub fn heard(&mut self, confirms: bool) {
        if confirms {
            *self = ConnectionUse::Own;
        }
    }

    /// Takes the result of a check. `closed` is whether it had the header, and `again` whether it was sent once more
    /// without. Returns whether it must be sent once more now, and does not count yet.
    pub fn judge(&mut self, result: Result<(), CheckFailure>, closed: bool, again: bool) -> bool {
        let is_suspect = closed && result.is_err_and(is_suspect);
        match self {
            ConnectionUse::Trying if is_suspect => return true,
            ConnectionUse::Own if is_suspect => *self = ConnectionUse::Unknown,
            ConnectionUse::Trying if again => {
                *self = if result.is_ok() { ConnectionUse::Kept(0) } else { ConnectionUse::Unknown };
            }
            ConnectionUse::Unknown if result.is_ok() => *self = ConnectionUse::Trying,
            ConnectionUse::Kept(_) if result.is_err() => *self = ConnectionUse::Unknown,
            ConnectionUse::Kept(passed) if *passed + 1 >= TRIED_AGAIN_AFTER => *self = ConnectionUse::Trying,
            ConnectionUse::Kept(passed) => *passed += 1,
            _ => {}
        }
        false
    }
}

/// Returns whether a server of HTTP/2 may have failed the check because of the header.
fn is_suspect(failure: CheckFailure) -> bool {
    matches!(
        failure,
        CheckFailure::Status(400) | CheckFailure::Unreachable | CheckFailure::TimedOut | CheckFailure::Broken
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const RESET: Result<(), CheckFailure> = Err(CheckFailure::Unreachable);
    const STATUS: Result<(), CheckFailure> = Err(CheckFailure::Status(500));

    /// Sends one check. Returns the requests that it took, each as whether it had the header.
    fn check(
        known: &mut ConnectionUse,
        respond: impl Fn(bool) -> (Result<(), CheckFailure>, bool),
    ) -> Vec<bool> {
        let closes = known.closes(false);
        let (result, confirms) = respond(closes);
        known.heard(closes && confirms);
        if !known.judge(result, closes, false) {
            return vec![closes];
        }
        assert!(!known.judge(respond(false).0, false, true));
        vec![closes, false]
    }

    #[test]
    fn an_app_that_speaks_http_1_gets_a_connection_for_each_check_after_the_first() {
        let mut known = ConnectionUse::Unknown;
        let sent: Vec<bool> = (0..4).flat_map(|_| check(&mut known, |closes| (Ok(()), closes))).collect();
        assert_eq!(sent, [false, true, true, true]);
        assert!(!known.retries(false) && known.retries(true) && !known.closes(true));
    }

    #[test]
    fn an_upstream_that_refuses_the_header_gets_it_once() {
        for failure in [RESET, Err(CheckFailure::Status(400)), Err(CheckFailure::TimedOut)] {
            let mut known = ConnectionUse::Unknown;
            let respond = |closes| (if closes { failure } else { Ok(()) }, false);
            let sent: Vec<bool> = (0..4).flat_map(|_| check(&mut known, respond)).collect();
            assert_eq!(sent, [false, true, false, false, false]);
            assert!(known.retries(false));
        }
    }

    #[test]
    fn the_header_is_tried_again_after_many_checks_or_after_a_failure() {
        let slow = |closes| (if closes { Err(CheckFailure::TimedOut) } else { Ok(()) }, false);
        let well = |closes| (Ok(()), closes);
        let mut known = ConnectionUse::Trying;
        assert_eq!(check(&mut known, slow), [true, false]);
        let sent: Vec<bool> = (0..102).flat_map(|_| check(&mut known, well)).collect();
        assert!(sent[..100].iter().all(|closes| !closes) && sent[100..] == [true, true]);
        assert_eq!(known, ConnectionUse::Own);
        let mut known = ConnectionUse::Kept(3);
        let sent: Vec<bool> = [STATUS, Ok(()), Ok(())]
            .iter()
            .flat_map(|result| check(&mut known, |closes| (*result, closes)))
            .collect();
        assert_eq!((sent, known), (vec![false, false, true], ConnectionUse::Own));
    }

    #[test]
    fn an_app_that_does_not_confirm_the_header_still_gets_it() {
        let mut known = ConnectionUse::Unknown;
        let sent: Vec<bool> = (0..3).flat_map(|_| check(&mut known, |_| (Ok(()), false))).collect();
        assert_eq!(sent, [false, true, true]);
        // The app's own status is not the header's fault.
        assert_eq!(check(&mut known, |_| (STATUS, false)), [true]);
        assert_eq!(check(&mut known, |_| (RESET, false)), [true, false]);
        assert_eq!(check(&mut known, |_| (RESET, false)), [false]);
    }

    #[test]
    fn after_the_proof_a_failure_counts_at_once_and_the_next_check_has_no_header() {
        let mut known = ConnectionUse::Own;
        assert_eq!(check(&mut known, |_| (STATUS, true)), [true]);
        assert_eq!(check(&mut known, |_| (RESET, false)), [true]);
        assert_eq!(check(&mut known, |_| (RESET, false)), [false]);
        assert_eq!(check(&mut known, |_| (Ok(()), false)), [false]);
        assert_eq!(check(&mut known, |_| (Ok(()), true)), [true]);
        assert_eq!(known, ConnectionUse::Own);
    }
}
