//! Front ends for the proxy's configuration: bytes in, a [`Snapshot`] out, or all the errors with their places.
//!
//! The only crate that reads proxy configuration. `yaml` turns bytes into a bounded tree that knows its lines, `raw`
//! decodes the tree into private types field by field, `compile` fills in defaults, resolves references, sorts routes
//! and is the only maker of a [`Snapshot`]. Nothing here binds a port, opens a certificate or resolves a name.
//! Invariant: input never panics; whatever is wrong is collected, so that one run tells everything.

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use remora_model::Snapshot;

mod compile;
mod decode;
mod environment;
mod errors;
mod raw;
mod suggest;
mod value;
mod yaml;

pub use environment::Environment;
pub use errors::Errors;
pub use suggest::nearest;
pub use value::parse_duration;

use errors::Problems;

/// Reads and compiles the native YAML file at `path`, with the variables of this process ([`Environment`]).
///
/// # Errors
/// The file cannot be read, is larger than 4 MiB, or is not a valid configuration: every problem found, in file order.
pub fn load(path: &Path) -> Result<Snapshot, Errors> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => parse(&name, &text, &Environment::from_process()),
        Err(error) => {
            let mut problems = Problems::default();
            problems.unlocated(format!("cannot be read: {error}"));
            Err(Errors::new(&name, problems))
        }
    }
}

/// Compiles native YAML; `source_name` stands for the file in messages. The process environment is not looked at.
///
/// # Errors
/// The text is not a valid configuration: every problem found, in file order.
pub fn parse(source_name: &str, text: &[u8], env: &Environment) -> Result<Snapshot, Errors> {
    let mut problems = Problems::default();
    let snapshot = yaml::read(text, &mut problems)
        .and_then(|root| raw::Document::decode(&root, &mut problems))
        .and_then(|document| compile::compile(&document, env, &mut problems));
    match snapshot {
        Some(snapshot) if problems.is_empty() => Ok(snapshot),
        _ => Err(Errors::new(source_name, problems)),
    }
}

/// Reads a duration as the configuration writes them (`250ms`, `1s`, `5m`, `1h`, `0`); for command lines.
///
/// # Errors
/// It is none, or longer than a year: a sentence for people.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    value::duration(text).map_err(|complaint| complaint.message)
}

/// The file's bytes, never more than one beyond the limit (the parser refuses those).
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
