//! The number that identifies a policy, whatever form its document has.
//!
//! A document reaches the filter in many forms. Istio makes a `google.protobuf.Struct` of YAML, which has no order of keys and
//! one kind of number, and JSON of that. So the number is a hash of the parsed policy as JSON with ordered keys and without
//! spaces. These are not part of it: comments, the keys that begin with `x-`, and `onWrongPolicy`, which is about another document.

use super::Mode;
use super::document::Node;
use crate::value::hash;

/// What identifies a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyIdentity {
    /// The hash of the policy as it is written.
    pub written: u64,
    /// The hash of what is applied, which is the policy with the limit of its mode.
    pub applied: u64,
}

impl PolicyIdentity {
    /// Returns the identity of a policy with this document, whose mode is limited.
    pub fn of(document: &Node, limit: Mode) -> Self {
        let canonical = document.to_canonical_json(|key| !key.starts_with("x-") && key != "onWrongPolicy");
        let written = hash::key(0, canonical.as_bytes());
        PolicyIdentity { written, applied: written }.limited_to(limit)
    }

    /// Returns the identity of the same policy with this limit of its mode.
    pub fn limited_to(self, limit: Mode) -> Self {
        let applied = match limit {
            Mode::Enforce => self.written,
            limit => hash::key(self.written, limit.name().as_bytes()),
        };
        PolicyIdentity { applied, ..self }
    }

    /// Returns the number that the proxy shows for a hash of what is applied. A gauge of Prometheus is exact up to 53 bits,
    /// and 32 are easier to compare by eye.
    pub fn number(applied: u64) -> u64 {
        applied & u64::from(u32::MAX)
    }
}
