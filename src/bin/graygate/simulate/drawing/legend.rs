//! Which colour is which version, and what pale, strong and hatched bands mean.

use std::time::Duration;

use svg::Document;
use svg::node::element::Rectangle;

use super::chart::{PALE, STRONG};
use super::palette;
use super::sheet::{MARGIN, text, text_width};
use crate::simulate::table::Simulation;

const LINE: f64 = 20.0;
/// The space for a square, its number and the gap to the next entry.
const SQUARE: f64 = 64.0;

/// Adds the legend below `y`. Versions have numbers if names do not fit beside the bars. Returns the picture and where the legend ends.
pub fn add(
    picture: Document,
    simulation: &Simulation<'_>,
    used: &[usize],
    is_numbered: bool,
    width: f64,
    y: f64,
) -> (Document, f64) {
    let longest = used.iter().map(|version| text_width(simulation.name(*version), 12.0)).fold(0.0, f64::max);
    let columns = ((width - 2.0 * MARGIN) / (longest + SQUARE)).floor().max(1.0) as usize;
    let column = (width - 2.0 * MARGIN) / columns.max(1) as f64;
    let column = column.min(longest + SQUARE);
    let lines = used.len().div_ceil(columns);
    let mut picture = picture;
    for (position, version) in used.iter().enumerate() {
        // From top to bottom, then the next column.
        let x = MARGIN + column * (position / lines.max(1)) as f64;
        let y = y + LINE * (position % lines.max(1)) as f64;
        let name = simulation.name(*version);
        let entry = if is_numbered { format!("{}: {name}", version + 1) } else { name.to_owned() };
        picture = picture.add(square(x, y, palette::fill(*version))).add(text(x + 24.0, y + 12.0, entry));
    }
    let end = y + LINE * lines as f64;
    add_bands(picture, simulation, width, end + 4.0)
}

/// Adds what the bands mean, in the colour of the first version.
fn add_bands(picture: Document, simulation: &Simulation<'_>, width: f64, y: f64) -> (Document, f64) {
    if simulation.steps.len() < 2 {
        return (picture, y);
    }
    let mut entries = vec![
        (palette::fill(0), PALE, "pale: users who stay"),
        (palette::fill(0), STRONG, "strong: users who move, in the colour of the version that they leave"),
    ];
    if simulation.steps.iter().any(|step| step.over > Duration::ZERO) {
        entries.push((palette::hatch(0), 1.0, "hatched: they move gradually"));
    }
    let mut picture = picture;
    let (mut x, mut y) = (MARGIN, y);
    for (fill, opacity, words) in entries {
        if x + 24.0 + text_width(words, 12.0) > width - MARGIN {
            x = MARGIN;
            y += LINE;
        }
        picture = picture
            .add(square(x, y, fill).set("fill-opacity", opacity))
            .add(text(x + 24.0, y + 12.0, words.to_owned()).set("class", "faint"));
        x += text_width(words, 11.0) + 40.0;
    }
    (picture, y + LINE)
}

fn square(x: f64, y: f64, fill: String) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y + 1.0)
        .set("width", 16)
        .set("height", 14)
        .set("rx", 2)
        .set("fill", fill)
}
