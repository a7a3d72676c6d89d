//! `graygate check` prints all problems of the policies in files and directories.

mod files;
mod github;
mod json;
pub mod report;
mod sarif;
pub mod severity;
pub mod text;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::failure::{Failure, print_error, print_line};
use crate::found::WANTED;
use crate::istio;
use crate::istio::module_source::Allowed;
use crate::progress::Progress;
use crate::source::{Source, display_name};
use files::Input;
use report::{CheckedFile, Report};

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate check policy.yaml
  graygate check . --format github
  graygate check extension-policy.yaml http-route.yaml envoy-proxy.yaml
  graygate check --istio manifests --allow unpinned";

/// The arguments of `check`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArguments {
    /// The files to check: policies, Envoy configurations, Istio manifests, and the resources for Envoy Gateway, which are
    /// checked together; as YAML or JSON; of a directory, all such files in and below it that have a policy; "-" is standard
    /// input
    #[arg(value_name = "FILE", required_unless_present = "istio", conflicts_with = "istio")]
    files: Vec<PathBuf>,
    /// How to print what was found
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", conflicts_with = "istio")]
    format: ReportFormat,
    /// Skip files without a policy also where they are named, as for a directory
    #[arg(long, conflicts_with = "istio")]
    skip_others: bool,
    /// Check these manifests instead, which must be all that is applied together: directories, files, or "-" for
    /// standard input
    #[arg(long, value_name = "PATH", num_args = 1..)]
    istio: Vec<PathBuf>,
    /// The root namespace of the mesh
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "istio-system",
        requires = "istio",
        conflicts_with = "files"
    )]
    root_namespace: String,
    /// Let this pass, which is a problem otherwise; may be repeated
    #[arg(long, value_enum, value_name = "WHAT", requires = "istio")]
    allow: Vec<Allowed>,
}

/// How a report is printed. The comments are the text of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// Lines for people, with an excerpt of the file on a terminal
    Text,
    /// An object with files, problems and their count
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Workflow commands of GitHub Actions
    Github,
}

/// Checks the files in the arguments, or the manifests.
pub fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    if !arguments.istio.is_empty() {
        return istio::set::check(&arguments.istio, &arguments.root_namespace, &arguments.allow);
    }
    let (mut report, mut failures) = check_files(&arguments.files, arguments.skip_others)?;
    let read = report.files.len();
    report.files.retain(|file| file.is_relevant || !file.findings.is_empty());
    let is_empty = report.files.iter().all(|file| !file.is_relevant);
    if is_empty && failures.is_empty() && !arguments.skip_others {
        report.files.push(nothing_found(&arguments.files, read));
    }
    print(&report, arguments.format)?;
    let Some(last) = failures.pop() else {
        return if report.errors() > 0 { Err(Failure::Problems) } else { Ok(()) };
    };
    for failure in failures {
        failure.report();
    }
    Err(last)
}

/// Checks the files. Goes on after a file that cannot be read, and returns why it cannot.
fn check_files(paths: &[PathBuf], skip_others: bool) -> Result<(Report, Vec<Failure>), Failure> {
    let mut report = Report::default();
    let mut failures = Vec::new();
    let inputs: Vec<_> = paths.iter().flat_map(|path| files::of(path)).collect();
    let mut progress = Progress::of_long("files", inputs.len() as u64);
    for input in inputs {
        if let Ok(Input { path, is_file: false, .. }) = &input {
            report.files.push(CheckedFile::not_read(display_name(path)));
            progress.advance();
            continue;
        }
        let read = input.and_then(|input| Ok((Source::read(&input.path)?, input.is_named && !skip_others)));
        match read {
            Ok(((source, problem), is_named)) => {
                report.files.push(CheckedFile::among_others(source, problem, is_named).0);
            }
            Err(failure @ Failure::Io(_)) => failures.push(failure),
            Err(failure) => return Err(failure),
        }
        progress.advance();
    }
    report.check_gateway();
    report.note_manifests();
    Ok((report, failures))
}

fn print(report: &Report, format: ReportFormat) -> Result<(), Failure> {
    let unwritable = |error: serde_json::Error| Failure::output(&error.into());
    match format {
        ReportFormat::Text => {
            for file in &report.files {
                for policy in &file.policies {
                    print_line(&format!(
                        "{}: policy {}: no problems: {}, number {}, module {}",
                        file.name, policy.name, policy.summary, policy.number, policy.module
                    ))?;
                }
            }
            text::print_findings(report);
            Ok(())
        }
        ReportFormat::Json => print_line(&json::write(report).map_err(unwritable)?),
        ReportFormat::Sarif => print_line(&sarif::write(report).map_err(unwritable)?),
        ReportFormat::Github => {
            for command in github::write(report) {
                print_line(&command)?;
            }
            if report.errors() > 0 {
                print_error(&report.count_line());
            }
            Ok(())
        }
    }
}

/// Returns the problem that there is no policy in any of the files.
fn nothing_found(paths: &[PathBuf], files: usize) -> CheckedFile {
    let names: Vec<String> = paths.iter().map(|path| display_name(path)).collect();
    let read = match files {
        0 => "no file that ends with .yaml, .yml or .json".to_owned(),
        files => format!("no policy in {files} file{}", if files == 1 { "" } else { "s" }),
    };
    CheckedFile::without_policy(names.join(", "), format!("{read}. {WANTED}"))
}
