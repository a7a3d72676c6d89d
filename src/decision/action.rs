//! What is done with a request: the values that a decision is made of.

use std::borrow::Cow;

use crate::decision::probe::health::call::HealthCall;
use crate::decision::reply::Reply;
use crate::policy::probe::{PassThrough, Probe};

/// What the host does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'p> {
    /// Forward it.
    Forward(ForwardEdits<'p>),
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
        /// The probe that it is, by its index in the policy.
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
        call: HealthCall,
        /// The edits.
        edits: Vec<HeaderEdit<'p>>,
    },
}

/// What is done to a request that is forwarded, and to its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardEdits<'p> {
    /// Edits of the request's headers, in this order.
    pub request: Vec<HeaderEdit<'p>>,
    /// Edits of the response's headers, in this order.
    pub response: Vec<HeaderEdit<'p>>,
    /// Objects of the proxy's filter state, by name, with their values.
    pub filter_state: Vec<(&'p str, &'p str)>,
}

/// One header edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit<'p> {
    /// The header, in lower case.
    pub header: Cow<'p, str>,
    /// What is done to it.
    pub change: HeaderChange<'p>,
}

/// What is done to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange<'p> {
    /// It gets this value, whatever it had.
    Set(Cow<'p, str>),
    /// It gets this value beside what it has.
    Add(Cow<'p, str>),
    /// It goes.
    Remove,
}

impl<'p> HeaderEdit<'p> {
    /// Gives the header this value, whatever it had.
    pub fn set(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Set(value.into()) }
    }

    /// Gives the header this value beside what it has.
    pub fn add(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Add(value.into()) }
    }

    /// Removes the header.
    pub fn remove(header: &'p str) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Remove }
    }

    /// The edit with its text its own, so that it outlives the policy.
    pub fn into_owned(self) -> HeaderEdit<'static> {
        let own = |text: Cow<'p, str>| Cow::Owned(text.into_owned());
        let change = match self.change {
            HeaderChange::Set(value) => HeaderChange::Set(own(value)),
            HeaderChange::Add(value) => HeaderChange::Add(own(value)),
            HeaderChange::Remove => HeaderChange::Remove,
        };
        HeaderEdit { header: own(self.header), change }
    }
}
