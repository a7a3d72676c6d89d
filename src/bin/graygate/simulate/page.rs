//! A page with the picture and the table of a simulation. It needs no other file.

use super::drawing::facts;
use super::table::{Simulation, grouped, percent, share};
use super::times::short;

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1f2328; --back: #ffffff; --line: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --line: #30363d; } }
body { margin: 2rem auto; max-width: 1200px; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; }
figure { margin: 1.5rem 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: right; vertical-align: top; }
th:first-child, td:last-child, th:last-child { text-align: left; }
th, td { white-space: nowrap; }
.scroll { overflow-x: auto; }
";

/// Returns the page. `picture` is the SVG of the simulation.
pub fn page(simulation: &Simulation<'_>, picture: &str) -> String {
    let release = escape(simulation.release);
    let column = |name: &str| format!("<th scope=\"col\">{}</th>", escape(name));
    let names: String = match has_column_each(simulation) {
        true => simulation.names.iter().map(|name| column(name)).collect(),
        false => column("shares"),
    };
    let rows: String = (0..simulation.steps.len()).map(|number| row(simulation, number)).collect();
    let facts = facts(simulation);
    format!(
        "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Release {release}: who moves</title>
<style>{STYLE}</style>
<h1>Release {release}: who moves</h1>
<p>{facts}</p>
<figure>
{picture}
</figure>
<div class=\"scroll\"><table>
<thead><tr><th scope=\"col\">step</th>{names}<th scope=\"col\">over</th><th scope=\"col\">moved</th><th scope=\"col\">had to</th><th scope=\"col\">moved back</th><th scope=\"col\">who</th></tr></thead>
<tbody>
{rows}</tbody>
</table></div>
</html>
"
    )
}

/// Returns whether the table has a column for each version. Many or long names would make it too wide.
fn has_column_each(simulation: &Simulation<'_>) -> bool {
    simulation.names.iter().map(|name| name.len().max(6)).sum::<usize>() <= 60
}

fn row(simulation: &Simulation<'_>, number: usize) -> String {
    let Some(step) = simulation.steps.get(number) else {
        return String::new();
    };
    let shares = step.weights.iter();
    let shares: String = match has_column_each(simulation) {
        true => shares.map(|weight| format!("<td>{}</td>", share(*weight))).collect(),
        false => {
            let of = |(version, weight): (usize, &u32)| {
                (*weight > 0).then(|| format!("{} {}", escape(simulation.name(version)), share(*weight)))
            };
            format!("<td>{}</td>", shares.enumerate().filter_map(of).collect::<Vec<_>>().join("<br>"))
        }
    };
    let over = if step.over.is_zero() { String::new() } else { short(step.over) };
    let when = escape(&simulation.when(number));
    let begin = format!("<tr><th scope=\"row\">{when}</th>{shares}<td>{over}</td>");
    if step.flows.is_empty() {
        return format!("{begin}<td></td><td></td><td></td><td></td></tr>\n");
    }
    let [moved, must] = [step.moved(), step.must_move].map(|users| percent(users, simulation.users));
    let who = escape(&simulation.who(step)).replace(", ", "<br>");
    format!(
        "{begin}<td>{moved}</td><td>{must}</td><td>{}</td><td>{who}</td></tr>\n",
        grouped(step.moved_back)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
