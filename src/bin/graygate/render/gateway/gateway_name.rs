//! The value of `--gateway`.

use super::super::options;

/// The name of a Gateway, with its namespace if it is given.
pub type GatewayName = (Option<String>, String);

/// Parses the value of `--gateway`.
pub fn parse_gateway(text: &str) -> Result<GatewayName, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(options::parse_short_name(namespace)?), name),
        None => (None, text),
    };
    Ok((namespace, options::parse_name(name)?))
}
