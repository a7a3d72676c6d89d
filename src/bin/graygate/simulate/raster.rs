//! Turns a picture into PNG.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Dots per unit of the picture, so that text is sharp on screens with many dots.
const SCALE: f32 = 2.0;

/// The fonts without serifs to look for, in this order. Any other font serves if there is none of them.
const FONTS: [&str; 6] = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Open Sans", "Helvetica", "Arial"];

/// Returns the picture as PNG, with the fonts of this machine.
pub fn png(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = fontdb::Database::new();
    fonts.load_system_fonts();
    png_with(svg, fonts)
}

/// Returns the picture as PNG. Fails if there is no font, as the picture would have no text.
fn png_with(svg: &str, mut fonts: fontdb::Database) -> Result<Vec<u8>, String> {
    let has = |name: &str| {
        let families = [fontdb::Family::Name(name)];
        fonts.query(&fontdb::Query { families: &families, ..fontdb::Query::default() }).is_some()
    };
    let other = || Some(fonts.faces().next()?.families.first()?.0.clone());
    let family = FONTS.iter().find(|name| has(name)).map(|name| (*name).to_owned()).or_else(other);
    let Some(family) = family else {
        return Err(
            "this machine has no font, so the picture would have no text; install one, such as Debian's fonts-dejavu-core, or write an SVG with --svg".to_owned(),
        );
    };
    fonts.set_sans_serif_family(&family);
    let options = Options { font_family: family, fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or("the picture is too large")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).ok_or("the picture is too large")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_font_there_is_no_picture_without_text() {
        let problem =
            png_with("<svg xmlns='http://www.w3.org/2000/svg'/>", fontdb::Database::new()).unwrap_err();
        assert!(problem.contains("no font") && problem.contains("fonts-dejavu-core"), "{problem}");
    }
}
