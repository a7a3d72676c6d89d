//! How soon an upstream that fails all requests is found, for many rates, response times, ticks and numbers of workers.

use std::collections::VecDeque;

use serde_json::json;

use super::MS;
use super::sim::{Request, World};

/// Sends requests at a steady rate to the workers in turn, which are answered with this status after a while.
struct Flow {
    per_second: u64,
    takes: u64,
    next: u64,
    sent: usize,
    open: VecDeque<(u64, u32)>,
}

impl Flow {
    fn new(world: &World, per_second: u64, takes: u64) -> Self {
        Flow { per_second, takes, next: world.now() * per_second, sent: 0, open: VecDeque::new() }
    }

    /// Lets one millisecond pass.
    fn step(&mut self, world: &mut World, status: u16) {
        let now = world.now();
        while self.open.front().is_some_and(|(due, _)| *due <= now) {
            let (_, id) = self.open.pop_front().unwrap();
            if world.is_open(id) {
                world.respond(id, status, "via_upstream", &[], true);
            }
        }
        // The times are in thousandths of the time between two requests.
        while self.next <= now * self.per_second {
            self.next += 1_000;
            let id = world.send(self.sent % world.workers(), &Request::get("/"));
            self.sent += 1;
            self.open.push_back((now + self.takes, id));
        }
        world.pass(MS);
    }
}

/// Returns how many milliseconds it took to find that the upstream fails.
fn found_after(per_second: u64, takes: u64, not_ready_for: &str, workers: usize) -> u64 {
    let policy = json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "circuitBreaker": {}},
            // Its wait sets the tick.
            "other": {"cluster": "other", "circuitBreaker": {"notReadyFor": not_ready_for}},
        },
        "gates": [{"upstream": "app"}],
    });
    let mut world = World::new(&policy, workers);
    let mut flow = Flow::new(&world, per_second, takes);
    let begin = world.now();
    while world.now() < begin + 5_000 + 10_000 / per_second {
        flow.step(&mut world, 200);
    }
    assert_eq!(world.phase("app"), "ready");
    let failing = world.now();
    while world.phase("app") == "ready" {
        flow.step(&mut world, 500);
        assert!(world.now() < failing + 120_000, "never found");
    }
    world.now() - failing
}

#[test]
fn an_upstream_that_fails_all_requests_is_found_soon_at_any_rate() {
    for workers in [1, 2] {
        for (not_ready_for, tick) in [("200ms", 50), ("5s", 250)] {
            for per_second in [1, 20, 100] {
                for takes in [1, 100, 500] {
                    let after = found_after(per_second, takes, not_ready_for, workers);
                    // The silence, with one failure before and one after it, and the ticks by which workers tell.
                    let most = (6_000 / per_second).max(250) + 2_000 / per_second + 3 * tick;
                    assert!(
                        after <= most,
                        "{after} ms, at most {most}: {workers} workers, {per_second}/s, {takes} ms, tick {tick} ms"
                    );
                }
            }
        }
    }
}
