//! What one VM holds: its roots, and the requests that it still has something to do for.
//!
//! The SDK's dispatcher makes an object for each request and looks it up in each callback, whether there is anything to
//! do or not. Here most requests leave nothing behind: what their policy decides is done in their first callback.

use std::cell::{Cell, RefCell};

use proxy_wasm::types::Action;

use super::root::Root;
use super::stream::Stream;
use super::table::Table;

/// All contexts of a VM.
pub struct Vm {
    roots: RefCell<Vec<Root>>,
    /// Those that need a later callback, by the ids of their contexts.
    streams: RefCell<Table<Box<Stream>>>,
    /// The request that was made known last, and its root. The proxy makes each known right before its headers.
    latest: Cell<(u32, u32)>,
}

impl Vm {
    /// With no context yet.
    pub const fn new() -> Self {
        Vm { roots: RefCell::new(Vec::new()), streams: RefCell::new(Table::new()), latest: Cell::new((0, 0)) }
    }

    /// A context begins: a root, if it has no root above it, or else a request.
    pub fn create(&self, id: u32, root: u32) {
        if root != 0 {
            self.latest.set((id, root));
        } else if let Ok(mut roots) = self.roots.try_borrow_mut() {
            roots.push(Root::new(id));
        }
    }

    /// A context ends.
    pub fn delete(&self, id: u32) {
        let stream = self.streams.try_borrow_mut().ok().and_then(|mut streams| streams.remove(id));
        match stream {
            Some(mut stream) => stream.on_end(),
            None => {
                if let Ok(mut roots) = self.roots.try_borrow_mut() {
                    roots.retain(|root| root.id != id);
                }
            }
        }
    }

    /// A request begins, with so many headers.
    pub fn begin(&self, id: u32, headers: usize, end_of_stream: bool) -> Action {
        let (latest, root) = self.latest.get();
        let Ok(roots) = self.roots.try_borrow() else {
            return Action::Continue;
        };
        let root = roots.iter().find(|known| latest == id && known.id == root);
        let Some(worker) = root.and_then(|root| root.worker.as_ref()) else {
            return Action::Continue;
        };
        let (action, stream) = Stream::begin(worker, id, headers, end_of_stream);
        if let (Some(stream), Ok(mut streams)) = (stream, self.streams.try_borrow_mut()) {
            streams.insert(id, Box::new(stream));
        }
        action
    }

    /// Does something with a request, if there is anything left to do.
    pub fn with_stream(&self, id: u32, act: impl FnOnce(&mut Stream)) {
        if let Ok(mut streams) = self.streams.try_borrow_mut()
            && let Some(stream) = streams.get_mut(id)
        {
            act(stream);
        }
    }

    /// Does something with a root. Nothing, should there be none.
    pub fn with_root<T>(&self, id: u32, act: impl FnOnce(&mut Root) -> T) -> Option<T> {
        self.roots.try_borrow_mut().ok()?.iter_mut().find(|root| root.id == id).map(act)
    }
}
