//! Checks by `grpc.health.v1.Health/Check`: their messages, and what an answer says.
//!
//! The messages have a field or two each, so they are written and read here rather than by a protobuf
//! library, which would cost the module more than all of the checks do.

use super::failure::CheckFailure;

/// The service that is asked.
pub const SERVICE: &str = "grpc.health.v1.Health";
/// The method that it is asked by.
pub const METHOD: &str = "Check";

/// `ServingStatus::SERVING`.
pub const SERVING: u8 = 1;
/// `ServingStatus::NOT_SERVING`.
pub const NOT_SERVING: u8 = 2;

/// The grpc-status for no answer in time.
const DEADLINE_EXCEEDED: u32 = 4;
/// The grpc-status for no connection; Envoy's also for no answer in time.
const UNAVAILABLE: u32 = 14;

/// Envoy's `GrpcService` that names a cluster, and the `:authority` to ask it for.
///
/// The proxy takes a bare cluster name as well, but tries it as this message first: a name whose bytes
/// happen to parse as one ends the whole proxy. The message is written as text, so no length in it may be
/// above 127; see the policy's limit on the cluster's name.
pub fn service(cluster: &str, authority: &str) -> Option<String> {
    // envoy_grpc (1) twice, which a reader joins: once for cluster_name (1), once for authority (2).
    let mut message = Vec::new();
    for (field, text) in [(0x0a, cluster), (0x12, authority)] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length <= 125)?;
        message.extend([0x0a, length + 2, field, length]);
        message.extend(text.as_bytes());
    }
    String::from_utf8(message).ok()
}

/// The `HealthCheckRequest` for a service.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // A field that has its default value, the empty string, is left out.
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend(service.as_bytes());
    }
    message
}

/// What the end of a call says: its grpc-status with the proxy's words on it, or its message.
pub fn judge(status: u32, words: &str, message: &[u8]) -> Result<(), CheckFailure> {
    match status {
        0 => match serving_status(message) {
            Some(status) if status == u64::from(SERVING) => Ok(()),
            Some(status) => Err(CheckFailure::NotServing(u32::try_from(status).unwrap_or(u32::MAX))),
            None => Err(CheckFailure::Broken),
        },
        DEADLINE_EXCEEDED => Err(CheckFailure::TimedOut),
        UNAVAILABLE if words.starts_with("upstream request timeout") => Err(CheckFailure::TimedOut),
        UNAVAILABLE if words.starts_with("upstream connect error") => Err(CheckFailure::Unreachable),
        status => Err(CheckFailure::GrpcStatus(status)),
    }
}

/// `status` (1) of a `HealthCheckResponse`; 0 where it has its default. Nothing where it is no such message.
fn serving_status(message: &[u8]) -> Option<u64> {
    let mut fields = MessageFields(message);
    let mut status = 0;
    while !fields.0.is_empty() {
        if let (1, Field::Number(number)) = fields.next()? {
            status = number;
        }
    }
    Some(status)
}

/// `service` (1) of a `HealthCheckRequest`; empty where it has its default. Nothing where it is no such
/// message.
pub fn requested_service(message: &[u8]) -> Option<&[u8]> {
    let mut fields = MessageFields(message);
    let mut service: &[u8] = b"";
    while !fields.0.is_empty() {
        if let (1, Field::Bytes(bytes)) = fields.next()? {
            service = bytes;
        }
    }
    Some(service)
}

/// The fields of a protobuf message, one after the other.
struct MessageFields<'m>(&'m [u8]);

/// The value of a field, by its wire type.
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

impl<'m> MessageFields<'m> {
    /// The number and value of the next field; nothing where the message ends in the middle of one.
    fn next(&mut self) -> Option<(u64, Field<'m>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Field::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for index in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'m [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_cluster_is_named_by_a_message_even_where_its_name_would_parse_as_one() {
        assert_eq!(service("users", "app").as_deref(), Some("\n\x07\n\x05users\n\x05\x12\x03app"));
        assert!(service(&"c".repeat(125), "app:50051").is_some());
        assert_eq!(service(&"c".repeat(126), "app"), None);
    }

    #[test]
    fn a_request_names_its_service_and_no_name_is_no_bytes() {
        assert_eq!(request(""), b"");
        assert_eq!(request("shop"), b"\n\x04shop");
        let long = request(&"s".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(requested_service(&long), Some("s".repeat(300).as_bytes()));
    }

    #[test]
    fn serving_alone_passes() {
        assert_eq!(judge(0, "", &[8, 1]), Ok(()));
        assert_eq!(judge(0, "", &[8, 2]), Err(CheckFailure::NotServing(2)));
        assert_eq!(judge(0, "", &[8, 3]), Err(CheckFailure::NotServing(3)));
        assert_eq!(judge(0, "", &[]), Err(CheckFailure::NotServing(0)));
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over() {
        assert_eq!(judge(0, "", b"\x12\x02ab\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x08\x01"), Ok(()));
        assert_eq!(requested_service(b"\x10\x07\x0a\x01a"), Some(&b"a"[..]));
    }

    #[test]
    fn a_message_that_breaks_off_is_none() {
        for message in
            [&b"\x08"[..], b"\x0a\x05ab", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x0b", b"\x09\0"]
        {
            assert_eq!(judge(0, "", message), Err(CheckFailure::Broken), "{message:?}");
            assert_eq!(requested_service(message), None, "{message:?}");
        }
    }

    #[test]
    fn a_failed_call_says_how() {
        let timeout = "upstream request timeout{response_timeout}";
        let refused = "upstream connect error or disconnect/reset before headers. reset reason: x";
        assert_eq!(judge(14, timeout, b""), Err(CheckFailure::TimedOut));
        assert_eq!(judge(4, "", b""), Err(CheckFailure::TimedOut));
        assert_eq!(judge(14, refused, b""), Err(CheckFailure::Unreachable));
        assert_eq!(judge(5, "unknown service", b""), Err(CheckFailure::GrpcStatus(5)));
        assert_eq!(judge(14, "db connection timeout", b""), Err(CheckFailure::GrpcStatus(14)));
    }
}
