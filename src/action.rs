//! What is done with a request: the values that a decision is made of.

use std::borrow::Cow;

use crate::policy::probe::{PassThrough, Probe};
use crate::probe::health::call::Call;
use crate::reply::Reply;

/// What the host does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'p> {
    /// Forward it.
    Forward(Passage<'p>),
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

/// What is done to a request that is forwarded, and to its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passage<'p> {
    /// Edits of the request's headers, in this order.
    pub request: Vec<Edit<'p>>,
    /// Edits of the response's headers, in this order.
    pub response: Vec<Edit<'p>>,
    /// Objects of the proxy's filter state, by name, with their values.
    pub filter_state: Vec<(&'p str, &'p str)>,
}

/// One header edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit<'p> {
    /// The header, in lower case.
    pub header: Cow<'p, str>,
    /// What is done to it.
    pub change: Change<'p>,
}

/// What is done to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'p> {
    /// It gets this value, whatever it had.
    Set(Cow<'p, str>),
    /// It gets this value beside what it has.
    Add(Cow<'p, str>),
    /// It goes.
    Remove,
}

impl<'p> Edit<'p> {
    /// Gives the header this value, whatever it had.
    pub fn set(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        Edit { header: header.into(), change: Change::Set(value.into()) }
    }

    /// Gives the header this value beside what it has.
    pub fn add(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        Edit { header: header.into(), change: Change::Add(value.into()) }
    }

    /// Removes the header.
    pub fn remove(header: &'p str) -> Self {
        Edit { header: header.into(), change: Change::Remove }
    }

    /// The edit with its text its own, so that it outlives the policy.
    pub fn into_owned(self) -> Edit<'static> {
        let own = |text: Cow<'p, str>| Cow::Owned(text.into_owned());
        let change = match self.change {
            Change::Set(value) => Change::Set(own(value)),
            Change::Add(value) => Change::Add(own(value)),
            Change::Remove => Change::Remove,
        };
        Edit { header: own(self.header), change }
    }
}
