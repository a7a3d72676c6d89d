//! Replies that are kept ready-made, because most replies are the same as one before.

use std::rc::Rc;

use crate::decision::action::Action;
use crate::decision::probe::result::ProbeStatus;
use crate::decision::reply::{ProbeTarget, Reply};
use crate::readiness::UpstreamReason;

/// All that a reply depends on, besides the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A gate without CORS headers is closed.
    Gate {
        /// The index of the gate in the policy.
        gate: usize,
        /// The reason for which its upstream is not Ready.
        reason: UpstreamReason,
        /// The seconds after which the client may retry.
        retry_after: u32,
    },
    /// A probe is answered as one line of text, without the results of its checks.
    Probe {
        /// The target of the request.
        asked: ProbeTarget,
        /// The verdict.
        status: ProbeStatus,
        /// Whether the proxy drains.
        draining: bool,
        /// The age of the oldest check result, in seconds.
        age: Option<u64>,
    },
}

/// The latest replies of one policy.
#[derive(Debug, Default)]
pub struct ReadyReplies {
    latest: Vec<(Occasion, Rc<Reply>)>,
    /// How many are kept.
    most: usize,
}

/// How many replies a worker keeps.
const MOST: usize = 8;

impl ReadyReplies {
    /// Keeps the latest replies. The default keeps none.
    pub fn kept() -> Self {
        ReadyReplies { latest: Vec::new(), most: MOST }
    }

    /// Returns the reply of this occasion. `make` makes it if it is not kept.
    pub fn action<'p>(&mut self, occasion: Occasion, make: impl FnOnce() -> Reply) -> Action<'p> {
        match self.latest.iter().find(|(known, _)| *known == occasion) {
            Some((_, reply)) => Action::Reply(Rc::clone(reply)),
            None if self.most == 0 => Action::Reply(Rc::new(make())),
            None => self.keep(occasion, make()),
        }
    }

    /// Keeps a reply in place of the latest one of the same gate or probe, or else of the oldest one.
    #[inline(never)]
    fn keep<'p>(&mut self, occasion: Occasion, mut reply: Reply) -> Action<'p> {
        reply.serialize_headers();
        let reply = Rc::new(reply);
        let same = self.latest.iter().position(|(known, _)| known.is_alike(&occasion));
        if let Some(place) = same.or_else(|| (self.latest.len() >= self.most).then_some(0)) {
            self.latest.remove(place);
        }
        self.latest.push((occasion, Rc::clone(&reply)));
        Action::Reply(reply)
    }
}

impl Occasion {
    /// Returns whether both are of the same gate or of the same probe.
    fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Occasion::Gate { gate, .. }, Occasion::Gate { gate: other, .. }) => gate == other,
            (Occasion::Probe { asked, .. }, Occasion::Probe { asked: other, .. }) => asked == other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::reply::ReplyCause;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn occasion(gate: usize, retry_after: u32) -> Occasion {
        Occasion::Gate { gate, reason: UpstreamReason::Assumed, retry_after }
    }

    fn reply(body: &str) -> Reply {
        let cause = ReplyCause::Probe { asked: ProbeTarget::Drain, code: 200, result: "passed" };
        let headers = vec![("retry-after".into(), "5".into())];
        Reply {
            status: 200,
            grpc_status: None,
            headers,
            serialized: Vec::new(),
            body: body.into(),
            details: String::new(),
            cause,
        }
    }

    #[test]
    fn a_reply_is_made_once_for_each_occasion_of_the_latest() {
        let mut ready = ReadyReplies::kept();
        let mut made = 0;
        let mut ask = |gate, retry_after| {
            let action = ready.action(occasion(gate, retry_after), || {
                made += 1;
                reply(&format!("{gate} {retry_after}"))
            });
            match action {
                Action::Reply(reply) => {
                    assert_eq!(reply.body, format!("{gate} {retry_after}").as_bytes());
                    assert_eq!(*reply.serialized_headers(), *reply.serialized);
                    assert!(!reply.serialized.is_empty());
                }
                other => panic!("{other:?}"),
            }
            made
        };
        // Another wait of the same gate takes the place of the one before.
        assert_eq!([ask(0, 5), ask(0, 5), ask(0, 4), ask(0, 4), ask(0, 5)], [1, 1, 2, 2, 3]);
        assert_eq!((1..MOST).map(|gate| ask(gate, 5)).max(), Some(MOST + 2));
        assert_eq!([ask(0, 5), ask(MOST, 5), ask(1, 5), ask(0, 5)], [MOST + 2, MOST + 3, MOST + 3, MOST + 4]);
    }

    #[test]
    fn the_default_keeps_no_reply() {
        let action = ReadyReplies::default().action(occasion(0, 5), || reply("made"));
        assert_eq!(action, Action::Reply(Rc::new(reply("made"))));
    }
}
