//! The drain switch. An order from an allowed address fails readiness until it is taken back. A drain that an upstream's
//! checks tell of cannot be taken back here.

use super::result::{DrainReason, Seconds};
use super::source;
use std::rc::Rc;

use crate::decision::action::Action;
use crate::decision::reply::{ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::Drain;
use crate::readiness::Readiness;
use crate::value::code::CodeSpec;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::{Headers, Request};
use crate::value::time::Time;

/// What a reply of the switch says, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum DrainReply {
    /// The proxy drains.
    Draining,
    /// The proxy does not drain.
    NotDraining,
    /// The order was refused.
    Refused,
}

/// Where the codes appear.
const OF_DRAIN: &str = "`result` of `graygate_probe_answers_total` with `probe=\"drain\"`";

impl DrainReply {
    /// All of them.
    pub const ALL: [DrainReply; 3] = [DrainReply::Draining, DrainReply::NotDraining, DrainReply::Refused];

    /// Returns the statuses that such a reply of this switch can have. `DELETE` cannot end a drain that an upstream tells of.
    pub fn statuses(self, drain: &Drain) -> &'static [u32] {
        match self {
            DrainReply::Draining if drain.also_when.is_some() => &[200, 409],
            DrainReply::Draining | DrainReply::NotDraining => &[200],
            DrainReply::Refused => &[403, 405, 503],
        }
    }

    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            DrainReply::Draining => {
                const {
                    CodeSpec::new(
                        "draining",
                        OF_DRAIN,
                        "The proxy drains, so its readiness fails, after `readinessAfter`.",
                        "",
                    )
                }
            }
            DrainReply::NotDraining => {
                const { CodeSpec::new("not-draining", OF_DRAIN, "The proxy does not drain.", "") }
            }
            DrainReply::Refused => {
                const {
                    CodeSpec::new(
                        "refused",
                        OF_DRAIN,
                        "The order was not carried out: wrong source, wrong method, or the state could not be written.",
                        "The body says why. Allow the source in `probes.drain.from`, as the connection's own address.",
                    )
                }
            }
        }
    }
}

/// Returns what happens to a request for the switch.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &Policy,
    drain: &'p Drain,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    if let Err(why) = source::authorize("drain", &drain.from, request.source()) {
        return Action::Reply(Rc::new(reply(policy, 403, &why, DrainReply::Refused)));
    }
    let now = readiness.now();
    let lifecycle = readiness.lifecycle();
    let order = match request.get(":method") {
        Some(b"POST") => true,
        Some(b"DELETE") => false,
        Some(b"GET" | b"HEAD") => {
            return Action::Reply(Rc::new(state_reply(policy, drain, &lifecycle, now)));
        }
        _ => {
            let mut reply =
                reply(policy, 405, "method not allowed: use POST, DELETE, GET or HEAD", DrainReply::Refused);
            reply.headers.push(("allow".into(), "GET, HEAD, POST, DELETE".into()));
            return Action::Reply(Rc::new(reply));
        }
    };
    let ordered = lifecycle.changed(|lifecycle| lifecycle.draining = order, now);
    let reply = match DrainReason::of(policy, &ordered) {
        // The order is taken back all the same. Its sender expects a proxy that does not drain.
        Some(reason) if !order => {
            let text = format!("still {reason}. DELETE takes back only an order");
            reply(policy, 409, &text, DrainReply::Draining)
        }
        _ => state_reply(policy, drain, &ordered, now),
    };
    Action::Drain { draining: order, reply }
}

/// Returns the reply to an order that could not be carried out.
pub fn failed(policy: &Policy) -> Reply {
    reply(policy, 503, "the order could not be stored: try again", DrainReply::Refused)
}

/// Returns the reply that says whether the proxy drains, why, and when readiness follows.
fn state_reply(policy: &Policy, drain: &Drain, lifecycle: &Lifecycle, now: Time) -> Reply {
    let Some(reason) = DrainReason::of(policy, lifecycle) else {
        return reply(policy, 200, "not draining", DrainReply::NotDraining);
    };
    let text = match lifecycle.rest_of(drain.readiness_after, now) {
        Some(rest) => format!("{reason}; readiness fails in {} s", Seconds(rest)),
        None => reason.to_string(),
    };
    reply(policy, 200, &text, DrainReply::Draining)
}

fn reply(policy: &Policy, status: u32, text: &str, result: DrainReply) -> Reply {
    Reply::line_to_probe(policy, ProbeTarget::Drain, status, result.spec().code, text)
}
