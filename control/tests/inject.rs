//! `remora inject` and `remora uninject` on manifests in the shape of real charts' output.
//!
//! Each `tests/inject/NAME.yaml` has its result beside it: `NAME.injected`, or `NAME.refused` with what is told. A first line
//! `# flags: …` is the command line. `REMORA_BLESS=1` writes the results anew; read the difference before it is committed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use remora_control::manifest::{Limits, Manifest};

fn remora(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    output
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    inputs.sort();
    inputs
}

/// `inject` with the flags of the first line.
fn command(text: &str) -> Vec<&str> {
    let flags = text.lines().next().and_then(|line| line.strip_prefix("# flags: ")).unwrap_or_default();
    ["inject"].into_iter().chain(flags.split_whitespace()).collect()
}

/// What stays the same from one version to the next.
fn timeless(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

fn values(text: &[u8]) -> Vec<Option<serde_json::Value>> {
    let manifest = Manifest::read(text, &Limits::default()).unwrap();
    manifest.documents.into_iter().map(|document| document.value).collect()
}

/// Those whose text does not come back byte for byte, but whose values do: the reason is what is lost.
const VALUES_ONLY: [(&str, &str); 2] = [
    ("merge-keys", "what is merged in cannot be edited in place"),
    ("named-probe-ports", "the quotes around a port's name"),
];

#[test]
fn goldens() {
    let bless = std::env::var_os("REMORA_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let output = remora(&command(&text), text.as_bytes());
        let (ending, result) = match output.status.code() {
            Some(0) => ("injected", timeless(&output.stdout)),
            Some(1) => ("refused", timeless(&output.stderr)),
            other => panic!("{}: {other:?}", path.display()),
        };
        if ending == "refused" {
            assert!(output.stdout.is_empty(), "{}: refused, but something was written", path.display());
        }
        let golden = path.with_extension(ending);
        if bless {
            let stale = path.with_extension(if ending == "injected" { "refused" } else { "injected" });
            drop(std::fs::remove_file(stale));
            std::fs::write(&golden, &result).unwrap();
        } else if std::fs::read_to_string(&golden).ok().as_ref() != Some(&result) {
            wrong.push(format!("{}: not what came out:\n{result}", golden.display()));
        }
    }
    assert!(inputs().len() >= 40 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn twice_is_once_and_out_again_is_the_input() {
    for path in inputs() {
        let (text, name) = (std::fs::read_to_string(&path).unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let injected = remora(&command(&text), text.as_bytes());
        if !injected.status.success() {
            continue;
        }
        let again = remora(&command(&text), &injected.stdout);
        assert_eq!(timeless(&again.stdout), timeless(&injected.stdout), "{name}: injected twice");
        let out = remora(&["uninject"], &injected.stdout);
        assert_eq!(values(&out.stdout), values(text.as_bytes()), "{name}: taken out again");
        let (out, exact) =
            (String::from_utf8(out.stdout).unwrap(), !VALUES_ONLY.iter().any(|(known, _)| *known == name));
        assert_eq!(out == text, exact, "{name}: taken out again:\n{out}");
        let untouched = remora(&["uninject"], text.as_bytes());
        assert_eq!(String::from_utf8(untouched.stdout).unwrap(), text, "{name}: nothing to take out");
    }
}

#[test]
fn an_older_version_is_brought_up_to_date() {
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let injected = remora(&command(&text), text.as_bytes());
        if !injected.status.success() || timeless(&injected.stdout) == text {
            continue;
        }
        let new = String::from_utf8(injected.stdout).unwrap();
        let older = new
            .replace(&format!(":{}", env!("CARGO_PKG_VERSION")), ":0.0.9")
            .replace(&format!("injected: \"{}", env!("CARGO_PKG_VERSION")), "injected: \"0.0.9")
            .replace("remora-metrics", "metrics-of-old")
            .replace("REMORA_LOG", "REMORA_OLD_LOG");
        assert_ne!(older, new, "{}", path.display());
        let updated = remora(&command(&text), older.as_bytes());
        assert_eq!(values(&updated.stdout), values(new.as_bytes()), "{}", path.display());
    }
}

#[test]
fn every_format_says_the_same() {
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let plain = remora(&command(&text), text.as_bytes());
        if !plain.status.success() {
            continue;
        }
        let with = |format: &str| {
            let mut arguments = command(&text);
            arguments.extend(["-o", format]);
            remora(&arguments, text.as_bytes()).stdout
        };
        let something = |text: &[u8]| values(text).into_iter().flatten().collect::<Vec<_>>();
        let expected = something(&plain.stdout);
        assert_eq!(something(&with("yaml")), expected, "{}", path.display());
        let json = with("json");
        assert_eq!(something(&json), expected, "{}", path.display());
        // JSON in, JSON out: the same layout, and back.
        let again = remora(&command(&text), &json);
        assert_eq!(again.stdout, json, "{}", path.display());
        let bare = remora(&["uninject"], &json);
        let mut arguments = command(&text);
        arguments.push("-");
        assert_eq!(something(&remora(&arguments, &bare.stdout).stdout), expected, "{}", path.display());
        // The patches lead there too.
        let patches: Vec<serde_json::Value> = serde_json::from_slice(&with("patch")).unwrap();
        let mut documents: Vec<_> = something(text.as_bytes());
        let mut patches = patches.into_iter();
        for (document, new) in documents.iter_mut().zip(&expected).filter(|(old, new)| old != new) {
            let patch: json_patch::Patch = serde_json::from_value(patches.next().unwrap()["patch"].take()).unwrap();
            json_patch::patch(document, &patch).unwrap();
            assert_eq!(document, new, "{}", path.display());
        }
        assert!(patches.next().is_none());
    }
}

#[test]
fn nothing_is_written_where_anything_is_broken() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n";
    let output = remora(&["inject"], format!("{pod}---\na: 1\n b: 2\n").as_bytes());
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{told}");
    assert!(told.starts_with("standard input:7:"), "{told}");
    assert_eq!(remora(&["inject", "/does/not/exist"], b"").status.code(), Some(1));
    assert_eq!(remora(&["inject", "--mtls", "loose"], b"").status.code(), Some(2));
    assert_eq!(remora(&["inject"], b"").status.code(), Some(0));
}

/// The table in the documentation is made by the code that reads the annotations.
#[test]
fn the_documentation_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/annotations.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table -->\n\n", "\n<!-- end of table -->");
    let start = text.find(begin).unwrap() + begin.len();
    let stop = text.find(end).unwrap();
    let table = remora_control::inject::annotations::markdown();
    if std::env::var_os("REMORA_BLESS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &text[..start], &text[stop..])).unwrap();
    } else {
        assert_eq!(&text[start..stop], table, "REMORA_BLESS=1 writes it anew");
    }
}

/// A small generator: the same values in every run.
struct Dice(u64);

impl Dice {
    fn roll<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        of[(self.0 >> 33) as usize % of.len()]
    }
}

/// The pod without anything that injection may add or change, by names written down here.
fn without_ours(mut pod: serde_json::Value) -> serde_json::Value {
    let ours = |item: &serde_json::Value| item["name"].as_str().unwrap().starts_with("remora-");
    for list in ["containers", "initContainers", "volumes"] {
        if let Some(items) = pod["spec"][list].as_array_mut() {
            items.retain(|item| !ours(item));
            items.iter_mut().for_each(|item| drop(item.as_object_mut().unwrap().remove("readinessProbe")));
        }
        if pod["spec"][list].as_array().is_none_or(Vec::is_empty) {
            pod["spec"].as_object_mut().unwrap().remove(list);
        }
    }
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("remora.dev/injected");
    annotations.remove("kubectl.kubernetes.io/default-container");
    pod
}

/// Whatever the annotations say, only what injection owns differs: the pod without its injection is the pod.
#[test]
fn hostile_annotations_change_only_what_is_ours() {
    use remora_control::inject::{Compat, PodContext, Settings, inject, uninject};
    use serde_json::{Value, json};
    let hostile: [&str; 26] = [
        "",
        " ",
        "*",
        "true",
        "false",
        "1",
        "0",
        "-1",
        "4294967296",
        "80,443",
        "80-70",
        "$(HOME)",
        "$$",
        "\u{0}",
        "\n- x: y",
        "\"}],\"containers\":[",
        "a b",
        "--proxy-uid=0",
        "eth0 -j ACCEPT",
        "{{ .Values.x }}",
        "10.0.0.0/8",
        "::/0",
        "tproxy",
        "strict",
        "info",
        "100m",
    ];
    let names: Vec<String> = remora_control::inject::annotations::names();
    let names: Vec<&str> =
        names.iter().map(String::as_str).chain(["remora.dev/injected", "x/y", "remora.dev/"]).collect();
    let (mut dice, mut injected) = (Dice(7), 0);
    for round in 0..4000 {
        let mut annotations = serde_json::Map::new();
        for _ in 0..3 {
            annotations.insert(dice.roll(&names).to_owned(), json!(dice.roll(&hostile)));
        }
        let marked = annotations.contains_key("remora.dev/injected");
        let pod = json!({
            "metadata": {"name": "p", "annotations": annotations},
            "spec": {"serviceAccountName": "s", "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"path": dice.roll(&hostile), "port": 80}}}]},
        });
        let mut settings = Settings::new("cluster.local".parse().unwrap());
        settings.compat = [None, Some(Compat::Istio), Some(Compat::Linkerd)][round % 3];
        let Ok(patch) = inject(&PodContext::new(&pod), &settings) else { continue };
        let mut with: Value = pod.clone();
        json_patch::patch(&mut with, &patch).unwrap();
        assert!(inject(&PodContext::new(&with), &settings).unwrap().0.is_empty(), "not idempotent: {pod}");
        injected += usize::from(with != pod);
        if marked {
            continue;
        }
        let mut without = with.clone();
        json_patch::patch(&mut without, &uninject(&with)).unwrap();
        assert_eq!(without, pod);
        assert_eq!(without_ours(with), without_ours(pod));
    }
    assert!(injected > 300, "only {injected} pods were injected");
}

#[test]
fn a_dry_run_and_a_diff_write_no_manifest() {
    let pod = b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a}]\n";
    let dry = remora(&["inject", "--dry-run"], pod);
    assert_eq!(String::from_utf8(dry.stdout).unwrap(), "standard input: Pod/a: injected\n");
    let diff = String::from_utf8(remora(&["inject", "--diff"], pod).stdout).unwrap();
    assert!(diff.starts_with("--- standard input") && diff.contains("+  - name: remora-init"), "{diff}");
}

#[test]
fn the_documents_commands_work() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/inject.md")).unwrap();
    let commands: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `remora ")?.split('`').next()).collect();
    assert!(commands.len() >= 5, "{commands:?}");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject/deployment.yaml");
    for command in commands {
        let arguments: Vec<&str> = command
            .split_whitespace()
            .map(|word| if word == "web.yaml" { manifest.to_str().unwrap() } else { word })
            .collect();
        let output = remora(&arguments, b"");
        assert!(output.status.success(), "remora {command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "remora {command} says nothing");
    }
}
