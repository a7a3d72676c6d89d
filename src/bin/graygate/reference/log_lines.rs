//! The page of log lines.

use graygate::proxy::Level;
use graygate::worker::event::examples::{LogLine, log_lines};

use super::markdown::head;

const INTRO: &str = "\
The filter logs each of these events once for the whole proxy, and nothing for a single request. Envoy writes them at the
level of its logger `wasm`, as `wasm log PLUGIN: LINE`. The proxies of Istio log warnings and errors by default.

The examples are real lines of a policy named `shop`, with an upstream `cart` and a release `web`. A line of a policy in
`mode: shadow` ends with `(mode: shadow)` where nothing of it is carried out.
";

/// Returns the page.
pub fn page() -> String {
    let mut page = head("Log lines", INTRO);
    for LogLine { title, when, remedy, examples } in log_lines() {
        page += &format!("\n## {title}\n\n{when}\n\n```text\n");
        for (level, line) in examples {
            page += &format!("{}: {line}\n", name(level));
        }
        page += "```\n";
        if !remedy.is_empty() {
            page += &format!("\n{remedy}\n");
        }
    }
    page
}

/// Returns the level as Envoy names it.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}
