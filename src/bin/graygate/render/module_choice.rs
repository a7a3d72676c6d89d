//! Which module a manifest names: by what its policies need, and by the options.

use graygate::policy::Policy;
use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Problem;

use super::arguments::RenderArguments;
use super::module::{Module, ModuleDigest, NAME};
use super::options::ManifestKind;
use crate::istio::module_source::{ModuleSource, kind_of};

/// An image that does not exist, with a name that says so.
const PLACEHOLDER: &str = concat!("oci://registry.example.com/{module}:", env!("CARGO_PKG_VERSION"));

/// The path of the module in an Envoy without Istio.
const PATH: &str = "/etc/envoy/{module}.wasm";

impl RenderArguments {
    /// Returns the module for the policies of one document. `is_list` is whether the document has the form for several.
    pub fn module_for(&self, policies: &[&Policy], is_list: bool) -> Module {
        let needed = needed(policies);
        let template = self.module.as_deref().unwrap_or(match self.kind {
            ManifestKind::Envoy => PATH,
            _ => PLACEHOLDER,
        });
        let url = template.replace(NAME, needed.name());
        let named = if template.contains(NAME) { Some(needed) } else { kind_of(&url) };
        let kind = named.unwrap_or(needed);
        let about = about(named, policies, is_list);
        let secret = self.pull_secret.clone();
        Module { url, sha256: self.digest_of(kind).map(str::to_owned), secret, kind, about }
    }

    fn digest_of(&self, kind: ModuleKind) -> Option<&str> {
        let fits = |digest: &&ModuleDigest| digest.module.is_none_or(|module| module == kind);
        self.sha256.iter().find(fits).map(|digest| digest.sha256.as_str())
    }

    /// Returns a problem for each key of the policy that the module of `--module` cannot serve.
    pub fn unserved(&self, policy: &Policy) -> Vec<Problem> {
        let Some(url) = self.module.clone().filter(|url| !url.contains(NAME)) else {
            return Vec::new();
        };
        let path = "--module".to_owned();
        ModuleSource { path, url, digest_path: String::new(), digest: None }.unserved(policy)
    }

    /// Returns the problem of the values of `--sha256`. `needed` are the modules that the manifests need.
    pub fn digest_problem(&self, needed: &[ModuleKind]) -> Option<Problem> {
        let problem = |message: &str| Problem { path: "--sha256".to_owned(), message: message.to_owned() };
        let given = |module| self.sha256.iter().filter(|digest| digest.module == module).count();
        let [bare, full, requests] = [None, Some(ModuleKind::Full), Some(ModuleKind::Requests)].map(given);
        let is_chosen = self.module.as_ref().is_none_or(|url| url.contains(NAME));
        let needs_two = needed.iter().any(|one| needed.iter().any(|two| one != two));
        if bare > 1 || full > 1 || requests > 1 {
            Some(problem("given twice for the same module. Remove one"))
        } else if bare > 0 && full + requests > 0 {
            Some(problem(
                "one names its module, and another does not. Write graygate=HEX and graygate-requests=HEX",
            ))
        } else if bare > 0 && is_chosen && needs_two {
            Some(problem(
                "the manifests need two modules, and each has a SHA-256 of its own. Write graygate=HEX and graygate-requests=HEX",
            ))
        } else {
            None
        }
    }
}

/// Returns the module that the policies of one document need.
pub fn needed(policies: &[&Policy]) -> ModuleKind {
    let mut kinds = policies.iter().map(|policy| ModuleKind::of(policy));
    kinds.find(|kind| *kind == ModuleKind::Full).unwrap_or(ModuleKind::Requests)
}

/// Says which module it is and why. `named` is the one that the URL names, if it is known.
fn about(named: Option<ModuleKind>, policies: &[&Policy], is_list: bool) -> String {
    let first_key = policies.iter().enumerate().find_map(|(index, policy)| {
        let key = ModuleKind::Requests.missing(policy).into_iter().next()?;
        Some(if is_list { format!("policies[{index}].{key}") } else { key })
    });
    let full = ModuleKind::Full.file();
    let requests = ModuleKind::Requests.file();
    match (named, first_key) {
        (Some(_), Some(key)) => format!("The module is {full}, because {key} needs it."),
        (None, Some(key)) => format!("The module must be {full}, because {key} needs it."),
        (Some(ModuleKind::Full), None) => {
            format!("The module is {full}. {requests} would do, at a lower cost per request.")
        }
        (Some(ModuleKind::Requests), None) => {
            format!(
                "The module is {requests}. It has all that is needed, at a lower cost per request than {full}."
            )
        }
        (None, None) => format!("The module may be {requests}, which costs less per request than {full}."),
    }
}
