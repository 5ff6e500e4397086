//! Every file in `goldens/valid` compiles to the snapshot beside it (`.json`); every file in `goldens/invalid` is
//! refused with the lines beside it (`.errors`). `BLESS=1` writes what is compiled now, for a person to review.
//!
//! A comment `# env: OTEL_X=value` in a file sets a variable for it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use remora_config::{Environment, Errors, Snapshot, parse};

/// The YAML files of a folder, with their bytes.
fn files(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn compile(path: &Path, text: &[u8]) -> Result<Snapshot, Errors> {
    let lossy = String::from_utf8_lossy(text);
    let variables = lossy.lines().filter_map(|line| line.strip_prefix("# env: ")?.split_once('='));
    parse(&path.file_name().unwrap().to_string_lossy(), text, &Environment::new(variables))
}

/// Compares with the file at `golden`, or writes it.
fn check(golden: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(golden, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    if expected != found {
        wrong.push(format!("{}\n--- expected\n{expected}--- found\n{found}", golden.display()));
    }
}

#[test]
fn valid_files_compile_to_their_snapshots() {
    let mut wrong = Vec::new();
    let files = files("valid");
    for (path, text) in &files {
        match compile(path, text) {
            Ok(snapshot) => {
                let json = serde_json::to_string_pretty(&snapshot).unwrap() + "\n";
                check(&path.with_extension("json"), &json, &mut wrong);
            }
            Err(errors) => wrong.push(errors.to_string()),
        }
    }
    assert!(wrong.is_empty() && files.len() >= 10, "{} files\n{}", files.len(), wrong.join("\n\n"));
}

#[test]
fn invalid_files_are_refused_with_all_their_errors() {
    let mut wrong = Vec::new();
    let files = files("invalid");
    for (path, text) in &files {
        match compile(path, text) {
            Ok(_) => wrong.push(format!("{} compiled", path.display())),
            Err(errors) => check(&path.with_extension("errors"), &format!("{errors}\n"), &mut wrong),
        }
    }
    assert!(wrong.is_empty() && files.len() >= 30, "{} files\n{}", files.len(), wrong.join("\n\n"));
}
