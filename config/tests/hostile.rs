//! Hostile files: whatever the bytes, an answer and no panic; whatever the size, bounded work.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use remora_config::{Environment, Errors, Snapshot, load, parse};

fn compile(text: &[u8]) -> Result<Snapshot, Errors> {
    parse("hostile.yaml", text, &Environment::default())
}

fn refused(text: &str, because: &str) {
    let errors = compile(text.as_bytes()).expect_err("it compiled").to_string();
    assert!(errors.contains(because), "{errors}");
}

/// The goldens, as seeds for mutation.
fn seeds() -> Vec<Vec<u8>> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let files = ["valid", "invalid"].iter().flat_map(|folder| fs::read_dir(goldens.join(folder)).unwrap());
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A small generator (xorshift), so that each run mutates alike.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

/// Changes a few bytes: overwritten, removed, doubled, or replaced by what means something in YAML.
fn mutate(text: &mut Vec<u8>, random: &mut Random) {
    const TOKENS: [&[u8]; 16] =
        [b": ", b"- ", b"\n", b"{", b"}", b"[", b"]", b"\"", b"'", b"#", b"&a ", b"*a", b"|\n", b"0", b"\xff", b"\n  "];
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(12)).min(text.len());
        match random.below(4) {
            0 => drop(text.drain(at..end)),
            1 => {
                let copy = text[at..end].to_vec();
                let to = random.below(text.len() + 1);
                text.splice(to..to, copy);
            }
            2 => drop(text.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            _ => text[at..end].iter_mut().for_each(|byte| *byte = u8::try_from(random.below(128)).unwrap()),
        }
    }
}

#[test]
fn mutated_files_never_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut compiled, mut refused) = (0, 0);
    for seed in seeds() {
        for _ in 0..100 {
            let mut text = seed.clone();
            mutate(&mut text, &mut random);
            match compile(&text) {
                Ok(snapshot) => {
                    assert_references_are_valid(&snapshot);
                    compiled += 1;
                }
                Err(errors) => {
                    assert!(errors.lines().count() > 0);
                    assert!(errors.lines().all(|line| line.starts_with("hostile.yaml") && !line.contains('\n')));
                    refused += 1;
                }
            }
        }
    }
    assert!(compiled > 100 && refused > 1000, "the mutations are lopsided: {compiled} compiled, {refused} refused");
}

/// What a snapshot promises.
fn assert_references_are_valid(snapshot: &Snapshot) {
    for listener in &snapshot.listeners {
        for chain in listener.chains.iter().chain([&listener.default_chain]) {
            let routes = chain.routes.virtual_hosts.iter().flat_map(|host| &host.routes);
            for target in routes.flat_map(|route| &route.clusters) {
                snapshot.cluster(target.cluster);
            }
            chain.tcp.map(|cluster| snapshot.cluster(cluster));
            chain.destination.resolved.map(|host| snapshot.resolved_host(host));
        }
        for chain in &listener.chains {
            let destination = &chain.destination;
            assert!(!destination.ports.is_empty(), "a declared chain takes every port");
        }
    }
}

#[test]
fn a_file_beyond_4_mib_is_refused() {
    refused(&format!("service: s\n#{}\n", "x".repeat(4 << 20)), "larger than 4 MiB");
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a: ", "{? ", "- ", "? ", "\n- "] {
        let text = open.repeat(1_000_000);
        for text in [format!("service: {text}"), format!("service:\n {text}"), text] {
            let text = &text.as_bytes()[..text.len().min(4 << 20)];
            let errors = compile(text).expect_err("it compiled").to_string();
            let refused =
                ["nested deeper than 64 levels", "not valid YAML", "must be a plain word", "more than 250000"];
            assert!(refused.iter().any(|refused| errors.contains(refused)), "{open:?}: {errors}");
        }
    }
}

#[test]
fn very_many_values_are_refused() {
    refused(&format!("service: s\noutbound: [{}]\n", "1,".repeat(1 << 20)), "more than 250000 values");
}

#[test]
fn aliases_cannot_multiply() {
    let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{before}, *a{before}]\n", before = n - 1)).collect();
    refused(&format!("a0: &a0 [x]\n{bomb}"), "aliases");
}

#[test]
fn hosts_and_routes_cannot_multiply() {
    let fallbacks: String = (0..2000).map(|n| format!("    - {{path: /{n}, to: \"a:80\"}}\n")).collect();
    let hosts: String =
        (0..2000).map(|n| format!("    - {{path: /h{n}, hosts: [h{n}.example], to: \"a:80\"}}\n")).collect();
    refused(&format!("service: s\ngateway:\n  listen: 0.0.0.0:80\n  routes:\n{fallbacks}{hosts}"), "100000 routes");
}

/// Each of these is linear; a quadratic step among them would take minutes.
#[test]
fn large_files_take_linear_time() {
    let entries: String = (0..20_000)
        .map(|n| format!("  - {{host: \"h{n}:80\", addresses: [10.{}.{}.0/24]}}\n", n / 250, n % 250))
        .collect();
    let text =
        format!("service: s\noutbound:\n{entries}  - {{host: \"all:80\", addresses: [0.0.0.0/0, 10.0.0.0/8]}}\n");
    let snapshot = compile(text.as_bytes()).expect("it is valid");
    assert_eq!(snapshot.clusters.len(), 20_003);

    let unknown: String = (0..50_000).map(|n| format!("x{n}: 1\n")).collect();
    let errors = compile(unknown.as_bytes()).expect_err("it compiled");
    assert_eq!(errors.lines().count(), 101, "100 problems and the number of the others");

    let same: String = "    - {path: /x, endpoints: [], methods: [A]}\n".repeat(20_000);
    refused(&format!("service: s\ngateway:\n  listen: 0.0.0.0:80\n  routes:\n{same}"), "never matches");

    let name = "n".repeat(2 << 20);
    let endpoints = "x,".repeat(100_000);
    refused(&format!("service: s\nclusters:\n  ? {name}\n  : {{endpoints: [{endpoints}]}}\n"), "is not IP:PORT");
}

#[test]
fn a_message_stays_on_one_short_line() {
    let value = "\\u0000\\r\\n\\e[31m".repeat(1000);
    let errors = compile(format!("service: s\ndrain_timeout: \"{value}\"\n").as_bytes()).expect_err("it compiled");
    let mut lines: Vec<String> = errors.lines().collect();
    assert_eq!(lines.len(), 1);

    // What the YAML parser says of characters that it refuses.
    for odd in (0..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control()) {
        let text = format!("service: s\nworkers: {odd}@\nfoo: `{odd}\n");
        lines.extend(compile(text.as_bytes()).err().iter().flat_map(Errors::lines));
    }

    // The same value in the place of every value of a file that has nearly every field.
    let everything = include_str!("goldens/valid/everything.yaml");
    for (at, _) in everything.match_indices(": ") {
        let (before, after) = everything.split_at(at + 2);
        let end = after.find(['\n', ',', '}', ']']).unwrap();
        let text = format!("{before}\"{value}\"{}", &after[end..]);
        lines.extend(compile(text.as_bytes()).err().iter().flat_map(Errors::lines));
    }
    assert!(lines.len() > 50, "only {} values were refused", lines.len());
    for line in lines {
        assert!(line.len() < 1000 && !line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let errors = load(Path::new("/nonexistent/remora.yaml")).expect_err("it was read").to_string();
    assert!(errors.starts_with("/nonexistent/remora.yaml: cannot be read: No such file"), "{errors}");
    let errors = load(Path::new(env!("CARGO_MANIFEST_DIR"))).expect_err("a folder was read").to_string();
    assert!(errors.contains("cannot be read"), "{errors}");
}
