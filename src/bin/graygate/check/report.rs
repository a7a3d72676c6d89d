//! What a check found, file by file.

use std::ops::Range;

use graygate::policy::Policy;
use graygate::policy::identity::PolicyIdentity;
use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Position;
use graygate::policy::set::{self, PolicySet};
use serde::Serialize;

use super::severity::Severity;
use crate::found::{FileContents, FoundPolicy, GatewayObject, Placer, PolicyHolder};
use crate::gateway::set as gateway;
use crate::istio::model::Object;
use crate::marks::steps_of;
use crate::source::{Source, TextProblem};
use crate::{istio, syntax, warning};

/// One finding.
#[derive(Debug)]
pub struct Finding {
    /// Where it is in the text, if it is not about the file as a whole.
    pub range: Option<Range<usize>>,
    /// The path to the value in the policy, or in the file for a problem outside of policies. May be empty.
    pub path: String,
    /// What is wrong, and how to mend it.
    pub message: String,
    /// How much it matters.
    pub severity: Severity,
}

impl Finding {
    fn error(range: Option<Range<usize>>, path: &str, message: String) -> Self {
        Finding { range, path: path.to_owned(), message, severity: Severity::Error }
    }

    /// Returns the path and the message in one line.
    pub fn words(&self) -> String {
        match self.path.as_str() {
            "" => self.message.clone(),
            path => format!("{path}: {}", self.message),
        }
    }
}

/// A policy without problems.
#[derive(Debug, Serialize)]
pub struct ValidPolicy {
    /// The name.
    pub name: String,
    /// What it has, in one line.
    pub summary: String,
    /// The number that a proxy shows while it uses the policy.
    pub number: u64,
    /// The file of the module with the lowest cost that serves it.
    pub module: &'static str,
}

/// A file, and what was found in it.
#[derive(Debug)]
pub struct CheckedFile {
    /// The name of the file in messages.
    pub name: String,
    /// The text, if there is a finding.
    pub source: Option<Source>,
    /// The policies without problems.
    pub policies: Vec<ValidPolicy>,
    /// The findings, in the order of the text.
    pub findings: Vec<Finding>,
    /// Whether the file has something of graygate, or cannot be read.
    pub is_relevant: bool,
    /// Whether a manifest of Istio has a policy.
    has_manifest: bool,
    /// The resources for Envoy Gateway, which are checked together with those of other files.
    gateway: Vec<GatewayObject>,
    /// What the file has instead of a policy, if it must have one and only has resources for Envoy Gateway.
    nothing_found: Option<String>,
}

/// A document of policies with what holds it. It has no policies if they have problems.
type ReadSet = (PolicyHolder, Option<PolicySet>);

impl CheckedFile {
    fn new(name: String) -> Self {
        CheckedFile {
            name,
            source: None,
            policies: Vec::new(),
            findings: Vec::new(),
            is_relevant: true,
            has_manifest: false,
            gateway: Vec::new(),
            nothing_found: None,
        }
    }

    /// Returns a file in a directory that may never end, such as a pipe.
    pub fn not_read(name: String) -> Self {
        let mut checked = CheckedFile { is_relevant: false, ..Self::new(name) };
        checked.note("not read, as it is a pipe, a socket, a device or a broken link. To read a pipe, name it by itself.".to_owned());
        checked
    }

    /// Returns the problem that nothing of what the user gave has a policy.
    pub fn without_policy(name: String, message: String) -> Self {
        let mut checked = Self::new(name);
        checked.findings.push(Finding::error(None, "", message));
        checked
    }

    /// Checks a file by itself. If the user names it, it must have a policy. Returns the policies, too.
    pub fn of(source: Source, problem: Option<TextProblem>, is_named: bool) -> (Self, Vec<ReadSet>) {
        let (mut checked, sets) = Self::among_others(source, problem, is_named);
        checked.require_policy();
        (checked, sets)
    }

    /// Checks a file. Its resources for Envoy Gateway are checked by [`Report::check_gateway`].
    pub fn among_others(
        source: Source,
        problem: Option<TextProblem>,
        is_named: bool,
    ) -> (Self, Vec<ReadSet>) {
        let mut checked = CheckedFile::new(source.name.clone());
        let mut sets = Vec::new();
        match problem.map_or_else(|| syntax::parse(&source), Err) {
            Ok(documents) => {
                let contents = FileContents::of(documents, is_named);
                checked.is_relevant = is_named || !contents.is_empty();
                sets = checked.add(&source, contents, is_named);
            }
            Err(problem) => checked.unreadable(&source, problem, is_named),
        }
        checked.sort();
        if !checked.findings.is_empty() || !checked.gateway.is_empty() {
            checked.source = Some(source);
        }
        (checked, sets)
    }

    /// Sorts the findings by their places in the text.
    fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.range.as_ref().map_or(0, |range| range.start));
    }

    /// Adds the problem of a text that cannot be parsed. In a directory, it may be a file of something else.
    fn unreadable(&mut self, source: &Source, problem: TextProblem, is_named: bool) {
        let is_template = syntax::is_template(&source.text);
        let is_ours =
            ["graygate", "upstreams", "releases", "gates"].iter().any(|word| source.text.contains(word));
        let severity = match (is_named, is_template, is_ours) {
            (true, _, _) | (false, false, true) => Severity::Error,
            (false, true, true) => Severity::Note,
            (false, _, false) => {
                self.is_relevant = false;
                return;
            }
        };
        let range = Some(problem.at..problem.at);
        self.findings.push(Finding { range, path: String::new(), message: problem.message, severity });
    }

    fn add(&mut self, source: &Source, mut contents: FileContents, is_named: bool) -> Vec<ReadSet> {
        let placer = Placer::new(source);
        for problem in &contents.problems {
            let range = placer.holder_range(problem);
            self.findings.push(Finding::error(range, &problem.path, problem.message.clone()));
        }
        for object in &contents.templates {
            self.note(format!("{object}: not checked, as it is a template, which is a manifest only when its values are filled in. Check what it renders: helm template CHART | graygate check -"));
        }
        self.has_manifest = contents.policies.iter().any(|found| found.holder == PolicyHolder::Manifest);
        self.gateway = core::mem::take(&mut contents.gateway);
        if contents.is_empty() && is_named {
            match self.gateway.as_slice() {
                [] => self.findings.push(Finding::error(None, "", contents.nothing_found())),
                _ => self.nothing_found = Some(contents.nothing_found()),
            }
        }
        contents.policies.iter().map(|found| (found.holder, self.add_policy(&placer, found))).collect()
    }

    fn note(&mut self, message: String) {
        self.findings.push(Finding { range: None, path: String::new(), message, severity: Severity::Note });
    }

    fn add_policy(&mut self, placer: &Placer<'_>, found: &FoundPolicy) -> Option<PolicySet> {
        let set = match PolicySet::from_document(&found.node) {
            Ok(set) => set,
            Err(problems) => {
                let (positions, problems): (Vec<_>, Vec<_>) =
                    problems.with_positions().map(|(position, problem)| (position.clone(), problem)).unzip();
                let ranges = placer.ranges(found, &positions);
                self.findings.extend(
                    ranges.into_iter().zip(problems).map(|(range, problem)| {
                        Finding::error(range, &problem.path, problem.message.clone())
                    }),
                );
                return None;
            }
        };
        let prefixes = set::documents(&found.node).into_iter().map(|(prefix, _)| prefix);
        for ((prefix, policy), identity) in prefixes.zip(&set.policies).zip(&set.identities) {
            let unserved = found.module.iter().flat_map(|module| module.unserved(policy));
            let unserved: Vec<_> = unserved.map(|problem| (problem.path, problem.message)).collect();
            let is_served = unserved.is_empty();
            let unserved = unserved.into_iter().map(|words| (words, Severity::Error));
            let warnings = warnings(policy).into_iter().map(|words| (words, Severity::Warning));
            for ((key, message), severity) in unserved.chain(warnings) {
                let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                let position = Position { steps: steps_of(&found.node, &path), is_key: true };
                let range = placer.ranges(found, &[position]).into_iter().next().flatten();
                self.findings.push(Finding { range, path, message, severity });
            }
            if is_served {
                self.policies.push(ValidPolicy {
                    name: policy.name.clone(),
                    summary: policy.summary(),
                    number: PolicyIdentity::number(identity.applied),
                    module: ModuleKind::of(policy).file(),
                });
            }
        }
        Some(set)
    }

    /// Adds the problem that a file must have a policy, unless another file has one with which its resources are checked.
    fn require_policy(&mut self) {
        let message = self.nothing_found.take();
        self.findings.extend(message.map(|message| Finding::error(None, "", message)));
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// Leaves only the errors.
    pub fn without_warnings(mut self) -> Self {
        self.findings.retain(|finding| finding.severity == Severity::Error);
        self
    }
}

/// Returns the warnings about a policy, each with the key that it is about.
fn warnings(policy: &Policy) -> Vec<(String, String)> {
    let hosts = warning::hosts_warning(policy).map(|warning| ("probes".to_owned(), warning.to_owned()));
    let off = istio::direction::off_warning(policy, false);
    let off = off.and_then(|warning| {
        let (key, message) = warning.split_once(": ")?;
        Some((key.to_owned(), message.to_owned()))
    });
    let drain = warning::drain_warnings(policy).into_iter().map(|(key, text)| (key.to_owned(), text));
    hosts.into_iter().chain(off).chain(drain).collect()
}

/// All files of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// The files, in the order in which they were given or found.
    pub files: Vec<CheckedFile>,
}

impl Report {
    /// Checks the resources for Envoy Gateway in all files together.
    pub fn check_gateway(&mut self) {
        let placed = self.files.iter().enumerate().flat_map(|(file, checked)| {
            checked.gateway.iter().enumerate().map(move |(index, object)| (file, index, object))
        });
        let placed: Vec<_> = placed.collect();
        let objects: Vec<Object<'_>> = placed
            .iter()
            .filter_map(|(file, _, found)| {
                Object::all(&found.node, self.files.get(*file).map_or("", |checked| &checked.name)).pop()
            })
            .collect();
        if !objects.iter().any(|object| !gateway::filters(object).is_empty()) {
            self.files.iter_mut().for_each(CheckedFile::require_policy);
            return;
        }
        let found = gateway::check(&objects).into_iter().filter_map(|found| {
            let (file, _, object) = placed.get(found.object)?;
            let source = self.files.get(*file)?.source.as_ref()?;
            let range = Placer::new(source).object_range(object, &found.path);
            let severity = found.severity;
            Some((*file, Finding { range, path: found.path, message: found.message, severity }))
        });
        let found: Vec<_> = found.collect();
        for (file, finding) in found {
            if let Some(checked) = self.files.get_mut(file) {
                checked.findings.push(finding);
                checked.sort();
            }
        }
    }

    /// Adds a note that manifests may have problems together.
    pub fn note_manifests(&mut self) {
        if let Some(file) = self.files.iter_mut().find(|file| file.has_manifest) {
            file.note("only the policies of manifests are checked. How manifests work together is checked by: graygate check --istio PATH…".to_owned());
        }
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.files.iter().map(CheckedFile::errors).sum()
    }

    /// Returns all findings, each with its file.
    pub fn findings(&self) -> impl Iterator<Item = (&CheckedFile, &Finding)> {
        self.files.iter().flat_map(|file| file.findings.iter().map(move |finding| (file, finding)))
    }

    /// Returns the line that ends a report with errors.
    pub fn count_line(&self) -> String {
        let count =
            |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
        let problems = count(self.errors(), "problem");
        match self.files.as_slice() {
            [file] => format!("{}: {problems}", file.name),
            files => {
                let files: Vec<_> = files.iter().filter(|file| file.is_relevant).collect();
                let wrong = files.iter().filter(|file| file.errors() > 0).count();
                format!("{problems} in {wrong} of {}", count(files.len(), "file"))
            }
        }
    }
}
