//! Records that workers share, torn or of another layout.
//!
//! Each change is three bytes and its data: which record, what is done to it, and the size of the data. A worker must read each
//! record as one that it knows or as none, and go on.

use core::time::Duration;

use graygate::decision::probe::cache::CachedProbe;
use graygate::readiness::UpstreamState;
use graygate::rollback::RollbackStore;
use graygate::value::lease::Lease;
use graygate::value::lifecycle::Lifecycle;
use serde_json::Value;

use super::FULL;
use super::worlds::sim::{Manner, Request, World};

/// The most changes of an input.
const MOST: usize = 12;

pub fn run(input: &[u8]) {
    check_types(input);
    let mut document: Value = serde_json::from_str(FULL).unwrap();
    document.as_object_mut().unwrap().remove("hosts");
    document.as_object_mut().unwrap().remove("rollout");
    let mut world = World::new(&document, 2);
    world.steer = "x-gray-version";
    traffic(&mut world);
    let mut rest = input;
    for number in 0..MOST {
        let Some(([record, change, size], data)) = rest.split_first_chunk() else { break };
        let (data, after) = data.split_at(usize::from(*size).min(data.len()));
        rest = after;
        overwrite(&world, usize::from(*record), *change, data);
        match change % 3 {
            0 => world.pass(Duration::from_millis(300)),
            1 => traffic(&mut world),
            // A new root reads all that an earlier one left.
            _ => {
                document["gates"][0]["reply"]["retryAfterSeconds"] = (number + 1).into();
                assert!(world.configure(&document), "{:?}", world.logged("refused"));
            }
        }
    }
    world.pass(Duration::from_secs(5));
    traffic(&mut world);
    let answer = world.ask(0, &Request::get("/livez"));
    assert!((200..600).contains(&answer.status), "{answer:?}");
}

/// Sends what reads and writes the records.
fn traffic(world: &mut World) {
    for (number, path) in ["/", "/api", "/readyz", "/statusz", "/livez", "/startupz"].into_iter().enumerate()
    {
        let request = Request::get(path).with(":authority", "reviews").with("x-user-id", path);
        let id = world.start(number % 2, &request);
        world.pass(Duration::from_millis(60));
        assert!(!world.is_open(id) || path == "/livez", "{path} has no answer");
    }
    world.set("app", Manner::Status(if (world.now() / 60).is_multiple_of(2) { 503 } else { 200 }));
}

/// Changes the record with this number, in the order of the keys.
fn overwrite(world: &World, record: usize, change: u8, data: &[u8]) {
    let mut store = world.around.store.borrow_mut();
    let count = store.len();
    let Some((bytes, version)) = store.values_mut().nth(record % count) else { return };
    let at = data.first().map_or(0, |at| usize::from(*at) % (bytes.len() + 1));
    match change % 5 {
        0 => *bytes = data.to_vec(),
        1 => bytes.truncate(at),
        2 => bytes.extend_from_slice(data),
        3 => {
            for (byte, mask) in bytes[at..].iter_mut().zip(data.iter().skip(1)) {
                *byte ^= mask;
            }
        }
        _ => bytes.drain(..at).for_each(drop),
    }
    *version += 1;
}

/// Reads the bytes as each type that is stored. What can be read can be written, and read again.
fn check_types(bytes: &[u8]) {
    fn check<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
        if let Ok(value) = postcard::from_bytes::<T>(bytes) {
            let written = postcard::to_allocvec(&value).unwrap();
            let again: T = postcard::from_bytes(&written).unwrap();
            assert_eq!(postcard::to_allocvec(&again).unwrap(), written);
        }
    }
    check::<UpstreamState>(bytes);
    check::<RollbackStore>(bytes);
    check::<Lease>(bytes);
    check::<Lifecycle>(bytes);
    check::<CachedProbe>(bytes);
}
