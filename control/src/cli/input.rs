//! The manifests a command is given: files, folders, standard input.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::manifest::{Limits, Manifest};

/// A manifest and what it is called in messages.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) manifest: Manifest,
}

/// Every manifest, in order; or every file that cannot be used, with its place.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Input>, Vec<String>> {
    let (mut inputs, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    match one(&file) {
                        Ok(input) => inputs.push(input),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(inputs) } else { Err(problems) }
}

/// The file itself, or what is a manifest in a folder (not in folders below), by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(told)? {
        let file = entry.map_err(told)?.path();
        let manifest =
            file.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if manifest && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(format!("{}: there is no .yaml, .yml or .json file in this folder", path.display()));
    }
    Ok(found)
}

fn one(path: &Path) -> Result<Input, String> {
    let limits = Limits::default();
    let (name, bytes) = if path == Path::new("-") {
        ("standard input".to_owned(), bounded(std::io::stdin().lock(), limits.bytes))
    } else {
        (path.display().to_string(), File::open(path).and_then(|file| bounded(file, limits.bytes)))
    };
    let bytes = bytes.map_err(|error| format!("{name}: cannot be read: {error}"))?;
    match Manifest::read(&bytes, &limits) {
        Ok(manifest) => Ok(Input { name, manifest }),
        Err(problem) => Err(format!("{name}:{problem}")),
    }
}

/// Never more than one byte beyond the bound, which is then refused.
fn bounded(from: impl Read, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(bytes as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
