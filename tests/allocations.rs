//! What a request that is let pass allocates: nothing but the bytes that the proxy hands over.
//!
//! The scenes are those whose instructions are counted, in `envoy/bench/core`.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[allow(dead_code, unused_imports)]
#[path = "../envoy/bench/core/src/lib.rs"]
mod scene;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use scene::filter::Filter;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all of it is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

/// Returns how often the callback of a request's headers allocates, besides for the bytes that the proxy hands over, and how often
/// for those.
fn allocations(filter: &mut Filter) -> (usize, usize) {
    let (before, handed_over) = (ALLOCATIONS.get(), filter.proxy.handed_over.get());
    filter.on_request_headers();
    let handed_over = filter.proxy.handed_over.get() - handed_over;
    (ALLOCATIONS.get() - before - handed_over, handed_over)
}

#[test]
fn a_request_that_is_let_pass_allocates_nothing_but_what_the_proxy_hands_over() {
    for (name, filter) in [
        ("by its path", Filter::let_pass()),
        ("past a release for its host", Filter::let_pass_by_host()),
        ("in mode shadow", Filter::let_pass_in_shadow()),
    ] {
        assert_eq!(allocations(filter).0, 0, "{name}");
    }
}

#[test]
fn of_a_request_that_is_let_pass_by_its_path_only_the_path_is_handed_over() {
    assert_eq!(allocations(Filter::let_pass()), (0, 1));
}
