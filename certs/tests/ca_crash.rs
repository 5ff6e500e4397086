//! `remora-certs` killed at every write, flush, rename, link and removal, one after another, until a run completes.
//!
//! After each kill the directory opens, what was handed out is on record and still trusted, no token works twice, and
//! the same command, given again, succeeds. strace does the killing, on entry to the system call.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // tests, which say what they skip

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use remora_certs::ca::{CaDirectory, CaError, Lifetimes, Phase};
use remora_certs::{Error, PeerRole, Svid, TrustBundle, verify_chain};
use remora_model::{SpiffeId, TrustDomain};

const ID: &str = "spiffe://example.org/ns/shop/sa/catalog";
/// What can change a disk. Names that a kernel lacks are skipped ("?").
const CALLS: [&str; 11] = [
    "write",
    "?pwrite64",
    "fsync",
    "fdatasync",
    "?rename",
    "?renameat",
    "?linkat",
    "?link",
    "?unlink",
    "?mkdir",
    "ftruncate",
];
/// More points than any command has.
const MOST: u32 = 200;
/// Tells the test's own binary to redeem the token in this directory.
const REDEEM: &str = "REMORA_TEST_REDEEM";

/// A directory for one attempt: `ca`, and `held` with a leaf that was handed out.
struct Attempt(PathBuf);

impl Attempt {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("remora-crash-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn copy_of(other: &Self) -> Self {
        let copy = Self::new();
        copy_directory(&other.0, &copy.0);
        copy
    }

    fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    fn open(&self) -> CaDirectory {
        CaDirectory::open(&self.ca()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The command line with CA and OUT put in.
    fn command(&self, line: &str) -> Vec<String> {
        let place = |word: &str| {
            word.replace("CA", self.ca().to_str().unwrap()).replace("OUT", self.0.join("held").to_str().unwrap())
        };
        line.split(' ').map(place).collect()
    }

    fn certs(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_remora-certs")).args(self.command(line)).output().unwrap()
    }

    fn succeed(&self, line: &str) {
        let output = self.certs(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The serial number of the leaf that is held.
    fn held(&self) -> String {
        let held = self.0.join("held");
        Svid::load(&domain(), &held.join("cert.pem"), &held.join("key.pem")).unwrap().serial().to_owned()
    }

    /// What is held is on record and trusted. A kill between the files of a renewal leaves a pair that does not fit,
    /// which nobody takes into use; the renewal is then made again.
    fn check_held(&self) {
        let (held, ca) = (self.0.join("held"), self.open());
        match Svid::load(&domain(), &held.join("cert.pem"), &held.join("key.pem")) {
            Ok(svid) => {
                assert!(ca.issued(svid.serial()).unwrap().is_some(), "handed out and not on record");
                let bundle = self.0.join("bundle.pem");
                std::fs::write(&bundle, ca.bundle_pem()).unwrap();
                let bundle = TrustBundle::load(domain(), &bundle).unwrap().into();
                verify_chain(svid.certificates(), PeerRole::Server, &bundle, &[], SystemTime::now()).unwrap();
            }
            Err(Error::KeyMismatch { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_directory(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn day() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

/// A CA with one leaf handed out, after these commands.
fn prepared(commands: &[&str]) -> Attempt {
    let base = Attempt::new();
    let lifetimes = Lifetimes { root: 10 * day(), intermediate: 5 * day() };
    CaDirectory::init(&base.ca(), &domain(), lifetimes).unwrap();
    base.succeed(ISSUE);
    commands.iter().for_each(|line| base.succeed(line));
    base
}

const ISSUE: &str = "issue --ca CA --id spiffe://example.org/ns/shop/sa/catalog --out OUT";
const START: &str = "rotate root --dir CA --step start";
const STEP_ISSUE: &str = "rotate root --dir CA --step issue";
const STEP_DROP: &str = "rotate root --dir CA --step drop";

fn has_strace() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        println!("SKIPPED: strace is missing, or not allowed to trace");
    }
    works
}

/// Runs `program` under strace, to be killed at the `n`th `call`.
fn killed_at(call: &str, n: u32, program: &mut Command) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
    strace.arg("-e").arg(format!("inject={call}:signal=SIGKILL:when={n}"));
    strace.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        strace.env(name, value.unwrap());
    }
    strace.stdin(Stdio::null()).output().unwrap()
}

/// Kills what `program` makes of a copy of `base` at every point there is, checks after each, and returns how many
/// there were.
fn at_every_point(base: &Attempt, program: impl Fn(&Attempt) -> Command, check: impl Fn(&Attempt, &Output)) -> u32 {
    let mut points = 0;
    for call in CALLS {
        for n in 1.. {
            assert!(n < MOST, "{call} never completes");
            let attempt = Attempt::copy_of(base);
            let output = killed_at(call, n, &mut program(&attempt));
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{call} {n}: {}", String::from_utf8_lossy(&output.stderr));
            check(&attempt, &output);
            points += 1;
        }
    }
    points
}

/// Kills `remora-certs LINE` everywhere; `check` follows what always holds.
fn kill_everywhere(line: &str, base: &Attempt, least: u32, check: impl Fn(&Attempt, &Output)) {
    if !has_strace() {
        return;
    }
    let program = |attempt: &Attempt| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_remora-certs"));
        program.args(attempt.command(line));
        program
    };
    let before = base.0.join("held").exists().then(|| base.held());
    let points = at_every_point(base, program, |attempt, output| {
        if let Some(before) = &before {
            attempt.check_held();
            assert!(attempt.open().issued(before).unwrap().is_some(), "the record lost a leaf");
        }
        check(attempt, output);
        attempt.check_held();
    });
    assert!(points >= least, "only {points} points: strace does not see what this does");
    println!("{line}: killed at {points} points");
}

#[test]
fn init() {
    kill_everywhere("init --dir CA --trust-domain example.org", &Attempt::new(), 20, |attempt, _| {
        match CaDirectory::open(&attempt.ca()) {
            Ok(_) => {}
            Err(Error::Ca(CaError::NoCa(_) | CaError::Corrupt { .. })) => {
                let again = attempt.certs("init --dir CA --trust-domain example.org");
                assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
            }
            // Killed before there was a directory.
            Err(Error::Read { .. }) if !attempt.ca().exists() => {
                attempt.succeed("init --dir CA --trust-domain example.org")
            }
            Err(error) => panic!("{error}"),
        }
        attempt.succeed(ISSUE);
        let left = std::fs::read_dir(attempt.ca()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn issue() {
    let base = prepared(&[]);
    let before = base.held();
    kill_everywhere(ISSUE, &base, 10, |attempt, _| {
        let ca = attempt.open();
        let holders = ca.holders(SystemTime::now()).unwrap();
        if Svid::load(&domain(), &attempt.0.join("held/cert.pem"), &attempt.0.join("held/key.pem"))
            .is_ok_and(|svid| svid.serial() == before)
        {
            assert!(holders.iter().any(|record| record.serial == before), "in use, and said to be replaced");
        }
        attempt.succeed(ISSUE);
        assert_ne!(attempt.held(), before);
    });
}

/// The step was done or was not; if not, it is done now.
fn step(line: &'static str, base: &Attempt, before: Phase, after: Phase) {
    kill_everywhere(line, base, 10, |attempt, _| {
        let phase = attempt.open().state().unwrap().phase;
        if phase == before {
            attempt.succeed(line);
        } else {
            assert_eq!(phase, after);
        }
        let ca = attempt.open();
        assert_eq!(ca.state().unwrap().phase, after);
        assert_eq!(std::fs::read(attempt.ca().join("bundle.pem")).unwrap(), ca.bundle_pem());
        attempt.succeed(ISSUE);
        assert!(ca.issued(&attempt.held()).unwrap().is_some());
    });
}

#[test]
fn rotate_root_start() {
    step(START, &prepared(&[]), Phase::Stable, Phase::Distribute);
}

#[test]
fn rotate_root_issue() {
    step(STEP_ISSUE, &prepared(&[START, ISSUE]), Phase::Distribute, Phase::Issue);
}

#[test]
fn rotate_root_drop() {
    step(STEP_DROP, &prepared(&[START, ISSUE, STEP_ISSUE, ISSUE]), Phase::Issue, Phase::Stable);
}

#[test]
fn rotate_intermediate() {
    kill_everywhere("rotate intermediate --dir CA", &prepared(&[]), 10, |attempt, _| {
        attempt.succeed("rotate intermediate --dir CA");
        attempt.succeed(ISSUE);
    });
}

#[test]
fn revoke() {
    let line = format!("revoke --dir CA --id {ID}");
    kill_everywhere(&line, &prepared(&[]), 10, |attempt, _| {
        attempt.succeed(&line);
        assert!(attempt.open().crl_pem().unwrap().is_some());
        assert_eq!(attempt.open().holders(SystemTime::now()).unwrap(), []);
    });
}

#[test]
fn token() {
    let line = format!("token --dir CA --id {ID}");
    kill_everywhere(&line, &prepared(&[]), 4, |attempt, output| {
        let told = String::from_utf8(output.stdout.clone()).unwrap();
        let again = String::from_utf8(attempt.certs(&line).stdout).unwrap();
        for token in [told.trim_end(), again.trim_end()].into_iter().filter(|token| !token.is_empty()) {
            let (ca, now) = (attempt.open(), SystemTime::now());
            assert_eq!(ca.redeem_token(token, now).unwrap().as_str(), ID);
            assert!(matches!(ca.redeem_token(token, now), Err(Error::Ca(CaError::UsedToken))));
        }
    });
}

#[test]
fn redeeming() {
    // This very test is the program that is killed: no other calls the library alone.
    if let Some(attempt) = std::env::var_os(REDEEM) {
        return redeem(Path::new(&attempt));
    }
    if !has_strace() {
        return;
    }
    let base = prepared(&[]);
    let id: SpiffeId = ID.parse().unwrap();
    let token = base.open().make_token(&id, day(), SystemTime::now()).unwrap();
    std::fs::write(base.0.join("token"), &token).unwrap();
    let program = |attempt: &Attempt| {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["redeeming", "--exact", "--test-threads=1"]).env(REDEEM, &attempt.0);
        program
    };
    let redeemed = AtomicU32::new(0);
    let points = at_every_point(&base, program, |attempt, _| {
        let (ca, now) = (attempt.open(), SystemTime::now());
        // Whoever was killed may have been given the identity: then nobody else is.
        let given = attempt.0.join("given").exists();
        match ca.redeem_token(&token, now) {
            Ok(_) => assert!(!given, "used twice"),
            Err(Error::Ca(CaError::UsedToken)) => {}
            Err(error) => panic!("{error}"),
        }
        redeemed.fetch_add(u32::from(given), Ordering::Relaxed);
        assert!(matches!(ca.redeem_token(&token, now), Err(Error::Ca(CaError::UsedToken))));
    });
    assert!(points >= 3 && redeemed.into_inner() >= 1, "{points} points");
}

/// Uses the token, and says so where the identity is given.
fn redeem(attempt: &Path) {
    let token = std::fs::read_to_string(attempt.join("token")).unwrap();
    let ca = CaDirectory::open(&attempt.join("ca")).unwrap();
    ca.redeem_token(&token, SystemTime::now()).unwrap();
    std::fs::write(attempt.join("given"), "yes").unwrap();
}
