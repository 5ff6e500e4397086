//! What a command hands on: the manifests as they were written, as YAML, as JSON, as patches, or what would be changed.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use json_patch::Patch;
use serde_json::{Value, json};
use similar::TextDiff;

use super::input::Input;
use super::workloads::{Workload, workloads};
use crate::inject::diff::Change;
use crate::manifest::{to_json, to_yaml};

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// YAML; what was YAML keeps its comments, quotes and order
    Yaml,
    /// JSON, one object after another
    Json,
    /// JSON: for each changed object its RFC 6902 patch
    Patch,
}

/// The flags that inject and uninject share.
#[derive(Args, Debug)]
pub(super) struct Output {
    /// How the result is written [default: as the input is, with everything else byte for byte]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Only tell what would be done to each object
    #[arg(long, conflicts_with_all = ["output", "diff"])]
    dry_run: bool,
    /// Show what changes as a unified diff
    #[arg(long, conflicts_with = "output")]
    diff: bool,
}

/// What came of one pod.
pub(super) enum Outcome {
    /// The pod as it is to be.
    Patched(Patch),
    /// It is left alone, and why.
    Left(&'static str),
    /// It cannot be changed: lines for people.
    Refused(Vec<String>),
}

/// Changes every pod by `each` and writes the result; nothing is written where anything is refused.
pub(super) fn transform(
    inputs: &[Input],
    output: &Output,
    word: &str,
    each: impl Fn(&Workload, &Value) -> Outcome,
) -> ExitCode {
    let (mut results, mut told, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        let values = input.manifest.documents.iter().map(|document| {
            let mut value = document.value.clone()?;
            for workload in workloads(&value) {
                let place = format!("{}: {}", input.name, workload.object);
                let Some(pod) = value.pointer_mut(&workload.pointer) else {
                    refused.push(format!("{place}: {}: there is no pod template", workload.path.trim_end_matches('.')));
                    continue;
                };
                match each(&workload, pod) {
                    Outcome::Refused(reasons) => refused.extend(reasons.iter().map(|why| format!("{place}: {why}"))),
                    Outcome::Left(why) => told.push(format!("{place}: {why}")),
                    Outcome::Patched(patch) if patch.0.is_empty() => told.push(format!("{place}: unchanged")),
                    Outcome::Patched(patch) => match json_patch::patch(pod, &patch) {
                        Ok(()) => told.push(format!("{place}: {word}")),
                        Err(error) => refused.push(format!("{place}: {error}")),
                    },
                }
            }
            Some(value)
        });
        results.push(values.collect::<Vec<_>>());
    }
    if !refused.is_empty() {
        refused.iter().for_each(|line| eprintln!("{line}"));
        return ExitCode::FAILURE;
    }
    let text = if output.dry_run {
        told.iter().map(|line| format!("{line}\n")).collect()
    } else if output.diff {
        diff(inputs, &results)
    } else {
        match output.output {
            None => as_they_are(inputs, &results),
            Some(Format::Yaml) => yaml(inputs, &results),
            Some(Format::Json) => results.iter().flatten().flatten().map(to_json).collect(),
            Some(Format::Patch) => patches(inputs, &results),
        }
    };
    write(&text)
}

/// A reader that goes away is no failure of ours, but it did not get everything.
fn write(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

type Results = [Vec<Option<Value>>];

fn written(input: &Input, values: &[Option<Value>]) -> String {
    let written = input.manifest.with(values);
    for index in &written.rewritten {
        let number = index + 1;
        eprintln!("{}: document {number} could not be changed in place; its comments and layout are lost", input.name);
    }
    written.text
}

fn as_they_are(inputs: &[Input], results: &Results) -> String {
    let texts =
        inputs.iter().zip(results).map(|(input, values)| (written(input, values), input.manifest.begins_with_marker()));
    joined(texts)
}

fn yaml(inputs: &[Input], results: &Results) -> String {
    let texts = inputs.iter().zip(results).map(|(input, values)| {
        if input.manifest.is_json() {
            (values.iter().flatten().map(to_yaml).collect::<Vec<_>>().join("---\n"), false)
        } else {
            (written(input, values), input.manifest.begins_with_marker())
        }
    });
    joined(texts)
}

/// Several texts as one stream of documents; a single one stays byte for byte.
fn joined(texts: impl Iterator<Item = (String, bool)>) -> String {
    let mut stream = String::new();
    for (text, marked) in texts {
        if !stream.is_empty() {
            stream.push_str(if stream.ends_with('\n') { "" } else { "\n" });
            stream.push_str(if marked { "" } else { "---\n" });
        }
        stream.push_str(&text);
    }
    stream
}

fn patches(inputs: &[Input], results: &Results) -> String {
    let mut list = Vec::new();
    for (input, values) in inputs.iter().zip(results) {
        for (document, value) in input.manifest.documents.iter().zip(values) {
            let (Some(old), Some(new)) = (&document.value, value) else { continue };
            let patch = Change::between(old, new).into_patch();
            if !patch.0.is_empty() {
                let text = |pointer: &str| old.pointer(pointer).cloned().unwrap_or_default();
                list.push(json!({
                    "file": input.name,
                    "kind": text("/kind"),
                    "namespace": text("/metadata/namespace"),
                    "name": text("/metadata/name"),
                    "patch": patch,
                }));
            }
        }
    }
    to_json(&Value::Array(list))
}

fn diff(inputs: &[Input], results: &Results) -> String {
    let each = inputs.iter().zip(results).map(|(input, values)| {
        let (old, new) = (input.manifest.to_string(), written(input, values));
        TextDiff::from_lines(&old, &new).unified_diff().header(&input.name, &input.name).to_string()
    });
    each.collect()
}
