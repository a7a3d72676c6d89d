//! What is done with a request: the values that a decision is made of.

use crate::policy::probe::{PassThrough, Probe};
use crate::probe::health::call::Call;
use crate::reply::Reply;

/// What the host does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'p> {
    /// Forward it with these header edits; there may be none.
    Forward(Vec<Edit<'p>>),
    /// Answer it.
    Reply(Reply),
    /// Order the proxy to drain, or to stop draining, then answer it.
    Drain {
        /// The order.
        draining: bool,
        /// The answer once it is done.
        reply: Reply,
    },
    /// Answer it with what the app last said; or let it go to the app with nothing of the asker's in it, and
    /// keep what the app says.
    PassThrough {
        /// The probe that it is, by its place in the policy.
        endpoint: usize,
        /// The probe.
        probe: &'p Probe,
        /// How it passes through.
        rule: &'p PassThrough,
        /// Whether it asks for no body; such answers are kept apart.
        head: bool,
    },
    /// Forward it with these edits, and make the response the one to this gRPC health check.
    GrpcCheck {
        /// The check.
        call: Call,
        /// The edits.
        edits: Vec<Edit<'p>>,
    },
}

/// One header edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'p> {
    /// The header, in lower case.
    pub header: &'p str,
    /// Its new value; `None` removes it.
    pub value: Option<&'p str>,
}
