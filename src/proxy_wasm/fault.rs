//! Ends VMs on request, for tests of what others do then, and tells what is stored. In no module but one that is built
//! for tests.
//!
//! A request with `x-graygate-fault: here` ends the VM of its worker. One with `x-graygate-fault: leader` ends the VM that
//! leads, whichever it is, on its next tick. Each key that a VM reads from the store is logged once.
#![allow(clippy::panic)]

use std::cell::RefCell;
use std::collections::HashSet;

use crate::proxy::{Level, Map, Proxy};
use crate::worker::store;

/// Whether the leader is to end.
const KEY: &str = "graygate/fault";

thread_local! {
    static KEYS: RefCell<HashSet<String>> = RefCell::default();
}

/// Logs a key that is new to this VM.
pub fn note(host: &impl Proxy, key: &str) {
    if KEYS.with_borrow_mut(|keys| keys.insert(key.to_owned())) {
        host.log(Level::Info, &format!("key in the store: {key}"));
    }
}

/// Takes the order that a request may bring.
pub fn on_request(host: &impl Proxy) {
    match host.header(Map::RequestHeaders, "x-graygate-fault").as_deref() {
        Some(b"here") => end(host),
        Some(b"leader") => {
            store::update(host, KEY, |_: Option<bool>| ((), Some(true)));
        }
        _ => {}
    }
}

/// Carries out the order, in a VM that leads.
pub fn on_lead(host: &impl Proxy) {
    let ordered = store::update(host, KEY, |ordered: Option<bool>| {
        (ordered == Some(true), ordered.filter(|ordered| *ordered).map(|_| false))
    });
    if ordered == Some(true) {
        end(host);
    }
}

/// Ends this VM. The panic alone has no message: the module is built without them.
fn end(host: &impl Proxy) -> ! {
    host.log(Level::Error, "ended on request");
    panic!();
}
