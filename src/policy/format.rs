//! Which strings each format of the table of keys allows.

use super::keys::spec::{Format, MAX_HEADER_VALUE_BYTES, PROXY_HEADERS};

/// Returns whether a string has this format. Those that are parsed into another type are judged by that: hosts, networks,
/// expressions and dates.
pub fn accepts(format: Format, text: &str) -> bool {
    match format {
        Format::Any => true,
        Format::NotEmpty
        | Format::KeyHeader
        | Format::HostPattern
        | Format::Network
        | Format::Regex
        | Format::Date => !text.is_empty(),
        Format::DnsLabel => is_label(text) && text.bytes().all(is_dns),
        Format::Label => is_label(text),
        Format::HeaderName | Format::CookieName | Format::MemberKey => is_token(text),
        Format::WrittenHeader => is_token(text) && !is_proxys(text),
        Format::CheckHeader => is_token(text) && (text == "host" || !is_proxys(text)),
        Format::Cluster => !text.is_empty() && is_header_value(text),
        Format::HeaderValue => is_header_value(text),
        Format::Path => {
            let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
            text.starts_with('/') && text.bytes().all(is_allowed)
        }
        Format::ProbePath => text.bytes().all(|byte| byte.is_ascii_graphic()),
        Format::Host => {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte))
        }
        Format::Domain => {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_allowed);
            text.len() <= 253 && text.split('.').all(is_part)
        }
        Format::ErrorStatus => text.len() == 3 && matches!(text.parse(), Ok(400..=599_u16)),
    }
}

/// Returns whether a name is a label. Names go into logs, metrics, replies and header values, so the rule is that of a Kubernetes label value.
pub fn is_label(text: &str) -> bool {
    let is_valid_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && is_valid_end(text.bytes().next())
        && is_valid_end(text.bytes().last())
}

fn is_dns(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// A line break would end the header.
fn is_header_value(text: &str) -> bool {
    text.len() <= MAX_HEADER_VALUE_BYTES && !text.chars().any(char::is_control)
}

fn is_proxys(name: &str) -> bool {
    PROXY_HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn labels_follow_the_rule_of_kubernetes_label_values() {
        for text in ["v1", "v1.2_rc-3", "A"] {
            assert!(accepts(Format::Label, text), "{text}");
        }
        for text in ["", "-v1", "v1-", "v 1", "v1|", "é", &"a".repeat(64)] {
            assert!(!accepts(Format::Label, text), "{text}");
        }
    }
}
