//! Tells the command line tool which commit it is built from.
//!
//! A build without the feature `tool` gets nothing from here, so the module does not depend on the state of the
//! repository.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if is_set("CARGO_FEATURE_TOOL").is_none() {
        return;
    }
    // For builds in which git is not there, such as one in a container.
    println!("cargo::rerun-if-env-changed=GRAYGATE_COMMIT");
    let commit = is_set("GRAYGATE_COMMIT").or_else(commit);
    println!("cargo::rustc-env=GRAYGATE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

#[allow(clippy::disallowed_methods, reason = "a build script gets its arguments this way")]
fn is_set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the commit of the repository, or `None` if this directory is not the root of one. A source tarball may lie
/// inside another repository.
fn commit() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != Path::new(".").canonicalize().ok()? {
        return None;
    }
    const SOURCES: [&str; 4] = ["src", "Cargo.toml", "Cargo.lock", "build.rs"];
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    // These change with each commit and each checkout. A file that is not there would always count as changed.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.inspect(|path| println!("cargo::rerun-if-changed={path}"));
    }
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changes = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}, modified") })
}

/// Runs git and returns its output, or `None` if it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| text.trim().to_owned())
}
