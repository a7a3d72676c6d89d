//! Draws a simulation as SVG. Each step is a bar that is divided among the versions.
//!
//! The bands between two bars show the users by the version before and the version after. A pale band is for users who
//! stay, and a strong one for users who move. A hatched one is for users who move gradually, over the time of the step.
//! Under each bar are the numbers of its step. A picture is as wide as a page, and further steps go into a further row.

mod chart;
mod legend;
mod palette;
mod sheet;

use svg::Document;
use svg::node::element::{Definitions, Description, Rectangle, Style, Title};

use super::table::{Simulation, grouped};
use chart::Row;
use sheet::{LEFT, MARGIN, text};

/// The width of a page, in pixels or in sixtieths of an A4 page's height.
const PAGE: f64 = 1_200.0;
/// The least width of a picture, so that a title with a long name fits.
const NARROW: f64 = 820.0;
/// The most steps in a row.
const STEPS: usize = 21;
/// The space for the last bar and the text beside it.
const LAST: f64 = 72.0;
/// The space from one bar to the next, if that fits a page. Few steps have more of it.
const PITCH: f64 = 200.0;

/// The colours of text and background. The last rule holds on dark pages. A renderer that does not know such rules
/// draws the picture for light pages.
const STYLE: &str = "
.graygate text { fill: #1f2328; font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.graygate .paper { fill: #ffffff; }
.graygate .faint { fill: #59636e; }
.graygate .halo { stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round; paint-order: stroke; }
.graygate .line { stroke: #d0d7de; stroke-width: 1px; }
.graygate .on-dark { fill: #ffffff; }
.graygate .on-light { fill: #000000; }
.graygate .bad { fill: #b42318; }
.graygate .bold { font-weight: 600; }
@media (prefers-color-scheme: dark) {
.graygate text { fill: #e6edf3; }
.graygate .paper { fill: #0d1117; }
.graygate .faint { fill: #9198a1; }
.graygate .halo { stroke: #0d1117; }
.graygate .bad { fill: #ff8f85; }
.graygate .line { stroke: #3d444d; }
.graygate .on-dark { fill: #ffffff; }
.graygate .on-light { fill: #000000; }
}
";

/// Draws the steps.
pub fn draw(simulation: &Simulation<'_>) -> Document {
    let count = simulation.steps.len();
    let gaps = count.clamp(2, STEPS) as f64 - 1.0;
    let around = LEFT + LAST + MARGIN;
    let width = (around + PITCH * gaps).clamp(NARROW, PAGE);
    let pitch = ((width - around) / gaps).min(1.5 * PITCH);
    let id = |part: &str| format!("graygate-{}-{part}", simulation.release);
    let sentences: Vec<String> = (0..count).map(|number| simulation.sentence(number)).collect();
    let mut picture = Document::new()
        .set("class", "graygate")
        .set("role", "img")
        .set("aria-labelledby", format!("{} {}", id("title"), id("description")))
        .set("font-size", 12)
        .add(Title::new(title(simulation)).set("id", id("title")))
        .add(Description::new().set("id", id("description")).add(svg::node::Text::new(format!(
            "{} {}",
            [facts(simulation), times(simulation)].join(" ").trim_end(),
            sentences.join(" ")
        ))))
        .add(Style::new(STYLE));
    let used = used_versions(simulation);
    let patterns = used.iter().fold(Definitions::new(), |all, version| palette::add_patterns(all, *version));
    picture = picture
        .add(patterns)
        .add(Rectangle::new().set("class", "paper").set("width", "100%").set("height", "100%"))
        .add(text(MARGIN, 32.0, title(simulation)).set("font-size", 17).set("class", "bold"))
        .add(text(MARGIN, 54.0, facts(simulation)).set("font-size", 13));
    let mut y = 66.0;
    if simulation.has_times() {
        // A line of its own, as a picture of few steps has no room for it beside the facts.
        picture = picture.add(text(MARGIN, 72.0, times(simulation)).set("font-size", 13));
        y += 18.0;
    }
    let is_numbered = used.iter().any(|version| !chart::fits_beside(simulation.name(*version), pitch));
    (picture, y) = legend::add(picture, simulation, &used, is_numbered, width, y);
    // Each row begins with the last step of the row before, so that no move is left out.
    let mut first = 0;
    loop {
        let last = (first + STEPS).min(count);
        let row = Row { simulation, steps: first..last, top: y, pitch, is_numbered };
        (picture, y) = row.add(picture);
        if last >= count {
            break;
        }
        first = last - 1;
    }
    let height = (y + MARGIN).ceil();
    picture.set("viewBox", (0, 0, width.ceil(), height)).set("width", width.ceil()).set("height", height)
}

fn title(simulation: &Simulation<'_>) -> String {
    format!("Release {}: who moves at each step", simulation.release)
}

/// Returns what the whole picture says, in a line.
pub fn facts(simulation: &Simulation<'_>) -> String {
    let users = grouped(simulation.users);
    match simulation.steps.len() {
        0 | 1 => format!("{users} users."),
        _ => format!("{users} users: {}.", simulation.summary()),
    }
}

/// Returns what clock the times are of, or nothing if there are none.
fn times(simulation: &Simulation<'_>) -> String {
    match simulation.has_times() {
        true => format!("Times are UTC{}.", simulation.offset),
        false => String::new(),
    }
}

/// Returns the versions that have users at any step.
fn used_versions(simulation: &Simulation<'_>) -> Vec<usize> {
    let has_users = |version: &usize| {
        simulation.steps.iter().any(|step| step.users.get(*version).is_some_and(|users| *users > 0))
    };
    (0..simulation.names.len()).filter(has_users).collect()
}
