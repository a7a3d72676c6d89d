//! Finds the filter in the configuration of Envoy: in a bootstrap, a listener, a discovery response, a dump, or a patch of
//! Istio. Keys of messages may be in snake_case or lowerCamelCase.

use graygate::policy::document::Node;
use graygate::policy::reader::segment;

use crate::istio::module_source::ModuleSource;
use crate::tree::{get_field, get_field_text, is_field};

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";

/// The configuration of a Wasm filter.
pub struct WasmConfig<'n> {
    /// The path to it.
    pub path: String,
    /// Leads to it from the root: each step is an index among siblings.
    pub steps: Vec<usize>,
    /// The configuration, of which `configuration` is the filter's own part.
    pub node: &'n Node,
}

impl<'n> WasmConfig<'n> {
    /// Finds all Wasm filters in a value at this path.
    pub fn all(node: &'n Node, path: &str) -> Vec<WasmConfig<'n>> {
        let mut found = Vec::new();
        find(node, path, &mut Vec::new(), &mut found);
        found
    }

    /// Returns whether the filter is graygate: by its name, or by that of its module.
    pub fn is_graygate(&self) -> bool {
        let name = |key| get_field_text(self.node, &[key]).unwrap_or_default();
        name("root_id") == "graygate"
            || name("name") == "graygate"
            // As `render --kind envoy` names the plugin of one policy.
            || name("name").starts_with("graygate-")
            || self.module().is_some_and(|module| is_graygate_module(&module.url))
    }

    /// Returns where the proxy gets the module.
    pub fn module(&self) -> Option<ModuleSource> {
        let code = get_field(self.node, &["vm_config", "code"])?;
        let path = format!("{}.vm_config.code", self.path);
        let remote = || {
            Some(ModuleSource {
                url: get_field_text(code, &["remote", "http_uri", "uri"])?.to_owned(),
                path: format!("{path}.remote.http_uri.uri"),
                digest_path: format!("{path}.remote.sha256"),
                digest: get_field(code, &["remote", "sha256"]).cloned(),
            })
        };
        let local = get_field_text(code, &["local", "filename"]).map(|file| ModuleSource {
            url: format!("file://{file}"),
            path: format!("{path}.local.filename"),
            digest_path: String::new(),
            digest: None,
        });
        local.or_else(remote)
    }

    /// Returns the text of the policy.
    ///
    /// # Errors
    ///
    /// Returns why there is none.
    pub fn policy_text(&self) -> Result<&'n str, String> {
        let allowed = "Write the policy as JSON in a string: {\"@type\": type.googleapis.com/google.protobuf.StringValue, value: '{…}'}";
        let Some(configuration) = get_field(self.node, &["configuration"]) else {
            return Err(format!("missing. {allowed}"));
        };
        let kind = get_field_text(configuration, &["@type"]).unwrap_or_default();
        let kind = kind.rsplit('/').next().unwrap_or_default();
        match (kind, get_field(configuration, &["value"])) {
            ("google.protobuf.BytesValue", _) => Err(format!("bytes, which are not read here. {allowed}")),
            (_, Some(Node::Text(text))) => Ok(text),
            ("google.protobuf.Struct", _) => Err(format!(
                "a google.protobuf.Struct, which Envoy passes to the filter as bytes and not as JSON. {allowed}"
            )),
            (_, None)
                if kind.is_empty() && matches!(configuration, Node::Object(fields) if !fields.is_empty()) =>
            {
                Err(format!("an object without @type, which Envoy refuses. {allowed}"))
            }
            (_, None) => Err(format!("has no value. {allowed}")),
            (_, Some(_)) => Err(format!("not a string. {allowed}")),
        }
    }
}

/// Returns whether the module at this URL is graygate, by its file name.
pub fn is_graygate_module(url: &str) -> bool {
    url.rsplit('/').next().is_some_and(|name| name.starts_with("graygate"))
}

/// Returns the values in a value, each with its path.
pub fn children<'n>(node: &'n Node, path: &str) -> Vec<(String, &'n Node)> {
    match node {
        Node::Object(entries) => {
            entries.iter().map(|(key, value)| (format!("{path}{}", segment(path, key)), value)).collect()
        }
        Node::List(list) => {
            list.iter().enumerate().map(|(index, value)| (format!("{path}[{index}]"), value)).collect()
        }
        _ => Vec::new(),
    }
}

fn find<'n>(node: &'n Node, path: &str, steps: &mut Vec<usize>, found: &mut Vec<WasmConfig<'n>>) {
    let is_wasm = |key: &str| get_field_text(node, &[key]).is_some_and(|name| name.ends_with(WASM));
    let inner: &[&str] = if is_wasm("@type") {
        &["config"]
    } else if is_wasm("type_url") {
        &["value", "config"]
    } else {
        &[]
    };
    if inner.is_empty() {
        for (step, (path, value)) in children(node, path).into_iter().enumerate() {
            steps.push(step);
            find(value, &path, steps, found);
            steps.pop();
        }
        return;
    }
    let mut at = (node, path.to_owned(), steps.clone());
    for key in inner {
        let Node::Object(entries) = at.0 else {
            return;
        };
        let Some((step, (name, value))) =
            entries.iter().enumerate().find(|(_, (name, _))| is_field(name, key))
        else {
            return;
        };
        let path = format!("{}{}", at.1, segment(&at.1, name));
        at.2.push(step);
        at = (value, path, at.2);
    }
    let (node, path, steps) = at;
    found.push(WasmConfig { path, steps, node });
}
