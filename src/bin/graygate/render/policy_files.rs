//! The policies that `render` puts into plugins, from one file or from several.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::set::{self, PolicySet};

use super::arguments::RenderArguments;
use crate::document;
use crate::failure::Failure;
use crate::policy_argument::unknown;
use crate::source::display_name;
use crate::tree::{self, get_text, list, object};

/// The policies of all files, in the order of the files.
pub struct PolicyFiles {
    /// The policies.
    pub policies: Vec<PolicyFile>,
    /// Whether a plugin has the form for several policies.
    pub is_list: bool,
    /// What a proxy does with a wrong document.
    pub on_wrong_policy: &'static str,
    /// Whether a file says so.
    pub is_chosen: bool,
}

/// A policy and its file.
pub struct PolicyFile {
    /// The file.
    pub file: String,
    /// The document of the policy, without what is about the whole document.
    pub document: Node,
    /// The policy that the document compiles to.
    pub policy: Policy,
}

/// Reads the files. Returns the problems of the policies inside, each with its file.
pub fn read(arguments: &RenderArguments) -> Result<Result<PolicyFiles, Vec<String>>, Failure> {
    let mut problems = Vec::new();
    let mut sources =
        PolicyFiles { policies: Vec::new(), is_list: false, on_wrong_policy: "lastGood", is_chosen: false };
    let mut choices: Vec<(String, String)> = Vec::new();
    for path in &arguments.policies {
        let file = display_name(path);
        let document = match document::read(path)? {
            Ok(document) => arguments.overridden(document),
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        match PolicySet::from_document(&document).map(|set| (document, set)) {
            Ok((document, set)) => {
                sources.is_list |= set.is_list;
                let choice = get_text(&document, &["onWrongPolicy"]);
                choices.extend(choice.map(|choice| (file.clone(), choice.to_owned())));
                let documents = set::documents(&document).into_iter().map(|(_, document)| document.clone());
                for (mut document, policy) in documents.zip(set.policies) {
                    tree::remove(&mut document, "onWrongPolicy");
                    sources.policies.push(PolicyFile { file: file.clone(), document, policy });
                }
            }
            Err(found) => problems.extend(found.iter().map(|problem| format!("{file}: {problem}"))),
        }
    }
    if let Some(name) = arguments.policy_name.as_ref().filter(|_| problems.is_empty()) {
        let names: Vec<&str> = sources.policies.iter().map(|source| source.policy.name.as_str()).collect();
        if !names.contains(&name.as_str()) {
            return Err(unknown("--policy-name", name, "policy", &names));
        }
        sources.policies.retain(|source| source.policy.name == *name);
        sources.is_list = false;
    }
    sources.is_list |= sources.policies.len() > 1;
    if let Some((file, choice)) = choices.first() {
        sources.is_chosen = true;
        sources.on_wrong_policy = match choice.as_str() {
            "refuse" => "refuse",
            _ => "lastGood",
        };
        if let Some((other, other_choice)) = choices.iter().find(|(_, other)| other != choice) {
            problems.push(format!("{other}: onWrongPolicy: {other_choice:?}, and {choice:?} in {file}. Write the same value in all files, because they make one document."));
        }
    }
    problems.extend(sources.conflicts());
    if problems.is_empty() && sources.is_list {
        problems.extend(sources.sums());
    }
    Ok(if problems.is_empty() { Ok(sources) } else { Err(problems) })
}

impl PolicyFiles {
    /// Returns the problems of policies that take each other's names or requests.
    fn conflicts(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, PolicyFile { file, policy, .. }) in self.policies.iter().enumerate() {
            let name = &policy.name;
            if policy.hosts.are_all()
                && let Some(next) = self.policies.get(index + 1)
            {
                problems.push(format!("{file}: policy {name:?} applies to every host, so no request reaches policy {:?} of {}. Add hosts, or name the file last.", next.policy.name, next.file));
            }
            for earlier in self.policies.iter().take(index).filter(|earlier| earlier.file != *file) {
                let other = &earlier.file;
                if earlier.policy.name == *name {
                    problems.push(format!("{file}: name: {name:?} is also the name of the policy in {other}. Choose another name, because metrics and state are kept by name."));
                }
                let mut hosts = policy.hosts.names().iter().chain(policy.hosts.endings());
                if let Some(host) = hosts.find(|host| earlier.policy.hosts.cover(host)) {
                    let wildcard = if host.starts_with('.') { "*" } else { "" };
                    problems.push(format!("{file}: hosts: requests for {wildcard}{host} are for policy {:?} of {other}, which comes first. Name each host in one file, and a host before a wildcard that includes it.", earlier.policy.name));
                }
            }
        }
        problems
    }

    /// Returns the problems that only the policies together have, such as too many upstreams.
    fn sums(&self) -> Vec<String> {
        let documents = self.policies.iter().map(|source| source.document.clone());
        let document = object([("policies", list(documents))]);
        let problems = PolicySet::from_document(&document).err();
        let found = problems.iter().flat_map(|problems| problems.iter());
        found.map(|problem| format!("{}: {problem}", self.files())).collect()
    }

    /// Lists the files.
    pub fn files(&self) -> String {
        let mut files: Vec<&str> = self.policies.iter().map(|source| source.file.as_str()).collect();
        files.dedup();
        files.join(", ")
    }
}
