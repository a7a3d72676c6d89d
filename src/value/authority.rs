//! The `:authority` of a request: its host, and perhaps a port.
//!
//! Envoy picks a virtual host without regard to case, and Istio also without regard to the port. Conditions
//! and keys do the same:
//!
//! - Case does not count, nor does a dot at the end of the host.
//! - A condition holds if it holds for the authority with its port or without. So the port counts only if the
//!   condition names one.

use std::borrow::Cow;

use super::string_match::StringMatch;

/// An authority in lower case, without a dot at the end of its host and without an empty port.
///
/// ```
/// use graygate::value::authority::Authority;
///
/// let authority = Authority::of(b"Reviews.example.com.:8443");
/// assert_eq!(authority.with_port(), b"reviews.example.com:8443");
/// assert_eq!(authority.host(), b"reviews.example.com");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'v> {
    /// The value itself if it has this form already, as most values do.
    text: Cow<'v, [u8]>,
    /// The length of the host in `text`.
    host: usize,
}

impl<'v> Authority<'v> {
    /// Returns the authority in this value of `:authority` or `Host`. Text that is no authority is a host.
    pub fn of(value: &'v [u8]) -> Self {
        let (host, port) = split_port(value);
        let host = host.strip_suffix(b".").unwrap_or(host);
        let size = if port.is_empty() { host.len() } else { host.len() + 1 + port.len() };
        if size == value.len() && !host.iter().any(u8::is_ascii_uppercase) {
            return Authority { text: Cow::Borrowed(value), host: host.len() };
        }
        let mut text = host.to_ascii_lowercase();
        if !port.is_empty() {
            text.push(b':');
            text.extend_from_slice(port);
        }
        Authority { text: Cow::Owned(text), host: host.len() }
    }

    /// Returns the host with the port, if there is one.
    pub fn with_port(&self) -> &[u8] {
        &self.text
    }

    /// Returns the host alone. The brackets of an IPv6 address are part of it.
    pub fn host(&self) -> &[u8] {
        self.text.get(..self.host).unwrap_or_default()
    }

    /// Returns whether the host is below a domain, with its port or without. `ending` is a dot and the domain. Every host is
    /// below an empty one.
    pub fn is_below(&self, ending: &str) -> bool {
        [self.with_port(), self.host()]
            .into_iter()
            .any(|host| ending.is_empty() || host.len() > ending.len() && host.ends_with(ending.as_bytes()))
    }

    /// Returns whether the condition holds, or `None` if the authority is too long for a pattern. The condition's text must
    /// be in lower case, and its pattern must ignore case.
    pub fn meets(&self, condition: &StringMatch) -> Option<bool> {
        match condition.evaluate(Some(self.with_port()), false) {
            Some(true) => Some(true),
            with_port => Some(condition.evaluate(Some(self.host()), false)? || with_port?),
        }
    }
}

/// Splits a value at the colon before its port. An IPv6 address without brackets has no port.
fn split_port(value: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = value.iter().rposition(|byte| *byte == b':') else {
        return (value, b"");
    };
    let (host, port) = value.split_at(colon);
    let port = port.strip_prefix(b":").unwrap_or(port);
    let is_bracketed = host.starts_with(b"[") && host.ends_with(b"]");
    let is_split = port.iter().all(u8::is_ascii_digit) && (is_bracketed || !host.contains(&b':'));
    if is_split { (host, port) } else { (value, b"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn an_authority_is_split_into_host_and_port() {
        for (value, with_port, host) in [
            ("Shop", "shop", "shop"),
            ("shop:80", "shop:80", "shop"),
            ("shop:", "shop", "shop"),
            ("SHOP.:80", "shop:80", "shop"),
            ("shop.", "shop", "shop"),
            ("shop:http", "shop:http", "shop:http"),
            ("[::1]:80", "[::1]:80", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]", "[2001:db8::1]"),
            ("::1", "::1", "::1"),
            ("[::1", "[::1", "[::1"),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1"),
            (":80", ":80", ""),
            ("", "", ""),
        ] {
            let authority = Authority::of(value.as_bytes());
            let found = (authority.with_port(), authority.host());
            assert_eq!(found, (with_port.as_bytes(), host.as_bytes()), "{value}");
        }
        assert_eq!(Authority::of(b"\xff\xc9:1").host(), b"\xff\xc9");
    }
}
