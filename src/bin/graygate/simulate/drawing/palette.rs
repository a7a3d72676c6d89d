//! The colour of each version, and the patterns that tell versions with the same colour apart.

use svg::node::element::{Circle, Definitions, Pattern, Rectangle};

/// The palette of Okabe and Ito, which people with colour blindness can tell apart, and a grey.
const COLOURS: [&str; 8] =
    ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8A8F98"];

/// Those on which white text can be read.
const DARK: [&str; 2] = ["#0072B2", "#D55E00"];

pub fn colour(version: usize) -> &'static str {
    COLOURS.get(version % COLOURS.len()).copied().unwrap_or("#888888")
}

/// Returns the class of text on the version's colour.
pub fn text_class(version: usize) -> &'static str {
    if !is_patterned(version) && DARK.contains(&colour(version)) { "on-dark" } else { "on-light" }
}

/// Returns whether the version has stripes or dots, as those after the first eight have. Text on it needs a plate.
pub fn is_patterned(version: usize) -> bool {
    version >= COLOURS.len()
}

/// Returns what to fill the version's parts with.
pub fn fill(version: usize) -> String {
    if is_patterned(version) { format!("url(#version-{version})") } else { colour(version).to_owned() }
}

/// Returns what to fill the band of users with who leave the version gradually.
pub fn hatch(version: usize) -> String {
    format!("url(#ramp-{version})")
}

/// Adds the patterns of a version.
pub fn add_patterns(all: Definitions, version: usize) -> Definitions {
    let pale = square(8, colour(version)).set("fill-opacity", 0.25);
    let line = Rectangle::new().set("width", 4).set("height", 8).set("fill", colour(version));
    let ramp =
        pattern(format!("ramp-{version}"), 8).set("patternTransform", "rotate(45)").add(pale).add(line);
    let all = all.add(ramp);
    if !is_patterned(version) {
        return all;
    }
    let own = pattern(format!("version-{version}"), 6).add(square(6, colour(version)));
    let own = match version / COLOURS.len() % 2 {
        1 => own.set("patternTransform", "rotate(-45)").add(
            Rectangle::new()
                .set("width", 2)
                .set("height", 6)
                .set("fill", "#ffffff")
                .set("fill-opacity", 0.65),
        ),
        _ => own.add(Circle::new().set("cx", 3).set("cy", 3).set("r", 1.4).set("fill", "#ffffff")),
    };
    all.add(own)
}

fn pattern(id: String, size: u32) -> Pattern {
    Pattern::new().set("id", id).set("width", size).set("height", size).set("patternUnits", "userSpaceOnUse")
}

fn square(size: u32, colour: &'static str) -> Rectangle {
    Rectangle::new().set("width", size).set("height", size).set("fill", colour)
}
