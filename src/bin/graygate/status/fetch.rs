//! Reads the answers of many proxies at the same time.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use ureq::Agent;

use crate::failure::Failure;
use crate::input;

/// The most requests at the same time.
const AT_ONCE: usize = 64;

/// The longest answer. Statistics of a proxy with many clusters have some megabytes.
const MAX_ANSWER: u64 = 64 << 20;

/// How many characters of an error a message quotes.
const MAX_QUOTED: usize = 300;

/// Returns the answer of each source, or why there is none. Files are read first.
///
/// # Errors
///
/// Returns a [`Failure`] if a file cannot be read. A proxy that cannot be reached is a finding and no failure.
pub fn all(sources: &[String], timeout: Duration) -> Result<Vec<Result<String, String>>, Failure> {
    // What a redirect or a proxy of the environment would bring is the answer of another.
    let config = Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
    let agent: Agent = config.timeout_global(Some(timeout)).build().into();
    let mut answers: Vec<Option<Result<String, String>>> = Vec::new();
    for source in sources {
        let is_url = source.starts_with("http://");
        answers.push(if is_url { None } else { Some(Ok(file(source)?)) });
    }
    let answers = Mutex::new(answers);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(sources.len()) {
            scope.spawn(|| {
                while let Some((index, source)) = take(sources, &next) {
                    let answer = source.starts_with("http://").then(|| get(&agent, source, timeout));
                    if let (Some(answer), Ok(mut answers)) = (answer, answers.lock())
                        && let Some(place) = answers.get_mut(index)
                    {
                        *place = Some(answer);
                    }
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap_or_default().into_iter();
    Ok(answers.map(|answer| answer.unwrap_or_else(|| Err("not read".to_owned()))).collect())
}

fn take<'s>(sources: &'s [String], next: &AtomicUsize) -> Option<(usize, &'s String)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    sources.get(index).map(|source| (index, source))
}

fn file(source: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = input::open(Path::new(source))?.read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(source, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn get(agent: &Agent, url: &str, timeout: Duration) -> Result<String, String> {
    let answer = agent.get(url).header("accept", "application/json, text/plain").call();
    let mut answer = answer.map_err(|error| describe(&error, timeout))?;
    let status = answer.status();
    if status.is_redirection() {
        let place = answer.headers().get("location").map(|place| String::from_utf8_lossy(place.as_bytes()));
        let place = place.map(|place| format!(" to {}", start(&place))).unwrap_or_default();
        return Err(format!("status {}: a redirect{place}, which is not followed", status.as_u16()));
    }
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).lossy_utf8(true).read_to_string();
    let body = body.map_err(|error| describe(&error, timeout))?;
    if status.is_success() {
        return Ok(body);
    }
    let first = body.lines().next().unwrap_or_default();
    Err(format!("status {}: {}", status.as_u16(), start(first)))
}

/// Returns as much of the text as belongs on a line.
fn start(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}

/// Returns the error in words.
fn describe(error: &ureq::Error, timeout: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {timeout:?}"),
        ureq::Error::Io(error) => crate::failure::describe(error),
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        ureq::Error::ConnectionFailed => "it cannot be reached".to_owned(),
        other => other.to_string(),
    }
}
