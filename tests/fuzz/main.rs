//! Replays the corpus of each fuzz target, then mutates it for a few seconds. Needs no fuzzer: the targets are plain functions.
//!
//! `make fuzz` looks for new inputs with libFuzzer, guided by coverage. `FUZZ_RUNS` sets how many mutations each target gets
//! here, and `FUZZ_SEED` the first number.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use targets::mutation::{self, Random};
use targets::{TARGETS, Target};

/// How many mutations each target gets. Unoptimized, those of all targets take some ten seconds.
const RUNS: u64 = 60;

#[allow(clippy::disallowed_methods, reason = "a test has no other settings")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs the target, and says for which input it failed.
fn try_on(target: Target, name: &str, what: &str, input: &[u8]) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let file = std::env::temp_dir().join(format!("graygate-fuzz-{name}"));
        fs::write(&file, input).unwrap();
        eprintln!("{name} failed on {what}; the input is in {}", file.display());
        resume_unwind(failure);
    }
}

fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus");
    for (path, input) in &corpus {
        try_on(target, name, &path.display().to_string(), input);
    }
    for run in 0..number("FUZZ_RUNS", RUNS) {
        let mut random = Random(number("FUZZ_SEED", 1).wrapping_add(run << 32));
        let [(path, input), (_, other)] = [(); 2].map(|()| &corpus[random.below(corpus.len())]);
        let tree =
            if name == "policy" && run % 4 != 0 { mutation::document(input, &mut random) } else { None };
        let input = tree.unwrap_or_else(|| mutation::bytes(input, other, &mut random));
        try_on(target, name, &format!("mutation {run} of {}", path.display()), &input);
    }
}

#[test]
fn each_directory_of_the_corpus_has_a_target() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, TARGETS.map(|(name, _)| name));
}

#[test]
fn any_document_is_refused_in_words_or_serves_any_request() {
    replay("policy");
}

#[test]
fn any_headers_of_requests_and_responses_are_read() {
    replay("headers");
}

#[test]
fn any_text_from_outside_is_read_or_refused() {
    replay("parsers");
}

#[test]
fn torn_records_and_those_of_another_layout_are_no_records() {
    replay("records");
}

#[test]
fn any_answers_to_calls_are_judged() {
    replay("callouts");
}

#[test]
fn any_messages_of_the_health_protocol_are_answered() {
    replay("health");
}
