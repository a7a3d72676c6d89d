//! Lists of hosts, such as `hosts` of a match.

use super::reader::Value;
use crate::value::host::Hosts;

/// Reads a list of hosts, for the proxy that the document is read for.
pub fn read(value: &Value<'_>) -> Option<Hosts> {
    let items = value.list()?;
    let mut hosts = Hosts::default();
    for item in &items {
        if let Some(Err(allowed)) = item.text().map(|text| hosts.add(text, value.proxy())) {
            item.refuse_as::<()>(&allowed);
        }
    }
    Some(hosts)
}
