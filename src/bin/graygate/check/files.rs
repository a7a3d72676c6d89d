//! The files that `check` reads: those that the user names, and all YAML and JSON files below a directory.
//!
//! A file in a directory is read only if it is a regular file, as reading a pipe could wait forever. A file that the user
//! names is read whatever it is, as a shell passes the output of a command as a pipe.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::failure::Failure;

/// A file to read.
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// Whether the user names it. Other files need not have a policy.
    pub is_named: bool,
    /// Whether it can be read to its end. A pipe that the user names is read all the same.
    pub is_file: bool,
}

/// Returns the files of a path, in the order of their names. Returns in place of a file or directory that cannot be read why
/// not.
pub fn of(path: &Path) -> Vec<Result<Input, Failure>> {
    if path.as_os_str() == "-" || !path.is_dir() {
        return vec![Ok(Input { path: path.to_owned(), is_named: true, is_file: true })];
    }
    let is_shown =
        |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.');
    let entries = WalkDir::new(path).sort_by_file_name().into_iter().filter_entry(is_shown);
    let read = entries.filter_map(|entry| match entry {
        // A symbolic link to a directory is not followed, as it may lead to one above this one. One to a file is read.
        Ok(entry) if has_extension(entry.path()) && !entry.path().is_dir() => {
            let is_file = entry.path().is_file();
            Some(Ok(Input { path: entry.into_path(), is_named: false, is_file }))
        }
        Ok(_) => None,
        Err(error) => {
            let name = error.path().unwrap_or(path).display().to_string();
            error.io_error().map(|error| Err(Failure::io(name, error)))
        }
    });
    read.collect()
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
