//! What a `content-type` says.

/// Returns whether the type is `application/grpc`, with or without a message format.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let suffix = content_type.strip_prefix(b"application/grpc");
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b"+") || suffix.starts_with(b";"))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn grpc_is_recognized_by_its_content_type() {
        for yes in [&b"application/grpc"[..], b"application/grpc+proto", b"application/grpc;x=1"] {
            assert!(is_grpc(yes));
        }
        for no in [&b"application/grpc-web"[..], b"application/json", b"", b"text/plain; charset=utf-8"] {
            assert!(!is_grpc(no));
        }
    }
}
