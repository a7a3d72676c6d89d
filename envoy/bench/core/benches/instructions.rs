//! How many instructions the core takes, counted by callgrind: the same on each run, within a thousandth, however busy
//! the machine.
//!
//! They are native ones. The module's are others, but what takes more of these takes more of those.

use std::hint::black_box;

use graygate::decision::Decision;
use graygate::proxy::Flow;
use graygate::value::hash;
use graygate::weights::layout::Layout;
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use scene::Scene;
use scene::filter::Filter;

const SEED: u64 = 0x34C4_312E_5274_7C9B;

#[library_benchmark]
#[bench::of_5_bytes(b"alice")]
#[bench::of_36_bytes(b"550e8400-e29b-41d4-a716-446655440000")]
fn hash_of_a_key(key: &[u8]) -> u64 {
    hash::key(black_box(SEED), black_box(key))
}

fn two_versions() -> Layout {
    Layout::of(&[90, 10], 0)
}

fn ten_versions() -> Layout {
    Layout::of(&[10; 10], 0)
}

#[library_benchmark]
#[bench::to_2_versions(two_versions())]
#[bench::to_10_versions(ten_versions())]
fn assignment_of_a_bucket(layout: Layout) -> (Option<usize>, Layout) {
    let bucket = hash::bucket(black_box(0x9E37_79B9_7F4A_7C15));
    (layout.holder(bucket), layout)
}

#[library_benchmark]
#[bench::past_1_release(Scene::passed(1))]
#[bench::past_100_releases(Scene::passed(100))]
#[bench::past_500_releases(Scene::passed(500))]
fn request_let_pass(scene: &'static mut Scene) -> Decision<'static> {
    black_box(scene).decide()
}

#[library_benchmark]
#[bench::by_the_only_release(Scene::split(1))]
#[bench::by_the_last_of_100(Scene::split(100))]
#[bench::by_the_last_of_500(Scene::split(500))]
fn request_split(scene: &'static mut Scene) -> Decision<'static> {
    black_box(scene).decide()
}

#[library_benchmark]
#[bench::let_pass(Filter::let_pass())]
#[bench::split(Filter::split())]
#[bench::liveness(Filter::liveness())]
#[bench::readiness(Filter::readiness())]
#[bench::gated(Filter::gated())]
fn callback(filter: &'static mut Filter) -> Flow {
    black_box(filter).on_request_headers()
}

library_benchmark_group!(name = key; benchmarks = hash_of_a_key, assignment_of_a_bucket);
library_benchmark_group!(name = request; benchmarks = request_let_pass, request_split);
library_benchmark_group!(name = filter; benchmarks = callback);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::default().format([EventKind::Ir]));
    library_benchmark_groups = key, request, filter
);
