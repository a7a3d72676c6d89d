//! Checks by `grpc.health.v1.Health/Check`. Writes their messages and judges their results.
//!
//! The messages have one or two fields, so this module reads and writes them itself. A protobuf library would
//! add more to the module than all checks take.

use super::failure::CheckFailure;

/// The gRPC service of a check.
pub const SERVICE: &str = "grpc.health.v1.Health";
/// The gRPC method of a check.
pub const METHOD: &str = "Check";

/// `ServingStatus::SERVING`.
pub const SERVING: u8 = 1;
/// `ServingStatus::NOT_SERVING`.
pub const NOT_SERVING: u8 = 2;

const DEADLINE_EXCEEDED: u32 = 4;
/// Envoy's grpc-status without a connection, and also without a response in time.
const UNAVAILABLE: u32 = 14;

/// Returns Envoy's `GrpcService` message that names a cluster and the `:authority` to request.
///
/// The proxy also takes a bare cluster name, but first tries to parse it as this message. A bare name whose
/// bytes parse as a message would end the whole proxy. Each length is one byte, so none may be above 127.
/// Returns `None` if a name is longer than 125 bytes. The policy limits the cluster's name accordingly.
pub fn service(cluster: &str, authority: &str) -> Option<Vec<u8>> {
    // envoy_grpc (1) stands twice, which a reader joins: once for cluster_name (1), once for authority (2).
    let mut message = Vec::new();
    for (field, text) in [(0x0a, cluster), (0x12, authority)] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length <= 125)?;
        message.extend([0x0a, length + 2, field, length]);
        message.extend(text.as_bytes());
    }
    Some(message)
}

/// Returns the `HealthCheckRequest` for a service.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // Protobuf leaves out a field with its default value, here the empty string.
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

/// Judges the end of a call by its grpc-status, the proxy's grpc-message and the response message.
pub fn judge(status: u32, grpc_message: &str, message: &[u8]) -> Result<(), CheckFailure> {
    match status {
        0 => match serving_status(message) {
            Some(status) if status == u64::from(SERVING) => Ok(()),
            Some(status) => Err(CheckFailure::NotServing(u32::try_from(status).unwrap_or(u32::MAX))),
            None => Err(CheckFailure::Broken),
        },
        DEADLINE_EXCEEDED => Err(CheckFailure::TimedOut),
        UNAVAILABLE if grpc_message.starts_with("upstream request timeout") => Err(CheckFailure::TimedOut),
        UNAVAILABLE if grpc_message.starts_with("upstream connect error") => Err(CheckFailure::Unreachable),
        status => Err(CheckFailure::GrpcStatus(status)),
    }
}

/// Returns `status` (1) of a `HealthCheckResponse`, which defaults to 0, or `None` if the message is
/// malformed.
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

/// Returns `service` (1) of a `HealthCheckRequest`, which defaults to empty, or `None` if the message is
/// malformed.
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

/// Reads the fields of a protobuf message one after another.
struct MessageFields<'m>(&'m [u8]);

/// The value of a field, by its wire type.
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

impl<'m> MessageFields<'m> {
    /// Returns the number and value of the next field, or `None` if the message ends within it.
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
    fn a_cluster_is_named_by_a_message() {
        assert_eq!(service("users", "app").as_deref(), Some(&b"\n\x07\n\x05users\n\x05\x12\x03app"[..]));
        assert!(service(&"c".repeat(125), "app:50051").is_some());
        assert_eq!(service(&"c".repeat(126), "app"), None);
    }

    #[test]
    fn a_request_names_its_service_or_is_empty() {
        assert_eq!(request(""), b"");
        assert_eq!(request("shop"), b"\n\x04shop");
        let long = request(&"s".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(requested_service(&long), Some("s".repeat(300).as_bytes()));
    }

    #[test]
    fn only_serving_passes() {
        assert_eq!(judge(0, "", &[8, 1]), Ok(()));
        assert_eq!(judge(0, "", &[8, 2]), Err(CheckFailure::NotServing(2)));
        assert_eq!(judge(0, "", &[8, 3]), Err(CheckFailure::NotServing(3)));
        assert_eq!(judge(0, "", &[]), Err(CheckFailure::NotServing(0)));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        assert_eq!(judge(0, "", b"\x12\x02ab\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x08\x01"), Ok(()));
        assert_eq!(requested_service(b"\x10\x07\x0a\x01a"), Some(&b"a"[..]));
    }

    #[test]
    fn a_truncated_message_is_malformed() {
        for message in
            [&b"\x08"[..], b"\x0a\x05ab", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x0b", b"\x09\0"]
        {
            assert_eq!(judge(0, "", message), Err(CheckFailure::Broken), "{message:?}");
            assert_eq!(requested_service(message), None, "{message:?}");
        }
    }

    #[test]
    fn a_failed_call_has_the_failure_of_its_status() {
        let timeout = "upstream request timeout{response_timeout}";
        let refused = "upstream connect error or disconnect/reset before headers. reset reason: x";
        assert_eq!(judge(14, timeout, b""), Err(CheckFailure::TimedOut));
        assert_eq!(judge(4, "", b""), Err(CheckFailure::TimedOut));
        assert_eq!(judge(14, refused, b""), Err(CheckFailure::Unreachable));
        assert_eq!(judge(5, "unknown service", b""), Err(CheckFailure::GrpcStatus(5)));
        assert_eq!(judge(14, "db connection timeout", b""), Err(CheckFailure::GrpcStatus(14)));
    }
}
