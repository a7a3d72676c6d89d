//! Messages as one line of an input: `name: value` for each header, with a tab between them.

use std::borrow::Cow;

use graygate::value::request::{self, HeaderMap, Request};

/// A header's name, in lower case, and its value.
pub type Header = (String, Vec<u8>);

/// Reads the headers of a message. A name that no proxy lets pass is left out. Envoy has the `host` as `:authority`.
pub fn headers(line: &[u8]) -> Vec<Header> {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~!#$%&'*+^|`".contains(byte);
    let header = |text: &[u8]| {
        let start = usize::from(text.starts_with(b":"));
        let colon = start + text.get(start..)?.iter().position(|byte| *byte == b':')?;
        let name = core::str::from_utf8(&text[..colon]).ok()?.to_ascii_lowercase();
        let is_name = name.len() > start && name.as_bytes()[start..].iter().all(is_of_name) && name != "host";
        let value = text[colon + 1..].trim_ascii().iter().copied().filter(|byte| !b"\0\r".contains(byte));
        is_name.then(|| (name, value.collect()))
    };
    line.split(|byte| *byte == b'\t').filter_map(header).collect()
}

/// A request whose headers are read all at once or each by its name.
pub struct Sent<'h> {
    headers: &'h [Header],
    serialized: Option<Vec<u8>>,
}

impl<'h> Sent<'h> {
    pub fn by_name(headers: &'h [Header]) -> Self {
        Sent { headers, serialized: None }
    }

    pub fn at_once(headers: &'h [Header]) -> Self {
        let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        Sent { headers, serialized: Some(request::serialize(pairs)) }
    }
}

impl Request for Sent<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let name = if name == "host" { ":authority" } else { name };
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| Cow::Borrowed(value.as_slice()))
    }

    fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<&[u8]> = self
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
            .collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(&b',')))
    }

    fn all_headers(&self) -> Option<HeaderMap<'_>> {
        self.serialized.as_deref().map(HeaderMap)
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"127.0.0.1:50000"))
    }
}

/// Fails if a value could end a line of HTTP/1.1, and so begin a header of its own.
pub fn check_value(name: &str, value: &[u8]) {
    let breaks = |byte: &u8| b"\0\r\n".contains(byte);
    assert!(!value.iter().any(breaks), "{name}: {:?}", String::from_utf8_lossy(value));
}
