//! The cookie that a user gets who has no key: made, recognized, taken back.

use core::fmt::Write;

use crate::policy::release::key::{Cookie, Issue};
use crate::value::time::Time;

/// A key of the filter's own making: when it was issued, in seconds since the epoch as eight hexadecimal digits,
/// and 64 bits that no other has, as sixteen. All of it is the key.
///
/// Nobody has signed it: who makes one up gets the version of that key, as with any other key.
pub struct NewKey([u8; 25]);

impl NewKey {
    /// A key that is issued at this time.
    pub fn at(time: Time) -> Self {
        let seconds = u32::try_from(time.as_millis() / 1_000).unwrap_or(u32::MAX);
        let mut key = NewKey([b'-'; 25]);
        key.write(0, 8, seconds.into());
        key
    }

    /// The key with this id.
    pub fn with_id(&mut self, id: u64) -> &[u8] {
        self.write(9, 16, id);
        &self.0
    }

    /// The key as text.
    pub fn text(&self) -> String {
        self.0.iter().copied().map(char::from).collect()
    }

    /// Writes the last `digits` hexadecimal digits of a number. By hand, as many keys are tried for one.
    fn write(&mut self, from: usize, digits: usize, number: u64) {
        for (index, digit) in self.0.iter_mut().skip(from).take(digits).enumerate() {
            let nibble = (number >> (4 * (digits - 1 - index)) & 0xf) as u32;
            *digit = char::from_digit(nibble, 16).map_or(b'0', |digit| digit as u8);
        }
    }
}

/// When a key was issued, if it is of the filter's own making.
pub fn issued(key: &[u8]) -> Option<Time> {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (seconds, rest) = key.split_at_checked(8)?;
    let own = rest.len() == 17 && rest.first() == Some(&b'-') && hex(rest.get(1..)?) && hex(seconds);
    let seconds = u64::from_str_radix(core::str::from_utf8(seconds).ok()?, 16).ok()?;
    own.then(|| Time::from_millis(seconds * 1_000))
}

/// The `set-cookie` value that gives this key.
pub fn give(cookie: &Cookie, issue: &Issue, key: &str) -> String {
    let mut text = format!("{}={key}", cookie.name);
    if !issue.ttl.is_zero() {
        // A fraction of a second is none to a browser, and 0 would take the cookie back.
        attribute(&mut text, &format!("Max-Age={}", issue.ttl.as_secs().max(1)));
    }
    scope(&mut text, issue);
    text
}

/// The `set-cookie` value that takes the cookie back. A browser asks for the same scope.
pub fn take_back(cookie: &Cookie, issue: &Issue) -> String {
    let mut text = format!("{}=; Max-Age=0", cookie.name);
    scope(&mut text, issue);
    text
}

fn scope(text: &mut String, issue: &Issue) {
    attribute(text, &format!("Path={}", issue.path));
    if let Some(domain) = &issue.domain {
        attribute(text, &format!("Domain={domain}"));
    }
    for (name, set) in [("Secure", issue.secure), ("HttpOnly", issue.http_only)] {
        if set {
            attribute(text, name);
        }
    }
    if let Some(word) = issue.same_site {
        attribute(text, &format!("SameSite={word}"));
    }
    if issue.partitioned {
        attribute(text, "Partitioned");
    }
}

fn attribute(text: &mut String, attribute: &str) {
    // Writing to a string can't fail.
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
        same_site: None,
        partitioned: false,
    };

    fn cookie() -> Cookie {
        Cookie { name: "gray-id".to_owned(), issue: None }
    }

    #[test]
    fn a_key_tells_when_it_was_issued() {
        let mut key = NewKey::at(Time::from_millis(1_764_583_200_999));
        key.with_id(0x9f86);
        let text = key.text();
        assert_eq!(text, "692d6720-0000000000009f86");
        assert_eq!(issued(text.as_bytes()), Some(Time::from_millis(1_764_583_200_000)));
    }

    #[test]
    fn what_is_not_of_this_form_is_a_strangers() {
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
            assert_eq!(issued(text.as_bytes()), None, "{text}");
        }
        assert_eq!(issued(&[0xff; 25]), None);
    }

    #[test]
    fn all_attributes_are_there_that_are_asked_for() {
        let full = Issue {
            path: "/shop".to_owned(),
            domain: Some("example.com".to_owned()),
            secure: true,
            http_only: true,
            same_site: Some("None"),
            partitioned: true,
            ..PLAIN
        };
        let scope = "Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned";
        assert_eq!(give(&cookie(), &full, "k"), format!("gray-id=k; Max-Age=86400; {scope}"));
        assert_eq!(take_back(&cookie(), &full), format!("gray-id=; Max-Age=0; {scope}"));
    }

    #[test]
    fn a_ttl_of_0_is_the_browsers_session_and_less_than_a_second_is_one() {
        let lasting = |ttl| Issue { ttl, path: "/".to_owned(), ..PLAIN };
        assert_eq!(give(&cookie(), &lasting(Duration::ZERO), "k"), "gray-id=k; Path=/");
        assert_eq!(give(&cookie(), &lasting(Duration::from_millis(1)), "k"), "gray-id=k; Max-Age=1; Path=/");
    }
}
