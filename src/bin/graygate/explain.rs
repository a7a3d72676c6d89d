//! `graygate explain`: what the filter would decide for a request, and why.

use core::net::SocketAddr;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use clap::Args;
use graygate::action::{Action, Edit};
use graygate::engine::{self, Assignment, Decision};
use graygate::lifecycle::Lifecycle;
use graygate::policy::Policy;
use graygate::policy::release::Key;
use graygate::policy::upstream::UpstreamId;
use graygate::readiness::{Knowledge, Permit, Readiness, Reason, Standing};
use graygate::release::{self, Rotation};
use graygate::reply::{Cause, Reply};
use graygate::request::Request;
use graygate::time::Time;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Failure;

/// The arguments of `explain`.
#[derive(Args)]
pub struct Arguments {
    /// The policy, JSON or YAML
    #[arg(long)]
    policy: PathBuf,
    /// The request's path, with its query
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's host
    #[arg(long, default_value = "localhost")]
    authority: String,
    /// A request header, as NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Where the request comes from, as ADDRESS:PORT; the port is 0 where the proxy takes the address from a
    /// header
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50000")]
    source: SocketAddr,
    /// An upstream that is not Ready; may be repeated. The others are as the policy assumes them.
    #[arg(long, value_name = "UPSTREAM")]
    not_ready: Vec<String>,
    /// Explain each of these requests instead, one JSON object per line:
    /// {"method", "path", "authority", "source", "headers": {NAME: VALUE}}; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["path", "method", "authority", "source", "headers"])]
    requests: Option<PathBuf>,
    /// Print one JSON object per request
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("allowed: NAME=VALUE, such as x-user-id=alice")?;
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// A request in words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default = "localhost")]
    authority: String,
    #[serde(default = "loopback")]
    source: SocketAddr,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000))
}

fn localhost() -> String {
    "localhost".to_owned()
}

impl Request for Question {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let value = match name {
            ":method" => &self.method,
            ":path" => &self.path,
            ":authority" | "host" => &self.authority,
            ":scheme" => return Some(Cow::Borrowed(b"http")),
            name => self.headers.get(name)?,
        };
        Some(Cow::Borrowed(value.as_bytes()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(self.source.to_string().into_bytes()))
    }
}

/// Readiness as it is assumed for the sake of the question.
struct Assumed<'p> {
    policy: &'p Policy,
    not_ready: &'p [String],
}

impl Readiness for Assumed<'_> {
    fn standing(&self, id: UpstreamId) -> Standing {
        match self.policy.upstream(id) {
            Some(upstream) if !upstream.assume_ready || self.not_ready.contains(&upstream.name) => {
                Standing::NotReady(Reason::Assumed)
            }
            _ => Standing::Ready,
        }
    }

    fn lend(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn knowledge(&self, id: UpstreamId) -> Knowledge {
        // As though each had been checked just now.
        let standing = self.standing(id);
        Knowledge { standing, heard: Some(self.now()), proven: standing == Standing::Ready }
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { started: true, draining: false }
    }

    fn now(&self) -> Time {
        Time::from_millis(0)
    }
}

/// Explains one request or many.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let policy = crate::policy(&arguments.policy)?;
    for name in &arguments.not_ready {
        if !policy.upstreams.iter().any(|upstream| upstream.name == *name) {
            let names: Vec<&str> = policy.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
            let allowed = names.join(", ");
            return Err(Failure::Usage(format!(
                "--not-ready {name:?}: no such upstream; allowed: {allowed}"
            )));
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut answer = |question: &Question| {
        let mut readiness = Assumed { policy: &policy, not_ready: &arguments.not_ready };
        let mut rotations: Vec<_> = policy.releases.iter().map(|release| Rotation::new(release, 0)).collect();
        let decision = engine::decide(&policy, question, &mut readiness, &mut rotations);
        let written = match arguments.json {
            true => writeln!(out, "{}", to_json(&policy, &decision)),
            false => to_text(&policy, question, &decision, &mut out),
        };
        written.map_err(|error| Failure::Usage(format!("standard output: {error}")))
    };
    match &arguments.requests {
        None => answer(&Question {
            method: arguments.method.clone(),
            path: arguments.path.clone(),
            authority: arguments.authority.clone(),
            source: arguments.source,
            headers: firsts(arguments.headers.clone()),
        }),
        Some(file) => {
            let usage = |line: usize, error: &dyn core::fmt::Display| {
                Failure::Usage(format!("{}, line {}: {error}", file.display(), line + 1))
            };
            let input: Box<dyn Read> = match file.to_str() {
                Some("-") => Box::new(std::io::stdin()),
                _ => Box::new(std::fs::File::open(file).map_err(|error| usage(0, &error))?),
            };
            for (number, line) in BufReader::new(input).lines().enumerate() {
                let line = line.map_err(|error| usage(number, &error))?;
                let mut question: Question =
                    serde_json::from_str(&line).map_err(|error| usage(number, &error))?;
                question.headers = firsts(core::mem::take(&mut question.headers).into_iter().collect());
                answer(&question)?;
            }
            Ok(())
        }
    }
}

/// Headers by lower-case name. Of one that is repeated the proxy shows the filter the first value.
fn firsts(headers: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut firsts = BTreeMap::new();
    for (name, value) in headers {
        firsts.entry(name.to_ascii_lowercase()).or_insert(value);
    }
    firsts
}

/// The names in an assignment: release, version wanted, version got.
fn names<'p>(policy: &'p Policy, assignment: &Assignment<'_>) -> [&'p str; 3] {
    let release = policy.releases.get(assignment.release);
    let version = |place: usize| {
        release.and_then(|release| release.versions.get(place)).map_or("", |version| version.name.as_str())
    };
    [
        release.map_or("", |release| &release.name),
        version(assignment.choice.version),
        version(assignment.version),
    ]
}

fn key(key: &Key) -> String {
    match key {
        Key::Header(name) => format!("header {name}"),
        Key::Cookie(name) => format!("cookie {name}"),
        Key::QueryParameter(name) => format!("query parameter {name}"),
        Key::SourceIp => "source address".to_owned(),
    }
}

fn to_json(policy: &Policy, decision: &Decision<'_>) -> Value {
    let assignments: Vec<Value> = decision
        .assignments
        .iter()
        .map(|assignment| {
            let [release, wanted, version] = names(policy, assignment);
            let bucket = assignment.choice.bucket;
            json!({
                "release": release,
                "version": version,
                "reason": assignment.reason.code(),
                "wanted": {"version": wanted, "reason": assignment.choice.reason.code()},
                "key": bucket.map(|(source, _)| key(source)),
                "bucket": bucket.map(|(_, bucket)| bucket),
            })
        })
        .collect();
    let mut answer = match &decision.action {
        Action::Forward(edits) => edited("forward", edits),
        Action::PassThrough { .. } => edited("pass through", &[]),
        Action::GrpcCheck { edits, .. } => edited("grpc health check", edits),
        Action::Reply(reply) => replied("reply", reply),
        Action::Drain { draining: true, reply } => replied("drain", reply),
        Action::Drain { draining: false, reply } => replied("stop draining", reply),
    };
    if let Value::Object(fields) = &mut answer {
        fields.insert("assignments".to_owned(), Value::Array(assignments));
    }
    answer
}

fn edited(action: &str, edits: &[Edit<'_>]) -> Value {
    let set: BTreeMap<_, _> = edits.iter().filter_map(|edit| Some((edit.header, edit.value?))).collect();
    let remove: Vec<_> = edits.iter().filter(|edit| edit.value.is_none()).map(|edit| edit.header).collect();
    json!({"action": action, "set": set, "remove": remove})
}

fn replied(action: &str, reply: &Reply) -> Value {
    let headers: BTreeMap<_, _> = reply.headers.iter().map(|(name, value)| (name, value)).collect();
    let body = String::from_utf8_lossy(&reply.body);
    json!({
        "action": action, "status": reply.status, "headers": headers, "body": body, "details": reply.details,
    })
}

fn to_text(
    policy: &Policy,
    question: &Question,
    decision: &Decision<'_>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    writeln!(out, "request   {} {} for {}", question.method, question.path, question.authority)?;
    for assignment in &decision.assignments {
        let [release, wanted, version] = names(policy, assignment);
        let bounds = policy.releases.get(assignment.release).map_or(&[][..], |release| &release.bounds);
        let why = match (assignment.choice.reason, assignment.choice.bucket) {
            (_, Some((source, bucket))) => {
                format!("{} is in bucket {bucket}; {}", key(source), held(bounds, assignment))
            }
            (release::Reason::Incoming, _) => "the request names it, and the release trusts that".to_owned(),
            (release::Reason::Match, _) => "the request meets the version's own match".to_owned(),
            _ => "the request has no key, so each worker deals the versions out in turn".to_owned(),
        };
        writeln!(out, "release   {release}: {wanted} ({}): {why}", assignment.choice.reason.code())?;
        if assignment.reason == release::Reason::Fallback {
            writeln!(out, "          {version} (fallback): the upstream of {wanted} is not ready")?;
        }
    }
    let (words, edits, reply) = match &decision.action {
        Action::Forward(edits) => ("forward".to_owned(), edits.as_slice(), None),
        Action::PassThrough { .. } => {
            ("answer with what the app last said, or ask the app".to_owned(), &[][..], None)
        }
        Action::GrpcCheck { edits, .. } => {
            ("forward, and answer as gRPC health check".to_owned(), edits.as_slice(), None)
        }
        Action::Reply(reply) => {
            (format!("reply {}: {}", reply.status, why(policy, reply)), &[][..], Some(reply))
        }
        Action::Drain { draining, reply } => {
            let order = if *draining { "drain" } else { "stop draining" };
            (format!("{order}, then reply {}", reply.status), &[][..], Some(reply))
        }
    };
    writeln!(out, "decision  {words}")?;
    for edit in edits {
        match edit.value {
            Some(value) => writeln!(out, "          with {}: {value}", edit.header)?,
            None => writeln!(out, "          without {}", edit.header)?,
        }
    }
    if let Some(reply) = reply {
        for (name, value) in &reply.headers {
            writeln!(out, "          {name}: {value}")?;
        }
        for line in String::from_utf8_lossy(&reply.body).lines() {
            writeln!(out, "          {line}")?;
        }
    }
    Ok(())
}

/// What a reply is to.
fn why(policy: &Policy, reply: &Reply) -> String {
    match reply.cause {
        Cause::Probe { asked, .. } => format!("the {} probe", asked.name(policy)),
        Cause::Gate { upstream, reason } => {
            let name = policy.upstream(upstream).map_or("", |upstream| &upstream.name);
            format!("the gate on upstream {name}, which is not ready: {reason}")
        }
    }
}

/// The buckets of the version that an assignment wants.
fn held(bounds: &[(u16, usize)], assignment: &Assignment<'_>) -> String {
    let mut start = 0;
    for (end, version) in bounds {
        if *version == assignment.choice.version {
            return format!("it holds {start} to {}", end.saturating_sub(1));
        }
        start = *end;
    }
    "it is the default".to_owned()
}
