//! Requests of pages from other origins (CORS, in the Fetch standard).
//!
//! A browser asks by a preflight whether a page may send a request. Then it hides the response from the page, unless the
//! response allows the page's origin.

use std::borrow::Cow;

use crate::policy::gate::cors::CorsPolicy;
use crate::value::request::{Headers, Request};

/// Returns whether the request is a preflight, by the same signs as Envoy's own filter for CORS.
pub fn is_preflight<R: Request>(request: &mut Headers<'_, R>) -> bool {
    let has_value = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
    request.get(":method") == Some(b"OPTIONS")
        && has_value(request.get("origin"))
        && has_value(request.get("access-control-request-method"))
}

/// Returns the origin of the page that sent the request. Returns `None` for an empty value, and for one that is not UTF-8 or
/// has control characters.
pub fn origin<R: Request>(request: &mut Headers<'_, R>) -> Option<String> {
    let origin = core::str::from_utf8(request.get("origin")?).ok()?;
    (!origin.is_empty() && !origin.contains(char::is_control)).then(|| origin.to_owned())
}

/// Returns the headers with which a browser shows a reply to a page of this origin. Returns none if `cors` does not allow
/// the origin.
pub fn headers(cors: &CorsPolicy, origin: Option<&str>) -> Vec<(&'static str, Cow<'static, str>)> {
    let Some(origin) = origin.filter(|origin| cors.allows(origin)) else {
        return Vec::new();
    };
    let mut headers = vec![("access-control-allow-origin", origin.to_owned().into())];
    if cors.allow_credentials {
        headers.push(("access-control-allow-credentials", "true".into()));
    }
    if !cors.expose_headers.is_empty() {
        headers.push(("access-control-expose-headers", cors.expose_headers.clone().into()));
    }
    headers
}
