//! Checks by `grpc.health.v1.Health/Check`. Writes their messages and judges their responses.
//!
//! A check is an HTTP call, because the proxy's own gRPC calls refuse a compressed response. Some servers compress what
//! nobody asked them to.
//!
//! The messages have one or two fields, so this module reads and writes them itself. A protobuf library would
//! add more to the module than all checks take.

use std::borrow::Cow;

use super::failure::CheckFailure;
use crate::value::{content_type, gzip};

/// The path of a check.
pub const PATH: &str = "/grpc.health.v1.Health/Check";
/// The gRPC method of a check, at the end of its path.
pub const METHOD: &str = "Check";

/// The most bytes of a response's body that are read. A response has one message, mostly of a few bytes.
pub const MAX_BODY: usize = 65_536;

/// `ServingStatus::SERVING`.
pub const SERVING: u8 = 1;
/// `ServingStatus::NOT_SERVING`.
pub const NOT_SERVING: u8 = 2;

const DEADLINE_EXCEEDED: u32 = 4;

/// Returns the body of a request for a service: one `HealthCheckRequest`, after its length.
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
    let length = u32::try_from(message.len()).unwrap_or_default();
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.extend(message);
    body
}

/// A response to a check.
#[derive(Clone, Copy, Debug)]
pub struct GrpcResponse<'a> {
    /// The HTTP status, or `None` if the response broke off.
    pub status: Option<u16>,
    /// Whether the upstream sent it.
    pub from_upstream: bool,
    /// The `grpc-status` of the trailers, or of the headers if there are no trailers.
    pub grpc_status: Option<u32>,
    /// The `grpc-message` of the headers.
    pub grpc_message: &'a [u8],
    /// The `content-type`.
    pub content_type: &'a [u8],
    /// The `grpc-encoding`.
    pub encoding: &'a [u8],
    /// The first bytes of the body.
    pub body: &'a [u8],
}

/// Judges the response to a check.
pub fn judge(response: &GrpcResponse<'_>) -> Result<(), CheckFailure> {
    let status = response.status.ok_or(CheckFailure::Broken)?;
    if !response.from_upstream {
        // The proxy has one grpc-status for both, and its words differ.
        let timed_out = status == 504 || response.grpc_message.starts_with(b"upstream request timeout");
        return Err(if timed_out { CheckFailure::TimedOut } else { CheckFailure::Unreachable });
    }
    if status != 200 {
        return Err(CheckFailure::Status(status));
    }
    match response.grpc_status {
        // A server of something else may send a status as well.
        Some(0) if !content_type::is_grpc(response.content_type) => Err(CheckFailure::Broken),
        Some(0) => {
            let is_gzip = response.encoding == b"gzip";
            let message = message(response.body, is_gzip, MAX_BODY).ok_or(CheckFailure::Broken)?;
            match serving_status(&message) {
                Some(status) if status == u64::from(SERVING) => Ok(()),
                Some(status) => Err(CheckFailure::NotServing(u32::try_from(status).unwrap_or(u32::MAX))),
                None => Err(CheckFailure::Broken),
            }
        }
        Some(DEADLINE_EXCEEDED) => Err(CheckFailure::TimedOut),
        Some(status) => Err(CheckFailure::GrpcStatus(status)),
        None => Err(CheckFailure::Broken),
    }
}

/// Returns the message of a body, or `None` if the body is not one whole frame that can be read. A frame is a compression flag,
/// the message's length in four bytes, and the message. `gzip` is whether a compressed message is compressed by gzip. A
/// decompressed message has at most `limit` bytes.
pub fn message(body: &[u8], gzip: bool, limit: usize) -> Option<Cow<'_, [u8]>> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    match compressed {
        _ if length != message.len() => None,
        0 => Some(message.into()),
        1 if gzip => gzip::decompress(message, limit).map(Cow::Owned),
        _ => None,
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
    fn a_request_names_its_service_or_is_empty() {
        assert_eq!(request(""), b"\0\0\0\0\0");
        assert_eq!(request("shop"), b"\0\0\0\0\x06\n\x04shop");
        let long = request(&"s".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(requested_service(&long[5..]), Some("s".repeat(300).as_bytes()));
    }

    const SERVED: GrpcResponse<'_> = GrpcResponse {
        status: Some(200),
        from_upstream: true,
        grpc_status: Some(0),
        grpc_message: b"",
        content_type: b"application/grpc",
        encoding: b"",
        body: b"\0\0\0\0\x02\x08\x01",
    };

    fn judged(body: &[u8], encoding: &[u8]) -> Result<(), CheckFailure> {
        judge(&GrpcResponse { body, encoding, ..SERVED })
    }

    #[test]
    fn only_serving_passes() {
        assert_eq!(judge(&SERVED), Ok(()));
        assert_eq!(judged(b"\0\0\0\0\x02\x08\x02", b""), Err(CheckFailure::NotServing(2)));
        assert_eq!(judged(b"\0\0\0\0\x02\x08\x03", b"gzip"), Err(CheckFailure::NotServing(3)));
        assert_eq!(judged(b"\0\0\0\0\0", b""), Err(CheckFailure::NotServing(0)));
        let page = GrpcResponse { content_type: b"text/html", ..SERVED };
        assert_eq!(judge(&page), Err(CheckFailure::Broken));
    }

    #[test]
    fn a_compressed_message_is_read() {
        let gzip = b"\x01\0\0\0\x16\x1f\x8b\x08\0\0\0\0\0\x02\x03\xe3\x60\x04\0\x61\xa8\x07\xfe\x02\0\0\0";
        assert_eq!(judged(gzip, b"gzip"), Ok(()));
        for encoding in [&b""[..], b"identity", b"deflate"] {
            assert_eq!(judged(gzip, encoding), Err(CheckFailure::Broken));
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let message = b"\x12\x02ab\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x08\x01";
        assert_eq!(serving_status(message), Some(1));
        assert_eq!(requested_service(b"\x10\x07\x0a\x01a"), Some(&b"a"[..]));
    }

    #[test]
    fn a_truncated_message_is_malformed() {
        for message in
            [&b"\x08"[..], b"\x0a\x05ab", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x0b", b"\x09\0"]
        {
            assert_eq!(serving_status(message), None, "{message:?}");
            assert_eq!(requested_service(message), None, "{message:?}");
        }
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x02\x08",
            b"\x02\0\0\0\0",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(judged(body, b"gzip"), Err(CheckFailure::Broken), "{body:?}");
        }
    }

    #[test]
    fn a_failed_call_has_the_failure_of_its_status() {
        let of_proxy = |status, grpc_message| {
            let response = GrpcResponse { from_upstream: false, grpc_status: Some(14), ..SERVED };
            judge(&GrpcResponse { status: Some(status), grpc_message, ..response })
        };
        assert_eq!(of_proxy(200, b"upstream request timeout"), Err(CheckFailure::TimedOut));
        assert_eq!(of_proxy(200, b"upstream connect error or disconnect"), Err(CheckFailure::Unreachable));
        assert_eq!(of_proxy(504, b""), Err(CheckFailure::TimedOut));
        assert_eq!(of_proxy(503, b""), Err(CheckFailure::Unreachable));
        let of_app = |status, grpc_status| judge(&GrpcResponse { status, grpc_status, ..SERVED });
        assert_eq!(of_app(Some(200), Some(4)), Err(CheckFailure::TimedOut));
        assert_eq!(of_app(Some(200), Some(5)), Err(CheckFailure::GrpcStatus(5)));
        assert_eq!(of_app(Some(404), None), Err(CheckFailure::Status(404)));
        assert_eq!(of_app(Some(200), None), Err(CheckFailure::Broken));
        assert_eq!(of_app(None, None), Err(CheckFailure::Broken));
    }
}
