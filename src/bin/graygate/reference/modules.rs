//! The page of modules: which keys need which, from the table of keys that need the full one.

use graygate::policy::module::FULL_KEYS;

use super::markdown::{code, head, table};

const INTRO: &str = "\
There are two modules, made from the same source. Both read the same policies, and each serves all of a policy or refuses it.

| module | image | serves |
|---|---|---|
| `graygate-requests.wasm` | `graygate-requests` | policies that act on the headers of requests alone: probes, releases, and gates by checks |
| `graygate.wasm` | `graygate` | every policy |

A request costs less with `graygate-requests.wasm`, as Envoy calls the module once for it. [Cost](../evaluate/cost.md) has the
figures.

You need not choose. `graygate check` ends its line with the module, and `graygate render` replaces `{module}` in `--module` by its
name. A policy that the module at hand cannot serve is refused, by the tool and by the module itself. The message has the key that
needs the other one.

## Keys that need graygate.wasm

";

const DIFFERENCES: &str = "
All other keys are in both modules.

## What else differs in graygate-requests.wasm

- `graygate_misrouted_requests_total` counts only some of the requests that go elsewhere. A request is looked at a millisecond after its
  headers, one at a time. One that has ended by then, such as one without a route, is not seen.
- A gauge of a policy whose plugin is removed keeps its last value until the proxy restarts. Set `mode: off` first.
- Two plugins in one VM need a `config.name` each. By that name, the module tells which policy a request is for. `graygate render`
  and Istio write one. A second document under the same name is refused if none of its policies has a name of the first.
";

/// Returns the page.
pub fn page() -> String {
    let rows = FULL_KEYS.iter().map(|key| {
        let values = if key.values.is_empty() { "any" } else { key.values };
        [code(key.path), values.to_owned(), key.about.to_owned()]
    });
    head("Modules", INTRO)
        + &table(["key", "values that need it", "what the module does for it"], rows)
        + DIFFERENCES
}
