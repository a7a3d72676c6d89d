//! Ends VMs on request, for tests of what others do then, and tells what is stored. In no module but one that is built
//! for tests.
//!
//! A request with `x-graygate-fault: here` ends the VM of its worker; one with `x-graygate-fault: leader` ends the VM
//! that leads, whichever it is, on its next tick. Each key that a VM has to do with in the store is logged once.
#![allow(clippy::panic)]

use std::cell::RefCell;
use std::collections::HashSet;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::store;

/// Whether the leader is to end.
const KEY: &str = "graygate/fault";

thread_local! {
    static KEYS: RefCell<HashSet<String>> = RefCell::default();
}

/// Tells of a key, if it is new to this VM.
pub fn note(key: &str) {
    if KEYS.with(|keys| keys.borrow_mut().insert(key.to_owned())) {
        log::info!("key in the store: {key}");
    }
}

/// Takes the order that a request may bring.
pub fn on_request() {
    match hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, "x-graygate-fault") {
        Ok(Some(order)) if order == b"here" => end(),
        Ok(Some(order)) if order == b"leader" => {
            store::update(KEY, |_: Option<bool>| ((), Some(true)));
        }
        _ => {}
    }
}

/// Carries out the order, in a VM that leads.
pub fn on_lead() {
    let ordered = store::update(KEY, |ordered: Option<bool>| {
        (ordered == Some(true), ordered.filter(|ordered| *ordered).map(|_| false))
    });
    if ordered == Some(true) {
        end();
    }
}

/// Ends this VM. The panic alone has no words: the module is built without them.
fn end() -> ! {
    log::error!("ended on request");
    panic!();
}
