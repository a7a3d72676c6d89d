#![no_main]

use graygate_fuzz::{mutation, policy};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| policy::run(data));

// Most changes of a byte make a document that is not JSON, so every other mutation is one of its tree.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = mutation::Random(seed.into());
    let mutated = (random.below(2) == 0).then(|| mutation::document(&data[..size], &mut random)).flatten();
    match mutated.filter(|mutated| mutated.len() <= max_size) {
        Some(mutated) => {
            data[..mutated.len()].copy_from_slice(&mutated);
            mutated.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});
