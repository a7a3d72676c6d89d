//! Draws a simulation as SVG. Each step is a bar that is divided among the versions.
//!
//! The bands between two bars show the users by the version before and the version after. A pale band is for users who
//! stay, and a strong one for users who move.

use std::io;
use std::path::Path;

use svg::Document;
use svg::node::element::path::Data;
use svg::node::element::{Path as Shape, Rectangle, Text, Title};

use super::step::SimulationStep;
use super::table::percent;

/// The width of a bar.
const BAR: f64 = 28.0;
/// The width of the gap between two bars.
const GAP: f64 = 150.0;
/// The height of a bar.
const HEIGHT: f64 = 360.0;
const TOP: f64 = 64.0;
const LEFT: f64 = 40.0;
/// The width of the text beside a bar.
const LABEL: f64 = 64.0;

/// The palette of Okabe and Ito, which people with colour blindness can tell apart.
const COLOURS: [&str; 7] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"];

/// Draws the steps and saves the picture to a file.
pub fn save(file: &Path, release: &str, names: &[&str], steps: &[SimulationStep]) -> io::Result<()> {
    svg::save(file, &draw(release, names, steps))
}

fn draw(release: &str, names: &[&str], steps: &[SimulationStep]) -> Document {
    let width = LEFT * 2.0 + BAR * steps.len() as f64 + GAP * steps.len().saturating_sub(1) as f64;
    let width = (width + LABEL).max(LEFT * 2.0 + 110.0 * names.len() as f64);
    let height = TOP + HEIGHT + 56.0;
    let mut picture = Document::new()
        .set("viewBox", (0, 0, width.ceil(), height))
        .set("width", width.ceil())
        .set("height", height)
        .set("font-family", "system-ui, sans-serif")
        .set("font-size", 12)
        .set("fill", "#1b1b1b")
        .add(Title::new(format!("Users of release {release}, step by step")))
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "#ffffff"))
        .add(text(LEFT, 22.0, format!("Users of {release}, by version")).set("font-size", 16));
    for (index, name) in names.iter().enumerate() {
        let x = LEFT + 110.0 * index as f64;
        let square = Rectangle::new().set("x", x).set("y", 34).set("width", 12).set("height", 12);
        picture =
            picture.add(square.set("fill", colour(index))).add(text(x + 18.0, 44.0, (*name).to_owned()));
    }
    // Draws bands first, so that the bars and their text are on top.
    for ((number, step), before) in steps.iter().enumerate().skip(1).zip(steps) {
        picture = add_bands(picture, x(number - 1) + BAR, x(number), before, step);
    }
    for (number, step) in steps.iter().enumerate() {
        picture = add_bar(picture, x(number), step);
        picture = picture.add(text(x(number), TOP + HEIGHT + 18.0, format!("step {}", number + 1)));
        if !step.flows.is_empty() {
            let all: u64 = step.users.iter().sum();
            let label = format!("{} moved", percent(step.moved(), all));
            picture = picture
                .add(text(x(number) - GAP / 2.0, TOP + HEIGHT + 40.0, label).set("text-anchor", "middle"));
        }
    }
    picture
}

/// Returns the left edge of a step's bar.
fn x(number: usize) -> f64 {
    LEFT + (BAR + GAP) * number as f64
}

fn add_bar(mut picture: Document, x: f64, step: &SimulationStep) -> Document {
    let all = step.users.iter().sum::<u64>().max(1) as f64;
    let mut y = TOP;
    for (version, users) in step.users.iter().enumerate() {
        let part = HEIGHT * *users as f64 / all;
        let rectangle = Rectangle::new().set("x", x).set("y", y).set("width", BAR).set("height", part);
        picture = picture.add(rectangle.set("fill", colour(version)));
        if part >= 14.0 {
            picture = picture.add(text(x + BAR + 6.0, y + part / 2.0 + 4.0, percent(*users, all as u64)));
        }
        y += part;
    }
    picture
}

/// Adds the bands between two bars. The bands at each version are in the order of the versions on the other side.
fn add_bands(
    mut picture: Document,
    left: f64,
    right: f64,
    before: &SimulationStep,
    step: &SimulationStep,
) -> Document {
    let all = step.users.iter().sum::<u64>().max(1) as f64;
    let tops = |users: &[u64]| -> Vec<f64> {
        let mut y = TOP;
        let next = |users: &u64| {
            let top = y;
            y += HEIGHT * *users as f64 / all;
            top
        };
        users.iter().map(next).collect()
    };
    let (mut starts, mut ends) = (tops(&before.users), tops(&step.users));
    for (from, row) in step.flows.iter().enumerate() {
        for (to, users) in row.iter().enumerate().filter(|(_, users)| **users > 0) {
            let (Some(start), Some(end)) = (starts.get_mut(from), ends.get_mut(to)) else {
                continue;
            };
            let part = HEIGHT * *users as f64 / all;
            let middle = (left + right) / 2.0;
            let outline = Data::new()
                .move_to((left, *start))
                .cubic_curve_to((middle, *start, middle, *end, right, *end))
                .line_by((0, part))
                .cubic_curve_to((middle, *end + part, middle, *start + part, left, *start + part))
                .close();
            let opacity = if from == to { 0.18 } else { 0.7 };
            let band = Shape::new().set("d", outline).set("fill", colour(from)).set("fill-opacity", opacity);
            picture = picture.add(band);
            *start += part;
            *end += part;
        }
    }
    picture
}

fn text(x: f64, y: f64, content: String) -> Text {
    Text::new(content).set("x", x).set("y", y)
}

fn colour(version: usize) -> &'static str {
    COLOURS.get(version % COLOURS.len()).copied().unwrap_or("#888888")
}
