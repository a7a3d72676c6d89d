//! Reads the files of a set of manifests.
//!
//! A file in a directory is read only if it is a regular file, as reading a pipe could wait forever. A file that the user
//! names is read whatever it is, as a shell passes the output of a command as a pipe.

use std::path::{Path, PathBuf};

use graygate::policy::document::Node;

use super::findings::Findings;
use super::model::Object;
use crate::failure::Failure;
use crate::source::{LineColumn, Source, TextProblem};
use crate::syntax;
use crate::tree::repeated_keys;

/// A YAML or JSON document.
pub struct SourceDocument {
    /// The file that holds it.
    pub file: String,
    /// The document.
    pub node: Node,
}

/// The documents of a set of manifests.
#[derive(Default)]
pub struct Sources {
    /// The documents, in the order of the paths, and of the names in a directory.
    pub documents: Vec<SourceDocument>,
    /// The number of kustomizations. Each one is a set of its own once it is built.
    pub kustomizations: usize,
}

impl Sources {
    /// Reads a file, standard input, or all YAML and JSON files in and below a directory.
    ///
    /// # Errors
    ///
    /// Returns a [`Failure`] if a path cannot be read.
    pub fn read(&mut self, path: &Path, findings: &mut Findings) -> Result<(), Failure> {
        let failure = |error: std::io::Error| Failure::io(path.display(), &error);
        if !path.is_dir() {
            let (source, problem) = Source::read(path)?;
            self.add(&source, problem, findings);
            return Ok(());
        }
        let entries = std::fs::read_dir(path).map_err(failure)?;
        let mut entries: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(failure)?;
        entries.sort();
        for entry in entries {
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            let extension = entry.extension().and_then(|extension| extension.to_str());
            // A symbolic link may lead to a directory above this one.
            let read = match extension {
                _ if hidden => false,
                _ if entry.is_dir() => !entry.is_symlink(),
                extension => matches!(extension, Some("yaml" | "yml" | "json")),
            };
            if entry.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("kustomization")) {
                self.kustomizations += 1;
            } else if read && entry.metadata().is_ok_and(|data| !data.is_file() && !data.is_dir()) {
                findings.note(format!(
                    "{}: not read, as it is a pipe, a socket or a device; name it by itself to read it: --istio {}",
                    entry.display(),
                    entry.display()
                ));
            } else if read {
                self.read(&entry, findings)?;
            }
        }
        Ok(())
    }

    /// Adds the documents of a file.
    fn add(&mut self, source: &Source, problem: Option<TextProblem>, findings: &mut Findings) {
        let file = &source.name;
        match problem.map_or_else(|| syntax::parse(source), Err) {
            Ok(nodes) => {
                self.documents
                    .extend(nodes.into_iter().map(|(_, node)| SourceDocument { file: file.clone(), node }));
            }
            Err(_) if syntax::is_template(&source.text) => note_template(file, findings),
            Err(problem) => {
                let LineColumn { line, column } = source.place(problem.at);
                findings.problem(format!("{file}:{line}:{column}: {}", problem.message));
            }
        }
    }

    /// Returns the objects in all documents.
    pub fn objects(&self) -> Vec<Object<'_>> {
        self.documents.iter().flat_map(|document| Object::all(&document.node, &document.file)).collect()
    }
}

/// Notes that a file is not a manifest yet.
pub fn note_template(file: &str, findings: &mut Findings) {
    findings.note(format!(
        "{file}: not checked, as it is a template, which is a manifest only when its values are filled in: helm template CHART | graygate check --istio -"
    ));
}

/// Returns whether any string in this value is one that a template of Helm is to fill in, such as `{{ .Values.name }}`.
pub fn is_template(node: &Node) -> bool {
    match node {
        Node::Text(text) => text.split("{{").skip(1).any(|rest| {
            let rest = rest.trim_start_matches(['-', ' ']);
            rest.starts_with(|start: char| start.is_ascii_alphabetic() || ".$".contains(start))
                && rest.contains("}}")
        }),
        Node::List(items) => items.iter().any(is_template),
        Node::Object(fields) => fields.iter().any(|(key, value)| key.contains("{{") || is_template(value)),
        _ => false,
    }
}

/// Reports the keys that an object has twice. The policy's own check reports those in a policy.
pub fn report_repeated_keys(object: &Object<'_>, findings: &mut Findings) {
    for path in repeated_keys(object.node, &|key| key == "pluginConfig") {
        findings.problem(format!(
            "{}: {object}: {path}: the key is there twice, and Kubernetes keeps the last or refuses it. Keep one.",
            object.file
        ));
    }
}
