//! Lists of hosts, such as `hosts` of a match.

use super::reader::Value;
use crate::value::host::Hosts;

/// The most hosts in one list.
const MAX_HOSTS: usize = 1_000;

/// Reads a list of hosts, for the proxy that the document is read for.
pub fn read(value: &Value<'_>) -> Option<Hosts> {
    let items = value.list()?;
    if items.is_empty() {
        return value.problem("an empty list; allowed: at least one host, or \"*\" for every host");
    }
    value.limit_entries("hosts", MAX_HOSTS)?;
    let mut hosts = Hosts::default();
    for item in &items {
        if let Some(Err(allowed)) = item.text().map(|text| hosts.add(text, value.proxy())) {
            item.refuse::<()>(allowed);
        }
    }
    Some(hosts)
}
