//! The cookie that is issued to a user without a key.

use core::fmt::Write;

use crate::policy::release::key::{Cookie, Issue};
use crate::value::date::Date;

/// A key that the filter issues.
///
/// It is the date of issue in seconds since the epoch, as eight hexadecimal digits, and an id of 64 bits, as
/// sixteen. A hyphen separates them. The whole text is the key.
///
/// It is not signed. A client that invents one gets the version of that key, as with any other key.
pub struct NewKey([u8; 25]);

impl NewKey {
    /// Returns a key that is issued on this date.
    pub fn at(date: Date) -> Self {
        let seconds = u32::try_from(date.as_millis() / 1_000).unwrap_or(u32::MAX);
        let mut key = NewKey([b'-'; 25]);
        key.write(0, 8, seconds.into());
        key
    }

    /// Sets the id and returns the key.
    pub fn with_id(&mut self, id: u64) -> &[u8] {
        self.write(9, 16, id);
        &self.0
    }

    /// Returns the key as text.
    pub fn text(&self) -> String {
        self.0.iter().copied().map(char::from).collect()
    }

    /// Writes the last `digits` hexadecimal digits of a number. It is written by hand for speed, because many
    /// keys may be tried for one.
    fn write(&mut self, from: usize, digits: usize, number: u64) {
        for (index, digit) in self.0.iter_mut().skip(from).take(digits).enumerate() {
            let nibble = (number >> (4 * (digits - 1 - index)) & 0xf) as u32;
            *digit = char::from_digit(nibble, 16).map_or(b'0', |digit| digit as u8);
        }
    }
}

/// Returns when a key was issued, or `None` if the filter did not issue it.
pub fn issued_at(key: &[u8]) -> Option<Date> {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (seconds, rest) = key.split_at_checked(8)?;
    let id = rest.strip_prefix(b"-")?;
    if id.len() != 16 || !is_hex(id) || !is_hex(seconds) {
        return None;
    }
    let seconds = u64::from_str_radix(core::str::from_utf8(seconds).ok()?, 16).ok()?;
    Some(Date::from_millis(seconds * 1_000))
}

/// Returns the `set-cookie` value that issues this key.
pub fn issue(cookie: &Cookie, issue: &Issue, key: &str) -> String {
    let mut text = format!("{}={key}", cookie.name);
    if !issue.ttl.is_zero() {
        // Browsers read whole seconds, and 0 would take the cookie back.
        add_attribute(&mut text, &format!("Max-Age={}", issue.ttl.as_secs().max(1)));
    }
    add_scope(&mut text, issue);
    text
}

/// Returns the `set-cookie` value that takes the cookie back. A browser requires the same scope.
pub fn take_back(cookie: &Cookie, issue: &Issue) -> String {
    let mut text = format!("{}=; Max-Age=0", cookie.name);
    add_scope(&mut text, issue);
    text
}

fn add_scope(text: &mut String, issue: &Issue) {
    add_attribute(text, &format!("Path={}", issue.path));
    if let Some(domain) = &issue.domain {
        add_attribute(text, &format!("Domain={domain}"));
    }
    if issue.secure {
        add_attribute(text, "Secure");
    }
    if issue.http_only {
        add_attribute(text, "HttpOnly");
    }
    add_attribute(text, &format!("SameSite={}", issue.same_site));
    if issue.partitioned {
        add_attribute(text, "Partitioned");
    }
}

fn add_attribute(text: &mut String, attribute: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "; {attribute}");
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const PLAIN: Issue = Issue {
        ttl: Duration::from_secs(86_400),
        path: String::new(),
        domain: None,
        secure: false,
        http_only: false,
        same_site: "Lax",
        partitioned: false,
    };

    fn cookie() -> Cookie {
        Cookie { name: "gray-id".to_owned(), issue: None }
    }

    #[test]
    fn a_key_states_when_it_was_issued() {
        let mut key = NewKey::at(Date::from_millis(1_764_583_200_999));
        key.with_id(0x9f86);
        let text = key.text();
        assert_eq!(text, "692d6720-0000000000009f86");
        assert_eq!(issued_at(text.as_bytes()), Some(Date::from_millis(1_764_583_200_000)));
    }

    #[test]
    fn a_key_of_any_other_form_was_not_issued() {
        for text in [
            "",
            "alice",
            "692d6720-0000000000009F86",
            "692d6720-0000000000009f8",
            "692d6720-0000000000009f861",
            "692d6720_0000000000009f86",
            "+92d6720-0000000000009f86",
            "é92d6720-000000000009f86",
        ] {
            assert_eq!(issued_at(text.as_bytes()), None, "{text}");
        }
        assert_eq!(issued_at(&[0xff; 25]), None);
    }

    #[test]
    fn every_configured_attribute_is_set() {
        let full = Issue {
            path: "/shop".to_owned(),
            domain: Some("example.com".to_owned()),
            secure: true,
            http_only: true,
            same_site: "None",
            partitioned: true,
            ..PLAIN
        };
        let scope = "Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned";
        assert_eq!(issue(&cookie(), &full, "k"), format!("gray-id=k; Max-Age=86400; {scope}"));
        assert_eq!(take_back(&cookie(), &full), format!("gray-id=; Max-Age=0; {scope}"));
    }

    #[test]
    fn a_ttl_of_0_lasts_as_long_as_the_browser_and_less_than_a_second_becomes_one() {
        let lasting = |ttl| Issue { ttl, path: "/".to_owned(), ..PLAIN };
        assert_eq!(issue(&cookie(), &lasting(Duration::ZERO), "k"), "gray-id=k; Path=/; SameSite=Lax");
        assert_eq!(
            issue(&cookie(), &lasting(Duration::from_millis(1)), "k"),
            "gray-id=k; Max-Age=1; Path=/; SameSite=Lax"
        );
    }
}
