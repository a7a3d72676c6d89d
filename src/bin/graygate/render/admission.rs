//! `--kind validatingadmissionpolicy`: rules by which an API server refuses a resource of graygate that has a mistake.
//!
//! They come from the table of keys, so an API server and the filter have the same keys. A rule sees less than
//! `graygate check`, as CEL compares nothing with the cluster, and cannot read the JSON in an EnvoyFilter.

mod cel;
mod table;
mod words;

use super::arguments::RenderArguments;
use super::manifest::Manifest;
use crate::failure::Failure;
use crate::tree::{list, object, text};
use cel::{PlaceProblem, Variables};
use table::{Variable, quote};

/// The label by which a resource is not judged, with the value that it then has.
const EXEMPT: (&str, &str) = ("graygate/admission", "off");

/// A condition that must hold, and the message if it does not.
struct Validation {
    expression: String,
    /// An expression for the message.
    says: String,
    /// The message if that expression fails or is too long.
    message: String,
}

/// One rule: a ValidatingAdmissionPolicy with its binding.
struct AdmissionRule {
    name: &'static str,
    about: String,
    group: &'static str,
    resources: &'static [&'static str],
    /// The condition that a resource is graygate's.
    is_graygate: String,
    /// The condition that the resource's policy is off.
    is_off: String,
    variables: Vec<Variable>,
    validations: Vec<Validation>,
}

/// Returns the manifests.
pub fn manifests(arguments: &RenderArguments) -> Vec<Manifest> {
    // As with a policy, shadow tells and changes nothing.
    let actions: &[&str] = match arguments.mode.as_deref() {
        Some("shadow") => &["Warn", "Audit"],
        _ => &["Deny"],
    };
    [plugins(), envoy_filters()].into_iter().flat_map(|rule| rule.manifests(actions)).collect()
}

impl AdmissionRule {
    fn manifests(self, actions: &[&str]) -> [Manifest; 2] {
        let AdmissionRule { name, about, group, resources, is_graygate, is_off, variables, validations } =
            self;
        let metadata = || {
            let labels = object([("app.kubernetes.io/name", text("graygate"))]);
            object([("name", text(name)), ("labels", labels)])
        };
        let texts = |words: &[&str]| list(words.iter().map(|word| text(*word)));
        let rules = object([
            ("apiGroups", texts(&[group])),
            ("apiVersions", texts(&["*"])),
            ("operations", texts(&["CREATE", "UPDATE"])),
            ("resources", texts(resources)),
        ]);
        let condition =
            |name: &str, expression: &str| object([("name", text(name)), ("expression", text(expression))]);
        let exempt =
            object([("key", text(EXEMPT.0)), ("operator", text("NotIn")), ("values", texts(&[EXEMPT.1]))]);
        let constraints = object([
            ("resourceRules", list([rules])),
            ("objectSelector", object([("matchExpressions", list([exempt]))])),
        ]);
        let spec = object([
            ("failurePolicy", text("Ignore")),
            ("matchConstraints", constraints),
            (
                "matchConditions",
                list([
                    condition("is-graygate", &is_graygate),
                    condition(
                        "changes-more-than-metadata",
                        "request.operation != 'UPDATE' || object.spec != oldObject.spec",
                    ),
                    condition("is-no-stop", &format!("request.operation != 'UPDATE' || !({is_off})")),
                ]),
            ),
            (
                "variables",
                list(variables.into_iter().map(|Variable { name, expression }| {
                    object([("name", text(name)), ("expression", text(expression))])
                })),
            ),
            (
                "validations",
                list(validations.into_iter().map(|Validation { expression, says, message }| {
                    object([
                        ("expression", text(expression)),
                        ("messageExpression", text(says)),
                        ("message", text(message)),
                    ])
                })),
            ),
        ]);
        let policy = object([
            ("apiVersion", text("admissionregistration.k8s.io/v1")),
            ("kind", text("ValidatingAdmissionPolicy")),
            ("metadata", metadata()),
            ("spec", spec),
        ]);
        let binding = object([
            ("apiVersion", text("admissionregistration.k8s.io/v1")),
            ("kind", text("ValidatingAdmissionPolicyBinding")),
            ("metadata", metadata()),
            ("spec", object([("policyName", text(name)), ("validationActions", texts(actions))])),
        ]);
        let comments = vec![
            about,
            "failurePolicy is Ignore: a rule that fails, such as for a policy at the limit of what CEL may cost, lets the resource pass, and the filter judges it. With Fail, a fault in the rule could keep an operator from mending or stopping graygate.".to_owned(),
            "matchConditions: only resources of graygate are judged. A change of metadata alone is not judged, so finalizers and labels work on resources that are older than the rule. A change to mode: off is not judged either, as it must always be possible to stop.".to_owned(),
            format!("A resource with the label {}: \"{}\" is not judged.", EXEMPT.0, EXEMPT.1),
        ];
        let note = match actions {
            ["Deny"] => {
                "Deny refuses the resource. `render --mode shadow` writes Warn and Audit instead, which let it pass."
            }
            _ => {
                "Warn and Audit let the resource pass. `render` without `--mode shadow` writes Deny, which refuses it."
            }
        };
        [Manifest { comments, object: policy }, Manifest { comments: vec![note.to_owned()], object: binding }]
    }
}

/// A regular expression for the URL of a module that is graygate's, by its file name.
const MODULE: &str = "(^|/)graygate[^/]*$";

/// A regular expression for a digest of zeros alone.
const ZEROS: &str = "^(sha256:)?0*$";

/// Returns the rule for WasmPlugin and TrafficExtension.
fn plugins() -> AdmissionRule {
    let wasm = "(object.kind == 'TrafficExtension' ? dyn(object).spec.wasm : dyn(object).spec)";
    let Variables { tables, problems } = cel::variables();
    let variable =
        |name: &str, expression: &str| Variable { name: name.to_owned(), expression: expression.to_owned() };
    let mut variables = vec![
        variable("wasm", wasm),
        variable("in_wasm", "object.kind == 'TrafficExtension' ? 'spec.wasm.' : 'spec.'"),
        variable("at", "variables.in_wasm + 'pluginConfig'"),
        variable("config", "variables.wasm.?pluginConfig.orValue({})"),
        variable("many", "'policies' in variables.config"),
        variable("policies", "variables.config.?policies.orValue([variables.config])"),
        variable(
            "types",
            "{\n  'object': [dyn(map), dyn(null_type)],\n  'list': [dyn(list), dyn(null_type)],\n  'text': [dyn(string), dyn(null_type)],\n  'flag': [dyn(bool), dyn(null_type)],\n  'number': [dyn(int), dyn(double), dyn(null_type)],\n  'none': [dyn(null_type)],\n  'scalar': [dyn(string), dyn(bool), dyn(int), dyn(double)]\n}",
        ),
        variable("url", "string(variables.wasm.?url.orValue(''))"),
    ];
    variables.extend(tables);
    let mut validations = vec![
        Validation {
            expression: "variables.wasm.?failStrategy.orValue('') in ['FAIL_OPEN', 'FAIL_RELOAD']".to_owned(),
            says: format!(
                "variables.in_wasm + 'failStrategy: ' + (variables.wasm.?failStrategy.orValue('') == '' ? 'missing, which means FAIL_CLOSE' : string(variables.wasm.failStrategy)) + {}",
                quote(FAIL_CLOSE)
            ),
            message: format!("failStrategy{FAIL_CLOSE}"),
        },
        Validation {
            expression: "variables.url.startsWith('file://') || variables.url.contains('@sha256:') || variables.wasm.?sha256.orValue('') != ''".to_owned(),
            says: format!("variables.in_wasm + {}", quote(NO_DIGEST)),
            message: NO_DIGEST.to_owned(),
        },
        Validation {
            expression: format!(
                "!variables.url.matches('@sha256:0+$') && (variables.wasm.?sha256.orValue('') == '' || !string(variables.wasm.sha256).matches('{ZEROS}'))"
            ),
            says: format!("variables.in_wasm + {}", quote(ZERO_DIGEST)),
            message: ZERO_DIGEST.to_owned(),
        },
        Validation {
            expression: "type(variables.wasm.?pluginConfig.orValue(null)) == map".to_owned(),
            says: "variables.in_wasm + 'pluginConfig: missing; add a policy'".to_owned(),
            message: "pluginConfig: missing; add a policy".to_owned(),
        },
    ];
    for PlaceProblem { place, is_wrong, tells } in problems {
        validations.push(Validation {
            expression: format!("!variables.is_wrong_{place}"),
            says: format!("variables.is_wrong_{place} ? variables.wrong_{place} : ''"),
            message: format!(
                "{}: has keys or values that the filter refuses; `graygate check` names all",
                place.replace('_', ".")
            ),
        });
        variables.push(variable(&format!("is_wrong_{place}"), &is_wrong));
        variables.push(variable(&format!("wrong_{place}"), &tells));
    }
    let is_off = format!("{wasm}.?pluginConfig.?mode.orValue('') == 'off'");
    AdmissionRule {
        name: "graygate-plugins",
        about: "Refuses a WasmPlugin or TrafficExtension of graygate with a mistake in it: a misspelt key, a wrong value, an unknown upstream, no failStrategy, no digest. Written by `graygate render --kind validatingadmissionpolicy` from the table of keys that the filter reads by; never edit it by hand. It wants Kubernetes 1.30. A rule does not see all that `graygate check` sees.".to_owned(),
        group: "extensions.istio.io",
        resources: &["wasmplugins", "trafficextensions"],
        is_graygate: format!(
            "has(object.spec) && {wasm}.?pluginName.orValue('') == 'graygate' || has(object.spec) && string({wasm}.?url.orValue('')).matches('{MODULE}')"
        ),
        is_off,
        variables,
        validations,
    }
}

const FAIL_CLOSE: &str = ": while the module cannot be fetched, or its VM has failed, every request would be denied. Use FAIL_OPEN or FAIL_RELOAD.";
const NO_DIGEST: &str = "sha256: missing, so each proxy takes whatever is under the url at the time. Write the digest that `make image` prints, 64 digits from 0 to f.";
const ZERO_DIGEST: &str = "sha256: zeros stand for the digest of your module, which no module has. Write the digest that `make image` prints, 64 digits from 0 to f.";

/// Returns the rule for EnvoyFilters.
fn envoy_filters() -> AdmissionRule {
    let patches = "dyn(object).spec.?configPatches.orValue([])";
    // The filter itself, or a listener of its own with the filter in it.
    let filters = "q.?patch.?value.?typed_config.hasValue() ? [dyn(q.patch.value)] \
        : q.?patch.?value.?filter_chains.orValue([]).size() > 0 && q.patch.value.filter_chains[0].?filters.orValue([]).size() > 0 \
        ? q.patch.value.filter_chains[0].filters[0].?typed_config.?http_filters.orValue([]) : []";
    let config = "f.?typed_config.?config.orValue(f.?typed_config.?value.?config.orValue({}))";
    let module =
        "c.?vm_config.?code.?local.?filename.orValue(c.?vm_config.?code.?remote.?http_uri.?uri.orValue(''))";
    let is_graygate = format!(
        "(c.?root_id.orValue('') == 'graygate' || c.?name.orValue('') == 'graygate' || string({module}).matches('{MODULE}'))"
    );
    let configs = format!(
        "{patches}.filter(q, q.?patch.?operation.orValue('') != 'REMOVE').map(q,\n  ({filters}).map(f, {config}).filter(c, {is_graygate}))"
    );
    let text_of = "c.?configuration.?value.orValue('')";
    let wrong = |name: &str, condition: &str, message: &str| {
        let condition = condition.replace("MERGE", "q.?patch.?operation.orValue('') == 'MERGE'");
        let path = "'spec.configPatches[' + string(PATCHES.indexOf(q)) + '].patch.value: '"
            .replace("PATCHES", patches);
        Variable {
            name: name.to_owned(),
            expression: format!(
                "{patches}.filter(q, q.?patch.?operation.orValue('') != 'REMOVE').map(q,\n  ({filters}).map(f, {config}).filter(c, {is_graygate} && ({condition})).map(c, {path} + {message})\n    .filter(t, t != '').join('; ')\n).filter(t, t != '').join('; ')"
            ),
        }
    };
    let variables = vec![
        wrong(
            "wrong_failure_policy",
            "!(MERGE) && !c.?fail_open.orValue(false) && !(c.?failure_policy.orValue('') in ['FAIL_OPEN', 'FAIL_RELOAD'])",
            &format!(
                "'failure_policy: ' + (c.?failure_policy.orValue('') == '' ? 'missing, which means FAIL_CLOSED' : string(c.failure_policy)) + {}",
                quote(FAIL_CLOSE)
            ),
        ),
        wrong(
            "wrong_digest",
            &format!(
                "c.?vm_config.?code.?remote.hasValue() && string(c.vm_config.code.remote.?sha256.orValue('')).matches('{ZEROS}')"
            ),
            &format!(
                "(c.vm_config.code.remote.?sha256.orValue('') == '' ? {} : {})",
                quote(NO_DIGEST),
                quote(ZERO_DIGEST)
            ),
        ),
        wrong(
            "wrong_configuration",
            &format!("!(MERGE) && (type({text_of}) != string || !{text_of}.matches('^\\\\s*[{{]'))"),
            &quote(
                "configuration.value: not a JSON object. Write the policy as JSON in a google.protobuf.StringValue.",
            ),
        ),
    ];
    let validations = variables
        .iter()
        .map(|Variable { name, .. }| Validation {
            expression: format!("variables.{name} == ''"),
            says: format!("variables.{name}"),
            message: format!(
                "{}: `graygate check --istio` names what is wrong",
                name.trim_start_matches("wrong_")
            ),
        })
        .collect();
    let off = "'\"mode\"\\\\s*:\\\\s*\"off\"'";
    AdmissionRule {
        name: "graygate-envoyfilters",
        about: "Refuses an EnvoyFilter of graygate without a failure_policy, or with a module without a digest. The policy in it is JSON in a string, which CEL cannot read: `graygate check --istio` does.".to_owned(),
        group: "networking.istio.io",
        resources: &["envoyfilters"],
        is_graygate: format!("{configs}.exists(l, l.size() > 0)"),
        is_off: format!("{configs}.exists(l, l.exists(c, string({text_of}).matches({off})))"),
        variables,
        validations,
    }
}

/// Refuses arguments that say something about one policy, as the rules are for all policies.
pub fn validate(arguments: &RenderArguments) -> Result<(), Failure> {
    if !arguments.policies.is_empty() {
        return Err(Failure::Usage(
            "--kind validatingadmissionpolicy: the rules are for all policies; leave the policies out"
                .to_owned(),
        ));
    }
    Ok(())
}
