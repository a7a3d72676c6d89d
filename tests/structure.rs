//! Rules for the source: layers use only earlier layers, imports of files have no cycles, and type names are unique.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of the library. Each may use only the earlier ones.
const LAYERS: [&str; 9] =
    ["value", "weights", "policy", "readiness", "rollback", "decision", "proxy", "worker", "proxy_wasm"];

/// A file of `src`, without its tests and comments.
struct Source {
    /// The path from the root of the repository, such as `src/policy/gate.rs`.
    path: PathBuf,
    /// The directory of its crate's root.
    root: PathBuf,
    /// The path of its module in that crate.
    module: Vec<String>,
    /// Its lines, with comments, literals and test modules blanked out.
    lines: Vec<String>,
}

/// Reads all files of `src`, except those that hold only tests.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(Path::new("src"), &mut paths);
    paths.sort();
    let sources = paths.into_iter().map(|path| {
        let tool = Path::new("src/bin/graygate");
        let root = if path.starts_with(tool) { tool } else { Path::new("src") };
        let inner = path.strip_prefix(root).unwrap().with_extension("");
        let module: Vec<String> = inner
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .filter(|part| !is_root(part))
            .collect();
        let lines = blanked(&fs::read_to_string(&path).unwrap());
        Source { root: root.to_owned(), module, lines, path }
    });
    sources.filter(|source| !source.module.iter().any(|part| part == "tests")).collect()
}

fn is_root(module: &str) -> bool {
    module == "lib" || module == "main"
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Returns the lines of a file up to its `mod tests`, without comments and the contents of literals.
fn blanked(text: &str) -> Vec<String> {
    let end =
        ["#[cfg(test)]\nmod tests", "#[cfg(test)]\nimpl"].iter().filter_map(|start| text.find(start)).min();
    let (mut code, mut rest) = (String::new(), &text[..end.unwrap_or(text.len())]);
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if next == '"' {
            quoted(rest, '"')
        } else if next == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|character| *character == '\n'));
        rest = &rest[skipped..];
    }
    code.lines().map(str::to_owned).collect()
}

/// Returns the length of the literal at the beginning of the text, with these quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            character if character == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns whether the quote at the beginning of the text opens a character instead of a lifetime.
fn is_character(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    characters.next() == Some('\\') || characters.next() == Some('\'')
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the line and path of each import and of each path in the code that begins with `crate::` or `super::`. Lists
/// in braces are resolved.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let text = source.lines.join("\n");
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (index, _) in text.match_indices(start) {
            let before = text[..index].chars().next_back();
            if before.is_some_and(|character| is_word(character) || character == ':') {
                continue;
            }
            let line = text[..index].matches('\n').count() + 1;
            let mut paths = Vec::new();
            read_path(&text[index..], Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| (line, path)));
        }
    }
    // A parent can name its modules without `self::`.
    for (number, line) in source.lines.iter().enumerate() {
        for (index, _) in line.match_indices("::") {
            let start = line[..index].rfind(|character| !is_word(character)).map_or(0, |start| start + 1);
            if !line[..start].ends_with(':') && start < index {
                let mut path = vec!["self".to_owned()];
                let mut paths = Vec::new();
                read_path(&line[start..], Vec::new(), &mut paths);
                path.extend(paths.into_iter().next().unwrap_or_default());
                found.push((number + 1, path));
            }
        }
    }
    found
}

/// Splits a path such as `a::b::{c, d::e}` into one path for each end. Returns the rest of the text.
fn read_path<'t>(text: &'t str, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'t str {
    let mut text = text.trim_start();
    loop {
        if let Some(list) = text.strip_prefix('{') {
            let mut rest = list;
            loop {
                rest = read_path(rest, path.clone(), paths).trim_start();
                match rest.chars().next() {
                    Some(',') => rest = &rest[1..],
                    Some('}') => return &rest[1..],
                    _ => return rest,
                }
                if let Some(rest) = rest.trim_start().strip_prefix('}') {
                    return rest;
                }
            }
        }
        let end = text.find(|character| !is_word(character)).unwrap_or(text.len());
        path.push(text[..end].to_owned());
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => break,
        }
    }
    paths.push(path);
    text
}

/// The files by their crate and their module's path.
type Files<'s> = BTreeMap<(PathBuf, Vec<String>), &'s Source>;

fn files(sources: &[Source]) -> Files<'_> {
    sources.iter().map(|source| ((source.root.clone(), source.module.clone()), source)).collect()
}

/// Returns the file of the longest module that the path begins with.
fn target<'s>(source: &Source, path: &[String], files: &Files<'s>) -> Option<&'s Source> {
    let mut module = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => source.module.clone(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(module.pop()),
            part => module.push(part.to_owned()),
        }
    }
    let own = source.module.len();
    let least = if path[0] == "self" { own + 1 } else { 0 };
    (least..=module.len())
        .rev()
        .find_map(|length| files.get(&(source.root.clone(), module[..length].to_vec())).copied())
}

#[test]
fn each_layer_uses_only_earlier_layers() {
    let sources = sources();
    let files = files(&sources);
    let layer = |source: &Source| {
        let name = source.module.first().filter(|_| source.root == Path::new("src"))?;
        LAYERS.iter().position(|layer| layer == name)
    };
    let mut violations = Vec::new();
    for source in &sources {
        let Some(own) = layer(source) else {
            continue;
        };
        for (line, path) in paths(source) {
            let used = target(source, &path, &files).and_then(layer);
            if let Some(other) = used.filter(|other| *other > own) {
                let (path, own, other) = (source.path.display(), LAYERS[own], LAYERS[other]);
                violations.push(format!("{path}:{line}: {own} must not use {other}, which is a later layer"));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_module_of_the_library_is_in_a_layer() {
    let sources = sources();
    let modules = sources.iter().filter(|source| source.root == Path::new("src"));
    let modules: BTreeSet<&String> = modules.filter_map(|source| source.module.first()).collect();
    let unlisted: Vec<_> = modules.into_iter().filter(|module| !LAYERS.contains(&module.as_str())).collect();
    assert!(unlisted.is_empty(), "not in LAYERS: {unlisted:?}; add them in their order");
}

#[test]
fn files_do_not_import_each_other_in_a_cycle() {
    let sources = sources();
    let files = files(&sources);
    let mut uses: BTreeMap<&PathBuf, BTreeMap<&PathBuf, usize>> = BTreeMap::new();
    for source in &sources {
        for (line, path) in paths(source) {
            let used = target(source, &path, &files).filter(|used| used.path != source.path);
            if let Some(used) = used {
                uses.entry(&source.path).or_default().entry(&used.path).or_insert(line);
            }
        }
    }
    let mut cycles = Vec::new();
    let mut done = BTreeSet::new();
    for file in uses.keys() {
        find_cycle(file, &uses, &mut Vec::new(), &mut done, &mut cycles);
    }
    assert!(cycles.is_empty(), "\n{}", cycles.join("\n"));
}

/// Follows the imports of a file and records each cycle.
fn find_cycle<'s>(
    file: &'s PathBuf,
    uses: &BTreeMap<&'s PathBuf, BTreeMap<&'s PathBuf, usize>>,
    path: &mut Vec<&'s PathBuf>,
    done: &mut BTreeSet<&'s PathBuf>,
    cycles: &mut Vec<String>,
) {
    if let Some(start) = path.iter().position(|known| *known == file) {
        let round: Vec<_> = path[start..].iter().copied().chain([file]).collect();
        let steps = round.windows(2).map(|step| {
            format!("{}:{} uses {}", step[0].display(), uses[step[0]][step[1]], step[1].display())
        });
        cycles.push(format!("a cycle: {}", steps.collect::<Vec<_>>().join("; ")));
        return;
    }
    if done.contains(file) {
        return;
    }
    path.push(file);
    for next in uses.get(file).into_iter().flat_map(|next| next.keys()) {
        find_cycle(next, uses, path, done, cycles);
    }
    path.pop();
    done.insert(file);
}

#[test]
fn type_names_are_unique() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in &sources() {
        for (number, line) in source.lines.iter().enumerate() {
            // An associated type is indented. Its name comes from its trait.
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let kind = words.next();
            let is_type = matches!(kind, Some("struct" | "enum" | "trait" | "union"))
                || kind == Some("type") && !line.starts_with(' ');
            if let Some(name) = words.next().filter(|_| is_type) {
                let name: String = name.chars().take_while(|character| is_word(*character)).collect();
                let location = format!("{}:{}", source.path.display(), number + 1);
                defined.entry(name).or_default().push(location);
            }
        }
    }
    let repeated = defined.iter().filter(|(_, locations)| locations.len() > 1);
    let repeated: Vec<_> =
        repeated.map(|(name, locations)| format!("{name}: {}", locations.join(", "))).collect();
    assert!(repeated.is_empty(), "defined more than once:\n{}", repeated.join("\n"));
}
