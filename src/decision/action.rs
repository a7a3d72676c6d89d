//! The actions that a decision consists of.

use std::borrow::Cow;
use std::rc::Rc;

use crate::decision::probe::health::call::HealthCall;
use crate::decision::reply::Reply;
use crate::policy::probe::{PassThrough, Probe};

/// What the worker does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'p> {
    /// Forward it.
    Forward(ForwardEdits<'p>),
    /// Answer it. A reply that is kept ready-made is shared.
    Reply(Rc<Reply>),
    /// Order the proxy to drain or to stop draining, then reply.
    Drain {
        /// Whether to drain.
        draining: bool,
        /// The reply once the order is carried out.
        reply: Reply,
    },
    /// Reply with what the worker knows, in JSON.
    Status,
    /// Reply with what the app answers to a call of the worker's own, or with its last answer. The call carries
    /// nothing of the client's.
    PassThrough {
        /// The index of the probe in the policy.
        endpoint: usize,
        /// The probe.
        probe: &'p Probe,
        /// The rule by which it passes through.
        rule: &'p PassThrough,
        /// Whether the request is a HEAD. Responses without a body are cached apart.
        head: bool,
    },
    /// Forward it with these edits, and turn the response into that of this gRPC health check.
    GrpcCheck {
        /// The health check.
        call: HealthCall,
        /// The edits of the request's headers.
        edits: Vec<HeaderEdit<'p>>,
    },
}

impl Action<'_> {
    /// Returns whether the request is a probe, an order to drain, or for the status page.
    pub fn is_for_probe(&self) -> bool {
        match self {
            Action::Forward(_) => false,
            Action::Reply(reply) => reply.is_for_probe(),
            Action::Drain { .. } | Action::Status | Action::PassThrough { .. } | Action::GrpcCheck { .. } => {
                true
            }
        }
    }
}

/// Edits of a forwarded request and of its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardEdits<'p> {
    /// Edits of the request's headers, in this order.
    pub request: Vec<HeaderEdit<'p>>,
    /// Edits of the response's headers, in this order.
    pub response: Vec<HeaderEdit<'p>>,
    /// Objects of the proxy's filter state, by name, with their values.
    pub filter_state: Vec<(&'p str, &'p str)>,
}

/// An edit of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit<'p> {
    /// The header's name, in lower case.
    pub header: Cow<'p, str>,
    /// The change.
    pub change: HeaderChange<'p>,
}

/// A change of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange<'p> {
    /// Replaces all values by this one.
    Set(Cow<'p, str>),
    /// The same. The value need not be UTF-8.
    SetBytes(Vec<u8>),
    /// Adds this value.
    Add(Cow<'p, str>),
    /// Removes the header.
    Remove,
}

impl<'p> HeaderEdit<'p> {
    /// Returns an edit that replaces all values of the header by this one.
    pub fn set(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Set(value.into()) }
    }

    /// Returns an edit that replaces all values of the header by this one. An empty value removes the header.
    pub fn replace(header: &'p str, value: Vec<u8>) -> Self {
        let change = if value.is_empty() { HeaderChange::Remove } else { HeaderChange::SetBytes(value) };
        HeaderEdit { header: header.into(), change }
    }

    /// Returns an edit that adds this value to the header.
    pub fn add(header: &'p str, value: impl Into<Cow<'p, str>>) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Add(value.into()) }
    }

    /// Returns an edit that removes the header.
    pub fn remove(header: &'p str) -> Self {
        HeaderEdit { header: header.into(), change: HeaderChange::Remove }
    }

    /// Returns the edit with owned text, so that it outlives the policy.
    pub fn into_owned(self) -> HeaderEdit<'static> {
        let own = |text: Cow<'p, str>| Cow::Owned(text.into_owned());
        let change = match self.change {
            HeaderChange::Set(value) => HeaderChange::Set(own(value)),
            HeaderChange::SetBytes(value) => HeaderChange::SetBytes(value),
            HeaderChange::Add(value) => HeaderChange::Add(own(value)),
            HeaderChange::Remove => HeaderChange::Remove,
        };
        HeaderEdit { header: own(self.header), change }
    }
}
