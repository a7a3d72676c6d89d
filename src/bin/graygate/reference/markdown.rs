//! What all pages of the reference have in common.

/// Returns the beginning of a page.
pub fn head(title: &str, intro: &str) -> String {
    format!(
        "# {title}\n\n<!-- Made from the code by `make reference`. Edit the code, not this page. -->\n\n{intro}"
    )
}

/// Returns a table with these rows. Pipes in a cell are escaped, as they would end it.
pub fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut table = row(&heads.map(str::to_owned));
    table += &format!("|{}\n", "---|".repeat(N));
    for cells in rows {
        table += &row(&cells.map(|cell| cell.replace('|', "\\|")));
    }
    table
}

/// Returns the text as code.
pub fn code(text: &str) -> String {
    format!("`{text}`")
}
