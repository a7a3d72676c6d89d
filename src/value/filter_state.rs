//! The message by which Envoy is asked to set an object of filter state.

/// Returns the argument of Envoy's `set_envoy_filter_state`, a protobuf message: the object's name is field 1, its value
/// field 2. Field 3 is left out, so the object lives as long as the request's filter chain.
///
/// Returns `None` if one of them is 128 bytes or longer, as its length would not fit into a byte. The names of a policy
/// are shorter.
pub fn message(object: &str, value: &str) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(object.len() + value.len() + 4);
    for (tag, text) in [(0x0a, object), (0x12, value)] {
        let size = u8::try_from(text.len()).ok().filter(|size| *size < 128)?;
        message.extend([tag, size]);
        message.extend(text.as_bytes());
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_message_has_the_name_and_the_value_with_their_lengths() {
        assert_eq!(message("envoy.string", "v2").as_deref(), Some(&b"\x0a\x0cenvoy.string\x12\x02v2"[..]));
        assert_eq!(message("", "").as_deref(), Some(&b"\x0a\0\x12\0"[..]));
    }

    #[test]
    fn a_text_whose_length_does_not_fit_into_a_byte_is_refused() {
        assert!(message(&"o".repeat(127), "v").is_some());
        assert_eq!(message(&"o".repeat(128), "v"), None);
        assert_eq!(message("o", &"v".repeat(300)), None);
    }
}
