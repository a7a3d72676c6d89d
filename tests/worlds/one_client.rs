//! One client of many: whatever it does, it gates no other that the upstream serves well.
//!
//! There is one exception. A client that has most of the successes may speak for the upstream. If the others come so
//! rarely that none of them is served for 0.24 s, its failures count.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::judged;
use super::life::cases;
use super::sim::{Request, World};

/// What the one client does.
#[derive(Clone, Debug)]
enum Act {
    /// Sends so many requests one after the other, so many milliseconds apart. All get this status.
    Ask { requests: u64, pause: u64, status: u16 },
    /// Sends so many requests at once, which all end in the same way.
    Burst { requests: u64, lasts: u64, end: End },
}

/// How a request of a burst ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Status(u16),
    /// A response begins at once and breaks off.
    BreaksOff,
    /// A response begins at once and ends well.
    Streams,
    /// The connection is closed before a response.
    Resets,
    /// The same, and a part of the request was still to come.
    PartResets,
    TimesOut,
    Leaves,
}

/// An act, how long after the act before it begins, in milliseconds, and its worker.
type Step = (u64, usize, Act);

/// Generates acts. `succeeds` tells whether responses to the one client may begin well.
fn steps(succeeds: bool) -> impl Strategy<Value = Vec<Step>> {
    let statuses: &[u16] = if succeeds { &[200, 500] } else { &[500, 503] };
    let mut ends = vec![End::Status(500), End::Resets, End::PartResets, End::TimesOut, End::Leaves];
    if succeeds {
        ends.extend([End::Status(200), End::BreaksOff, End::Streams]);
    }
    let ask = (1..400u64, 0..60u64, select(statuses));
    let burst = (1..40u64, 0..3_000u64, select(ends));
    let act = prop_oneof![
        ask.prop_map(|(requests, pause, status)| Act::Ask { requests, pause, status }),
        burst.prop_map(|(requests, lasts, end)| Act::Burst { requests, lasts, end }),
    ];
    vec((0..3_000u64, 0..2usize, act), 1..25)
}

/// What happens at one time.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Ask { vm: usize, status: u16 },
    Begin { slot: u64, vm: usize, end: End },
    End { slot: u64, end: End },
}

/// Returns what happens by these steps from this time on, in order.
fn moments(steps: &[Step], start: u64) -> Vec<(u64, Moment)> {
    let (mut at, mut slot, mut moments) = (start, 0, Vec::new());
    for (after, vm, act) in steps {
        at += after;
        match act {
            Act::Ask { requests, pause, status } => {
                let ask = |request| (at + request * pause, Moment::Ask { vm: *vm, status: *status });
                moments.extend((0..*requests).map(ask));
            }
            Act::Burst { requests, lasts, end } => {
                for _ in 0..*requests {
                    slot += 1;
                    moments.push((at, Moment::Begin { slot, vm: *vm, end: *end }));
                    moments.push((at + lasts, Moment::End { slot, end: *end }));
                }
            }
        }
    }
    moments.sort_by_key(|(at, _)| *at);
    moments
}

/// Returns the largest number of successes that the one client may have in ten seconds.
fn most_successes(steps: &[Step]) -> u64 {
    let begins_well = |moment: &Moment| match moment {
        Moment::Ask { status, .. } => *status == 200,
        Moment::Begin { end, .. } => matches!(end, End::BreaksOff | End::Streams),
        Moment::End { end, .. } => matches!(end, End::Status(200)),
    };
    let moments = moments(steps, 0);
    let times: Vec<u64> =
        moments.iter().filter(|(_, moment)| begins_well(moment)).map(|(at, _)| *at).collect();
    let within = |from: u64| times.iter().filter(|at| (from..from + 10_000).contains(*at)).count();
    times.iter().map(|at| within(*at) as u64).max().unwrap_or_default()
}

/// The one client, with its open requests.
#[derive(Default)]
struct Client(BTreeMap<u64, u32>);

impl Client {
    fn send(world: &mut World, vm: usize, is_whole: bool) -> u32 {
        "10.9.0.99:5000".clone_into(&mut world.around.source.borrow_mut());
        let request = Request::of("POST", "/bad");
        world.send(vm, &if is_whole { request } else { request.unfinished() })
    }

    fn act(&mut self, world: &mut World, moment: Moment) {
        match moment {
            Moment::Ask { vm, status } => {
                let id = Self::send(world, vm, true);
                if world.is_open(id) {
                    world.respond(id, status, "via_upstream", &[], true);
                }
            }
            Moment::Begin { slot, vm, end } => {
                let id = Self::send(world, vm, !matches!(end, End::PartResets));
                if world.is_open(id) {
                    if matches!(end, End::BreaksOff | End::Streams) {
                        world.respond(id, 200, "via_upstream", &[], false);
                    }
                    self.0.insert(slot, id);
                }
            }
            Moment::End { slot, end } => {
                let Some(id) = self.0.remove(&slot) else {
                    return;
                };
                const RESET: &str = "upstream_reset_before_response_started{connection_termination}";
                match end {
                    End::Status(status) => world.respond(id, status, "via_upstream", &[], true),
                    End::BreaksOff => world.end(id, "upstream_reset_after_response_started{remote_reset}"),
                    End::Streams => world.body(id, "all", true),
                    End::Resets | End::PartResets => world.respond(id, 503, RESET, &[], true),
                    End::TimesOut => world.respond(id, 504, "response_timeout", &[], true),
                    End::Leaves => world.leave(id),
                }
            }
        }
    }
}

/// The others: the time between two of their requests, and a worker and a client for each of them in turn.
#[derive(Clone, Debug)]
struct Others {
    period: u64,
    turns: Vec<(usize, usize)>,
}

fn others(periods: impl Strategy<Value = u64>) -> impl Strategy<Value = Others> {
    let turns = (2..6usize).prop_flat_map(|clients| vec((0..2usize, 0..clients), 37));
    (periods, turns).prop_map(|(period, turns)| Others { period, turns })
}

/// How long the others are alone at first, in milliseconds.
const ALONE: u64 = 12_000;

/// Plays the others for ten seconds more than the one client acts. Returns how many of their requests were gated.
fn play(others: &Others, steps: &[Step]) -> (usize, World) {
    let mut world = World::new(&judged(&json!({})), 2);
    let start = world.now();
    let (mut client, mut gated) = (Client::default(), 0);
    let mut moments = moments(steps, start + ALONE).into_iter().peekable();
    let end = moments.clone().last().map_or(start, |(at, _)| at) + 10_000;
    for (turn, (vm, other)) in (0..).zip(others.turns.iter().cycle()) {
        let next = start + turn * others.period;
        while let Some((at, moment)) = moments.next_if(|(at, _)| *at <= next) {
            world.pass(Duration::from_millis(at.saturating_sub(world.now())));
            client.act(&mut world, moment);
        }
        world.pass(Duration::from_millis(next.saturating_sub(world.now())));
        *world.around.source.borrow_mut() = format!("10.9.0.{other}:5000");
        let id = world.send(*vm, &Request::get("/"));
        if world.is_open(id) {
            world.respond(id, 200, "via_upstream", &[], true);
        }
        gated += usize::from(world.answer(id).is_gated());
        if next > end {
            break;
        }
    }
    (gated, world)
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_client_that_only_fails_gates_no_other(others in others(5..500u64), steps in steps(false)) {
        let (gated, world) = play(&others, &steps);
        prop_assert_eq!(gated, 0, "{:?}", world.logged(" -> "));
    }

    #[test]
    fn a_client_that_does_anything_gates_no_other_that_is_served_each_40_ms(
        others in others(5..=40u64), steps in steps(true),
    ) {
        let (gated, world) = play(&others, &steps);
        prop_assert_eq!(gated, 0, "{:?}", world.logged(" -> "));
    }

    /// A client that has most of the successes may speak for the upstream.
    #[test]
    fn a_client_that_does_anything_gates_no_other_unless_it_has_most_of_the_successes(
        others in others(5..500u64), steps in steps(true),
    ) {
        let (gated, world) = play(&others, &steps);
        let of_others = 10_000 / others.period;
        prop_assert!(gated == 0 || most_successes(&steps) > 3 * of_others, "{:?}", world.logged(" -> "));
    }
}
