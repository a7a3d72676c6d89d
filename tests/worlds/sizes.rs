//! What large policies cost: the work of one callback is bounded, whatever the policy says.

use serde_json::{Value, json};

use super::MS;
use super::sim::World;

/// Returns a policy with this many releases of this many versions.
fn releases(count: usize, versions: usize) -> Value {
    let version = |index: usize| json!({"name": format!("v{index}"), "upstream": "app", "weight": 1, "default": index == 0});
    let release = |index: usize| {
        json!({
            "name": format!("r{index}"), "steer": {"header": format!("x-r{index}")},
            "match": [{"authority": {"exact": format!("r{index}.test")}}],
            "versions": (0..versions).map(version).collect::<Vec<_>>(),
        })
    };
    json!({
        "name": "shop", "upstreams": {"app": {"cluster": "app"}},
        "releases": (0..count).map(release).collect::<Vec<_>>(),
    })
}

/// The most metrics that one tick may define.
const MAX_DEFINED: usize = 510;

#[test]
fn the_metrics_of_many_versions_are_defined_over_several_ticks_by_one_worker() {
    let mut world = World::new(&releases(20, 10), 3);
    let mut count = world.metrics().len();
    assert_eq!(count, 0);
    let mut ticks = 0;
    while count < 20 * 10 * 10 + 2 {
        world.pass(10 * MS);
        let more = world.metrics().len() - count;
        assert!(more <= MAX_DEFINED, "{more} at once");
        count += more;
        ticks += 1;
        assert!(ticks < 100, "{count} are defined");
    }
    assert_eq!(world.metric("version_share", &["release=r7"]), 10_000);
    // With nothing left to define, this policy needs no ticks.
    world.pass(300 * MS);
    assert_eq!((0..3).map(|vm| world.tick_of(vm)).max(), Some(0));
}
