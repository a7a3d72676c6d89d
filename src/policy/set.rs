//! A document of one policy or of several: `{policies: [{name: …, hosts: …, …}, …], mode: …, onWrongPolicy: …}`.
//!
//! Each policy is read by itself, so one that is wrong leaves the others as they are. The rules for several:
//!
//! - Their names differ.
//! - Only the last one may have no hosts. It takes the requests that are for no other.
//! - Each has a host that no policy before it takes.
//! - `mode` beside `policies` limits the mode of each. One change stops them all.

use super::document::Node;
use super::host_index::HostIndex;
use super::identity::PolicyIdentity;
use super::keys::spec::{Format, Shape};
use super::limits::Totals;
use super::module::ModuleKind;
use super::problem::{Problem, ProblemLog, Problems};
use super::reader::{Fields, Value};
use super::spelling::nearest;
use super::{Mode, OnWrongPolicy, Policy, keys, limit_size, parse, read};
use crate::value::host::{Hosts, MeshPlace};

/// The policies of a valid document.
pub struct PolicySet {
    /// The policies, in document order.
    pub policies: Vec<Policy>,
    /// Whether the document has the form for several policies. It may still have only one.
    pub is_list: bool,
    /// What identifies each of them.
    pub identities: Vec<PolicyIdentity>,
    /// Finds the policy that a request is for, as a position in `policies`.
    pub index: HostIndex,
}

/// A document, as far as it can be read.
pub struct DocumentReading {
    /// What the proxy does if the document has problems.
    pub on_wrong_policy: OnWrongPolicy,
    /// The policies, in document order. If the list itself cannot be read, one entry without a name.
    pub entries: Vec<PolicyEntry>,
    /// Whether the document has the form for several policies.
    pub is_list: bool,
    /// All problems. `None` if the document is valid.
    pub problems: Option<Problems>,
}

/// A policy of a document, as far as it can be read.
pub struct PolicyEntry {
    /// The name, if it can be read.
    pub name: Option<String>,
    /// The policy. `None` if it is wrong.
    pub policy: Option<Policy>,
    /// The text of the policy, as JSON.
    pub text: Vec<u8>,
    /// What identifies the policy.
    pub identity: PolicyIdentity,
    /// The limit of the mode of what is applied. It also holds for the last good document in place of a wrong one, because a
    /// wrong document must not keep an operator from stopping the filter.
    pub mode_limit: Mode,
}

impl PolicySet {
    /// Reads a document of one policy or of several. Does not apply the rollout.
    ///
    /// # Errors
    ///
    /// Returns every problem of the document, in document order.
    ///
    /// # Examples
    ///
    /// ```
    /// use graygate::policy::document::Node;
    /// use graygate::policy::set::PolicySet;
    ///
    /// let document: Node = serde_json::from_str(
    ///     r#"{"policies": [
    ///         {"name": "reviews", "hosts": ["reviews.shop"]},
    ///         {"name": "others", "probes": {"liveness": {"path": "/livez"}}}
    ///     ]}"#,
    /// )?;
    /// let set = PolicySet::from_document(&document)?;
    /// assert_eq!(set.index.find(Some(b"reviews.shop:80")), Some(0));
    /// assert_eq!(set.index.find(Some(b"10.0.0.1:8080")), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_document(document: &Node) -> Result<Self, Problems> {
        limit_size(document.to_json().len())?;
        let reading = DocumentReading::of(document, None);
        match reading.problems {
            Some(problems) => Err(problems),
            None => {
                let entries = reading.entries.into_iter();
                let (policies, identities): (Vec<Policy>, Vec<PolicyIdentity>) =
                    entries.filter_map(|entry| Some((entry.policy?, entry.identity))).unzip();
                let index = HostIndex::new(policies.iter().map(|policy| &policy.hosts));
                Ok(PolicySet { policies, is_list: reading.is_list, identities, index })
            }
        }
    }
}

/// Returns whether the document has the form for several policies, perhaps with a misspelling.
fn is_list(document: &Node) -> bool {
    let is_misspelt = |(key, _): &(String, Node)| nearest(key, &["policies"]).is_some();
    match document {
        Node::Object(fields) => {
            document.field("policies").is_some()
                || document.field("name").is_none() && fields.iter().any(is_misspelt)
        }
        _ => false,
    }
}

/// Returns the documents of the policies in a document of one or of several, each with the path to it.
pub fn documents(document: &Node) -> Vec<(String, &Node)> {
    match document.field("policies") {
        Some(Node::List(items)) => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| (format!("policies[{index}]"), item)).collect()
        }
        _ => vec![(String::new(), document)],
    }
}

impl DocumentReading {
    /// Reads a document in JSON. Applies the rollout for the proxy with this node ID.
    pub fn for_node(text: Vec<u8>, node_id: &[u8]) -> Self {
        let document = match parse(&text) {
            Ok(document) => document,
            Err(problems) => {
                let on_wrong_policy = OnWrongPolicy::Refuse;
                let problems = Some(problems);
                return DocumentReading { on_wrong_policy, entries: Vec::new(), is_list: false, problems };
            }
        };
        let mut reading = Self::of(&document, Some(node_id));
        // A policy by itself keeps the text that the user wrote.
        if let ([entry], false) = (reading.entries.as_mut_slice(), reading.is_list) {
            entry.text = text;
        }
        reading
    }

    /// Refuses the policies of the document that this module cannot serve.
    pub fn limit_to(&mut self, module: ModuleKind) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let missing = entry.policy.as_ref().map(|policy| module.missing(policy)).unwrap_or_default();
            if missing.is_empty() {
                continue;
            }
            let path = if self.is_list { format!("policies[{index}]") } else { String::new() };
            let message = format!(
                "{} acts on the headers of requests alone, and this policy has {}; use {}, or remove {}",
                module.file(),
                missing.join(", "),
                ModuleKind::Full.file(),
                if missing.len() == 1 { "the key" } else { "these keys" },
            );
            entry.policy = None;
            refuse(&mut self.problems, Problem { path, message });
        }
    }

    /// Refuses the whole document for this reason.
    pub fn refuse(&mut self, message: String) {
        self.entries.iter_mut().for_each(|entry| entry.policy = None);
        refuse(&mut self.problems, Problem { path: String::new(), message });
    }

    fn of(document: &Node, node_id: Option<&[u8]>) -> Self {
        let log = ProblemLog::default();
        let proxy = node_id.and_then(MeshPlace::of_node);
        let root = |shape| Value::root(document, &log, shape).for_proxy(proxy.as_ref());
        let is_list = is_list(document);
        let entries = if is_list {
            read_list(&root(Shape::Object(&keys::DOCUMENT)), &log, node_id)
        } else {
            let fields = root(Shape::Object(&keys::POLICY)).object();
            let policy = fields.and_then(|fields| read(&fields, node_id, &mut Totals::default()));
            vec![PolicyEntry::new(document, policy.filter(|_| log.is_part_valid()), Mode::Enforce)]
        };
        let is_complete = entries.iter().all(|entry| entry.policy.is_some());
        DocumentReading {
            on_wrong_policy: OnWrongPolicy::of(document),
            entries,
            is_list,
            problems: log.finish(is_complete.then_some(())).err(),
        }
    }
}

impl PolicyEntry {
    fn new(document: &Node, mut policy: Option<Policy>, limit: Mode) -> Self {
        let mode_limit = match &mut policy {
            Some(policy) => {
                policy.mode = policy.mode.limited_to(limit);
                limit
            }
            None => Mode::of(document).limited_to(limit),
        };
        let identity = PolicyIdentity::of(document, mode_limit);
        PolicyEntry { name: name_of(document), policy, text: Vec::new(), identity, mode_limit }
    }
}

fn refuse(problems: &mut Option<Problems>, problem: Problem) {
    match problems {
        Some(problems) => problems.add(problem),
        None => *problems = Some(Problems::one(problem)),
    }
}

/// Returns the name of the policy with this document, if it can be read.
fn name_of(document: &Node) -> Option<String> {
    let log = ProblemLog::default();
    let name = Value::root(document.field("name")?, &log, Shape::Text(Format::DnsLabel)).text();
    name.map(str::to_owned)
}

/// Reads the policies of a document that has the form for several.
fn read_list(document: &Value<'_>, log: &ProblemLog, node_id: Option<&[u8]>) -> Vec<PolicyEntry> {
    let items = document.object().and_then(|fields| {
        fields.word("onWrongPolicy");
        fields.word("mode");
        fields.get("policies")?.list()
    });
    let mode_limit = Mode::of(document.node());
    let Some(items) = items else {
        let identity = PolicyIdentity::of(document.node(), mode_limit);
        return vec![PolicyEntry { name: None, policy: None, text: Vec::new(), identity, mode_limit }];
    };
    let mut totals = Totals::default();
    let mut entries: Vec<PolicyEntry> = Vec::new();
    let mut taken: Vec<(String, Hosts)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        log.begin_part();
        let policy = item.object().and_then(|fields| {
            fields.contradiction("onWrongPolicy", "not here; write it beside policies, for all of them");
            let policy = read(&fields, node_id, &mut totals)?;
            let next = items.get(index + 1).map(|next| name_of(next.node()));
            let hosts = hosts_of(item.node());
            check_place(&policy, &fields, &hosts, &entries, &taken, next.as_ref());
            if log.is_part_valid() {
                taken.push((policy.name.clone(), hosts));
            }
            Some(policy)
        });
        let policy = policy.filter(|_| log.is_part_valid());
        let mut entry = PolicyEntry::new(item.node(), policy, mode_limit);
        entry.text = item.node().to_json().into_bytes();
        entries.push(entry);
    }
    entries
}

/// Returns the hosts of a policy, by the names that do not depend on the proxy. Whether a document is valid does not
/// either.
fn hosts_of(document: &Node) -> Hosts {
    let mut hosts = Hosts::default();
    if let Some(Node::List(items)) = document.field("hosts") {
        for item in items {
            if let Node::Text(text) = item {
                // What is no host has been reported.
                let _ = hosts.add(text, None);
            }
        }
    }
    hosts
}

/// Refuses a policy that has the name of an earlier one, or that leaves no request for itself or for the `next` one. `taken`
/// are the hosts of the valid policies before it.
fn check_place(
    policy: &Policy,
    fields: &Fields<'_>,
    hosts: &Hosts,
    earlier: &[PolicyEntry],
    taken: &[(String, Hosts)],
    next: Option<&Option<String>>,
) {
    let name = &policy.name;
    if earlier.iter().any(|entry| entry.name.as_ref() == Some(name)) {
        let message =
            format!("a second policy {name:?}; give each a name of its own, as metrics and states go by it");
        return fields.contradiction("name", &message);
    }
    if hosts.are_all() {
        if let Some(next) = next {
            let next = next.as_deref().unwrap_or("?");
            fields.object().problem::<()>(format!(
                "policy {name:?} is for every host, so no request is left for policy {next:?} after it. Add hosts, or move it to the end of the list."
            ));
        }
        return;
    }
    let own = hosts.names().iter().chain(hosts.endings());
    let takers = own.map(|host| taken.iter().find(|(_, taken)| taken.cover(host)));
    let Some(takers) = takers.collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut names: Vec<&str> = takers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(", ");
    let message = format!(
        "policy {name:?} gets no request, as policies before it have all of its hosts: {names}. Add another host, or remove it."
    );
    fields.contradiction("hosts", &message);
}
