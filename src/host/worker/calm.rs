//! Whether a response would tell anything new, so that most need not be asked where they came from.

use std::time::Duration;

use super::Worker;

/// What one more success would tell, of the upstreams that are judged.
#[derive(Clone, Copy)]
pub(super) struct Calm {
    /// Nothing of any, but that it has had one.
    all: bool,
    /// Each has had one since the last tick.
    succeeded: bool,
}

/// The most responses between two ticks that are asked for all there is to know while all is calm.
const ASKED: u32 = 16;

impl Worker {
    /// Whether it is known by now that some upstream is well, so that one more success may be no news. Each row of a
    /// worker's own failures begins where a success was, so each upstream's first one between two ticks counts: as it is
    /// not known whose a response is before it is asked, so many are asked at least.
    pub fn takes_no_news(&self) -> bool {
        let calm = self.calm();
        if self.asks.grpc_status || !calm.all {
            return false;
        }
        let asked = self.asked.get();
        let enough = asked >= ASKED || calm.succeeded;
        self.asked.set(if enough { asked } else { asked + 1 });
        enough
    }

    /// Whether an upstream's response that begins with this status after so long tells nothing new of it, whichever it
    /// is.
    pub fn is_no_news(&self, status: u16, took: Option<Duration>) -> bool {
        let breakers = || self.policy.breakers();
        let good = self.good_status.get() == Some(status)
            || breakers().all(|breaker| breaker.classifier().is_success(status));
        if good {
            self.good_status.set(Some(status));
        }
        let slow = |took| breakers().any(|breaker| breaker.slower_than().is_some_and(|than| took > than));
        good && !took.is_some_and(slow)
    }

    /// Whether one more success tells nothing: it neither ends a row, nor counts in a share, nor shows that an upstream
    /// is in use whose checks go by that.
    pub fn is_calm(&self) -> bool {
        self.calm().all
    }

    fn calm(&self) -> Calm {
        if let Some(calm) = self.calm.get() {
            return calm;
        }
        let mut calm = Calm { all: true, succeeded: true };
        let Ok(board) = self.board.try_borrow() else {
            return Calm { all: false, succeeded: false };
        };
        for (upstream, slot) in self.policy.upstreams.iter().zip(&board.slots) {
            let Some(breaker) = &upstream.breaker else {
                continue;
            };
            let by_use = upstream.check.as_ref().is_some_and(|check| check.periods.go_by_use());
            let settled = slot.throttle.is_idle() && slot.snapshot.ignores_success(breaker, slot.streak);
            calm.all &= !by_use && !slot.outdated && settled;
            calm.succeeded &= slot.streak.is_broken();
        }
        self.calm.set(Some(calm));
        calm
    }
}
