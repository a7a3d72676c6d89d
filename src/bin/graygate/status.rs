//! `graygate status` reads what many proxies tell, and prints one table and who differs.
//!
//! A source is the URL of a status page or of Envoy's statistics, or a file with such an answer. What it is shows in its
//! content.

mod agreement;
mod fetch;
mod page;
mod printable;
mod report;
mod stats;
mod table;

use core::time::Duration;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::Failure;
use crate::input;
use report::{ProxyStatus, StatusReport};

/// The end of the help text.
const EXAMPLES: &str = "The exit code is 0 if all proxies agree. It is 1 if they differ, or if one \
cannot be read or has refused its newest document.

Examples:
  graygate status http://10.0.0.1:8080/statusz http://10.0.0.2:8080/statusz
  graygate status http://127.0.0.1:9901/stats
  graygate status --file urls.txt --timeout 5s --json
  kubectl exec POD -c istio-proxy -- pilot-agent request GET stats > pod.stats; graygate status pod.stats";

/// The arguments of `status`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArguments {
    /// URLs of status pages or of Envoy's /stats, with http only, or files with their answers; "-" reads a list of them from
    /// standard input
    #[arg(value_name = "URL", required_unless_present = "file")]
    sources: Vec<String>,
    /// A file with such URLs, one on each line. Empty lines and lines that begin with # are left out
    #[arg(long, value_name = "URLS")]
    file: Option<PathBuf>,
    /// How long each proxy may take to answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = timeout)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let read = humantime::parse_duration(text).ok();
    read.filter(|span| !span.is_zero()).ok_or_else(|| "write a time such as 2s or 500ms".to_owned())
}

/// Reads all proxies and prints the report.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let sources = sources(arguments)?;
    let answers = fetch::all(&sources, arguments.timeout)?;
    let proxies: Vec<ProxyStatus> = sources
        .into_iter()
        .zip(answers)
        .map(|(source, answer)| match answer.and_then(|text| read(&text)) {
            Ok(proxy) => ProxyStatus { source, ..proxy },
            Err(error) => ProxyStatus { source, error: Some(error), ..ProxyStatus::default() },
        })
        .collect();
    let differences = agreement::differences(&proxies);
    let is_good = |proxy: &ProxyStatus| proxy.error.is_none() && proxy.policy_refused.is_empty();
    let agree = differences.is_empty() && proxies.iter().all(is_good);
    let report = StatusReport { proxies, differences, agree };
    let mut out = std::io::stdout().lock();
    let written = if arguments.json {
        let json = serde_json::to_string_pretty(&report);
        let json = json.map_err(|error| Failure::Io(format!("the report is not JSON: {error}")))?;
        writeln!(out, "{}", printable::printable_json(&json))
    } else {
        table::write(&report, &mut out)
    };
    written.map_err(|error| Failure::output(&error))?;
    if report.agree { Ok(()) } else { Err(Failure::Problems) }
}

/// Returns the sources of the arguments and of the lists that they name, each once.
fn sources(arguments: &StatusArguments) -> Result<Vec<String>, Failure> {
    let mut sources: Vec<String> = Vec::new();
    for source in &arguments.sources {
        match source.as_str() {
            "-" => sources.extend(listed(Path::new("-"))?),
            source => sources.push(source.to_owned()),
        }
    }
    if let Some(file) = &arguments.file {
        sources.extend(listed(file)?);
    }
    let mut distinct: Vec<String> = Vec::new();
    for source in sources {
        if source.starts_with("https:") {
            return Err(Failure::Usage(format!(
                "{}: https is not supported. Ask the proxy itself over http, such as through kubectl port-forward.",
                printable::printable(&source)
            )));
        }
        if is_unmarked_url(&source) {
            let source = printable::printable(&source);
            return Err(Failure::Usage(format!(
                "{source}: no such file. If it is a URL, begin it with http://."
            )));
        }
        if !distinct.contains(&source) {
            distinct.push(source);
        }
    }
    if distinct.is_empty() {
        return Err(Failure::Usage("the list has no URL. Write one URL on each line.".to_owned()));
    }
    Ok(distinct)
}

/// Returns whether the source is `HOST:PORT…` or has another scheme, and no file has that name.
fn is_unmarked_url(source: &str) -> bool {
    let host = source.split('/').next().unwrap_or_default();
    !source.starts_with("http://") && host.contains(':') && !Path::new(source).exists()
}

fn listed(file: &Path) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    input::open(file)?.read_to_string(&mut text).map_err(|error| Failure::io(file.display(), &error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Reads an answer: a status page, or statistics in one of Envoy's three forms.
fn read(text: &str) -> Result<ProxyStatus, String> {
    if !text.trim_start().starts_with('{') {
        return stats::read(stats::of_text(text));
    }
    let document: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("the answer is not JSON: {error}"))?;
    match document.get("stats") {
        Some(listed) => stats::read(stats::of_json(listed)),
        None => page::read(document),
    }
}
