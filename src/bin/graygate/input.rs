//! Reads files and standard input.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io::Read;
use std::path::Path;

use crate::failure::Failure;

/// Whether an argument has taken standard input.
static IS_STDIN_TAKEN: AtomicBool = AtomicBool::new(false);

/// Opens a file, or standard input if `file` is `-`.
///
/// # Errors
///
/// Returns a [`Failure`] if the file cannot be opened, or if another argument has taken standard input.
pub fn open(file: &Path) -> Result<Box<dyn Read>, Failure> {
    if file.as_os_str() != "-" {
        let opened = std::fs::File::open(file).map_err(|error| Failure::io(file.display(), &error))?;
        return Ok(Box::new(opened));
    }
    if IS_STDIN_TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Failure::Usage(
            "\"-\" is given twice, and standard input can be read only once. Write one of the inputs to a file and name that file."
                .to_owned(),
        ));
    }
    Ok(Box::new(std::io::stdin()))
}
