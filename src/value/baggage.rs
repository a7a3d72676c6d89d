//! The members of a `baggage` header, as the W3C's recommendation [Baggage](https://www.w3.org/TR/baggage/) has them:
//! `key=value;property, key=value`.
//!
//! A member that is malformed is skipped when a value is read, and stays when another member is written. A header may
//! occur several times. Its lines, joined by commas, are one list.

use std::borrow::Cow;

/// The name of the header.
pub const HEADER: &str = "baggage";

/// The longest header that every receiver passes on, in bytes.
pub const MAX_BYTES: usize = 8_192;

/// The most members that every receiver passes on.
pub const MAX_MEMBERS: usize = 64;

/// Returns the value of the first well-formed member with this key, percent-decoded. A value may be empty, and need not be
/// UTF-8. What is beyond the limits is not read, because the next hops may not get it.
pub fn value<'b>(baggage: &'b [u8], key: &str) -> Option<Cow<'b, [u8]>> {
    let mut end = 0;
    let read = pieces(baggage).take(MAX_MEMBERS).take_while(|piece| {
        end += piece.len() + 1;
        end <= MAX_BYTES + 1
    });
    let mut values = read.filter(|piece| is_named(piece, key)).filter_map(raw_value);
    values.find(|value| value.iter().all(|byte| is_value_byte(*byte))).map(decode)
}

/// Returns the header without any member of these keys, byte for byte. Returns `None` if it has none.
pub fn without(baggage: &[u8], keys: &[String]) -> Option<Vec<u8>> {
    let is_kept = |piece: &&[u8]| !keys.iter().any(|key| is_named(piece, key));
    if keys.is_empty() || pieces(baggage).all(|piece| is_kept(&piece)) {
        return None;
    }
    let mut rest = Vec::with_capacity(baggage.len());
    for (index, piece) in pieces(baggage).filter(is_kept).enumerate() {
        if index > 0 {
            rest.push(b',');
        }
        rest.extend_from_slice(piece);
    }
    // Blanks after the comma that is gone would begin the header.
    Some(rest.trim_ascii().to_vec())
}

/// Why a header cannot carry a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCarried;

/// Returns the header with this member, which is the only one of its key. Every other member stays as it is, and where it
/// is. The value is one that needs no escape.
///
/// # Errors
///
/// Returns an error if the header would be beyond the limits, as receivers may then drop it as a whole. Also if it is not
/// UTF-8, because no regular expression of a route would match it.
pub fn with<'b>(baggage: &'b [u8], key: &str, value: &str) -> Result<Cow<'b, [u8]>, NotCarried> {
    core::str::from_utf8(baggage).map_err(|_| NotCarried)?;
    let mut new: Vec<u8> = Vec::with_capacity(baggage.len() + key.len() + value.len() + 2);
    let mut has_member = false;
    let mut count = 0;
    for piece in pieces(baggage) {
        let is_own = is_named(piece, key);
        if is_own && has_member {
            continue;
        }
        if count > 0 {
            new.push(b',');
        }
        count += 1;
        if is_own && raw_value(piece) != Some(value.as_bytes()) {
            new.extend_from_slice(key.as_bytes());
            new.push(b'=');
            new.extend_from_slice(value.as_bytes());
        } else {
            new.extend_from_slice(piece);
        }
        has_member |= is_own;
    }
    if !has_member {
        if new.iter().all(u8::is_ascii_whitespace) {
            new.clear();
            count = 0;
        } else {
            new.push(b',');
        }
        new.extend_from_slice(key.as_bytes());
        new.push(b'=');
        new.extend_from_slice(value.as_bytes());
        count += 1;
    }
    if new == baggage {
        return Ok(Cow::Borrowed(baggage));
    }
    let is_longer = new.len() > baggage.len();
    if is_longer && (new.len() > MAX_BYTES || count > MAX_MEMBERS) {
        return Err(NotCarried);
    }
    Ok(Cow::Owned(new))
}

/// Returns the parts between commas, of which a well-formed one is a member.
fn pieces(baggage: &[u8]) -> impl Iterator<Item = &[u8]> {
    baggage.split(|byte| *byte == b',')
}

fn is_named(piece: &[u8], key: &str) -> bool {
    let mut parts = piece.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default();
    parts.next().is_some() && name.trim_ascii() == key.as_bytes()
}

/// Returns the value of a member as it is written.
fn raw_value(piece: &[u8]) -> Option<&[u8]> {
    let value = piece.splitn(2, |byte| *byte == b'=').nth(1)?;
    value.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii)
}

/// Returns whether a value may have this byte.
fn is_value_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

/// Replaces each `%` with two hexadecimal digits by the byte that they mean. Any other `%` stays.
fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let digit =
        |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => decoded.push(*byte),
        }
    }
    Cow::Owned(decoded)
}

/// Returns the regular expression for headers that carry this member with this value, as routes have it. It must match the
/// whole header.
#[cfg(feature = "tool")]
pub fn pattern(key: &str, value: &str) -> String {
    let [key, value] = [key, value].map(regex_lite::escape);
    format!("(.*,)?[ \\t]*{key}[ \\t]*=[ \\t]*{value}[ \\t]*(;[^,]*)?(,.*)?")
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(baggage: &[u8], key: &str) -> Option<Vec<u8>> {
        value(baggage, key).map(Cow::into_owned)
    }

    fn written(baggage: &str, key: &str, value: &str) -> String {
        String::from_utf8(with(baggage.as_bytes(), key, value).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn a_value_is_found_by_its_whole_key_and_decoded() {
        let baggage =
            b"user-id=alice , lane = v2;secret;a=b,\tpath=%2Fa%20b%C3%A4,empty=,half=100%,plus=a+b, eq=a=b";
        for (key, expected) in [
            ("user-id", &b"alice"[..]),
            ("lane", b"v2"),
            ("path", "/a bä".as_bytes()),
            ("empty", b""),
            ("half", b"100%"),
            ("plus", b"a+b"),
            ("eq", b"a=b"),
        ] {
            assert_eq!(read(baggage, key).as_deref(), Some(expected), "{key}");
        }
        for key in ["LANE", "lan", "secret", "a", "ane", ""] {
            assert_eq!(read(baggage, key), None, "{key}");
        }
        assert_eq!(read(b"x=%ff%FE", "x"), Some(vec![0xff, 0xfe]));
        assert_eq!(read(b"", "x"), None);
    }

    #[test]
    fn the_first_well_formed_member_of_a_key_counts() {
        for (baggage, expected) in [
            (&b"lane=v1,lane=v2"[..], &b"v1"[..]),
            (b"lane,lane=v2", b"v2"),
            (b"lane;x=1,lane=v2", b"v2"),
            (b"lane=\"v1\",lane=v2", b"v2"),
            (b"lane=a b,lane=v2", b"v2"),
            (b"lane=\\,lane=v2", b"v2"),
            (b"lane=\xc3\xa4,lane=v2", b"v2"),
            (b"=,,;,==, ,\xff=\xff,lane=v2", b"v2"),
            (b"lane=v2;\xff", b"v2"),
        ] {
            assert_eq!(read(baggage, "lane").as_deref(), Some(expected), "{baggage:?}");
        }
    }

    #[test]
    fn what_is_beyond_the_limits_is_not_read() {
        let many = |count: usize| format!("{}lane=v2", "a=b,".repeat(count));
        assert!(read(many(MAX_MEMBERS - 1).as_bytes(), "lane").is_some());
        assert!(read(many(MAX_MEMBERS).as_bytes(), "lane").is_none());
        let long = |length: usize| format!("a={},lane=v2", "x".repeat(length - "a=,lane=v2".len()));
        assert_eq!(long(MAX_BYTES).len(), MAX_BYTES);
        assert!(read(long(MAX_BYTES).as_bytes(), "lane").is_some());
        assert!(read(long(MAX_BYTES + 1).as_bytes(), "lane").is_none());
    }

    #[test]
    fn a_member_replaces_those_of_its_key_and_all_others_stay_as_they_are() {
        for (before, after) in [
            ("", "lane=v2"),
            (" ", "lane=v2"),
            ("a=b", "a=b,lane=v2"),
            ("a=b; p=1 ,\tc=d", "a=b; p=1 ,\tc=d,lane=v2"),
            ("lane=v1", "lane=v2"),
            ("a=b,lane=v1;p=1,c=d", "a=b,lane=v2,c=d"),
            ("lane=v1, a=b, lane=v3, c=d", "lane=v2, a=b, c=d"),
            ("a=b, lane=%76%32", "a=b,lane=v2"),
            ("lane=\"x\",a=b", "lane=v2,a=b"),
            ("lane,a=b,,x", "lane,a=b,,x,lane=v2"),
            // What says the same already stays.
            ("a=b, lane = v2 ;p=1", "a=b, lane = v2 ;p=1"),
            ("lane=v2,lane=v2", "lane=v2"),
        ] {
            assert_eq!(written(before, "lane", "v2"), after, "{before}");
        }
        assert!(matches!(with(b"a=b,lane=v2;p", "lane", "v2"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_header_that_would_be_beyond_the_limits_is_not_written() {
        let is_written = |baggage: &str| with(baggage.as_bytes(), "lane", "v2").is_ok();
        let members = |count: usize| vec!["a=b"; count].join(",");
        assert!(is_written(&members(MAX_MEMBERS - 1)));
        assert!(!is_written(&members(MAX_MEMBERS)));
        assert!(is_written(&format!("lane=v1,{}", members(MAX_MEMBERS))), "no more members than before");
        let long = |length: usize| format!("a={}", "x".repeat(length - 2));
        assert!(is_written(&long(MAX_BYTES - ",lane=v2".len())));
        assert!(!is_written(&long(MAX_BYTES - ",lane=v2".len() + 1)));
        assert!(is_written(&format!("{},lane=v2", long(MAX_BYTES))), "it is there already");
        assert!(!is_written(&format!("{},lane=v", long(MAX_BYTES))), "longer than before");
        assert_eq!(with(b"a=\xff", "lane", "v2"), Err(NotCarried));
    }

    #[test]
    fn members_are_removed_wherever_they_are_and_however_malformed() {
        let keys = ["lane", "tier"].map(str::to_owned);
        for (before, after) in [
            (&b"lane=v2"[..], Some(&b""[..])),
            (b"a=b,lane=v2 , c=d,tier=\"\xff,lane=", Some(b"a=b, c=d")),
            (b"lane=1, a=\xff", Some(b"a=\xff")),
            (b"a=b,lanes=1,lane", None),
            (b"", None),
        ] {
            assert_eq!(without(before, &keys).as_deref(), after, "{before:?}");
        }
        assert_eq!(without(b"a=b", &[]), None);
        let far = format!("{}lane=v2", "a=b,".repeat(5_000));
        assert!(!without(far.as_bytes(), &keys).unwrap().ends_with(b"v2"), "beyond all limits, too");
    }
}
