//! Faults for tests. This code is only in a module that is built with the feature `faults`.
//!
//! A request with `x-graygate-fault: here` ends the VM of its worker. A request with `x-graygate-fault: leader` ends a VM
//! that leads an upstream, on its next tick. Each VM logs each key that it reads from the store once.
#![allow(clippy::panic)]

use std::cell::RefCell;
use std::collections::HashSet;

use crate::proxy::{Level, Map, Proxy};
use crate::worker::store;

/// The key of the order to end a leader.
const KEY: &str = "graygate/fault";

thread_local! {
    static KEYS: RefCell<HashSet<String>> = RefCell::default();
}

/// Logs a key when this VM reads it for the first time.
pub fn note(host: &impl Proxy, key: &str) {
    if KEYS.with_borrow_mut(|keys| keys.insert(key.to_owned())) {
        host.log(Level::Info, &format!("key in the store: {key}"));
    }
}

/// Carries out or stores the order that a request may contain.
pub fn on_request(host: &impl Proxy) {
    match host.header(Map::RequestHeaders, "x-graygate-fault").as_deref() {
        Some(b"here") => end(host),
        Some(b"leader") => {
            store::update(host, KEY, |_: Option<bool>| ((), Some(true)));
        }
        _ => {}
    }
}

/// Ends this VM, which leads an upstream, if an order to do so is stored. Removes the order.
pub fn on_lead(host: &impl Proxy) {
    let ordered = store::update(host, KEY, |ordered: Option<bool>| {
        (ordered == Some(true), ordered.filter(|ordered| *ordered).map(|_| false))
    });
    if ordered == Some(true) {
        end(host);
    }
}

/// Ends this VM. The line is logged here, because the module is built without panic messages.
fn end(host: &impl Proxy) -> ! {
    host.log(Level::Error, "ended on request");
    panic!();
}
