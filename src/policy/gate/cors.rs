//! `cors` of a gate: which pages of other origins may read its replies, in the terms of an Istio `CorsPolicy`.
//!
//! A filter that adds these headers to responses often stands behind the gate, and then sees no request that the gate
//! replies to. Without the headers, the browser hides the status and the body from the page. The keys of a `CorsPolicy`
//! about preflights are unknown here, as a gate does not answer these.

use crate::policy::matcher::Subject;
use crate::policy::reader::Value;
use crate::value::request::MAX_WORK;
use crate::value::string_match::StringMatch;

/// The pages that may read a gate's replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsPolicy {
    /// The origins of these pages. At least one.
    origins: Vec<StringMatch>,
    /// Whether one of them is `exact: "*"`, which means any origin.
    any_origin: bool,
    /// Whether they may read replies to requests with cookies.
    pub allow_credentials: bool,
    /// The headers of a reply that they may read, separated by commas. Empty means only those that any page may read.
    pub expose_headers: String,
}

impl CorsPolicy {
    /// Reads `cors`.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let origin = |value: &Value<'_>| {
            let fields = value.object()?;
            // No page has an empty origin.
            fields.read("exact", "", Value::text)?;
            StringMatch::read_fields(&fields, Subject::Method)
        };
        let origins = fields.read_list("allowOrigins", origin);
        let allow_credentials = fields.boolean("allowCredentials");
        let expose_headers = fields.read_list("exposeHeaders", Value::header_name);
        let any = StringMatch::Exact("*".to_owned());
        Some(CorsPolicy {
            any_origin: origins.as_ref()?.contains(&any),
            origins: origins?,
            allow_credentials: allow_credentials?,
            expose_headers: expose_headers?.join(","),
        })
    }

    /// Returns whether a page of this origin may read the replies.
    pub fn allows(&self, origin: &str) -> bool {
        // Clients choose the origin, so the work of regular expressions is bounded in all.
        let mut work: u32 = 0;
        self.any_origin
            || self.origins.iter().any(|allowed| {
                work = work.saturating_add(allowed.work(origin.len()));
                work <= MAX_WORK && allowed.holds(Some(origin.as_bytes()), false)
            })
    }
}
