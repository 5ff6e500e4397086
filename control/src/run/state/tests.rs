use super::*;

fn record(name: &str, last: u8) -> Record {
    let address = Ipv4Addr::new(10, 0, 0, last);
    Record { name: name.to_owned(), address, ports: [80].into(), id: format!("spiffe://a/{name}"), pid: 7 }
}

fn state(name: &str) -> State {
    let folder = std::env::temp_dir().join(format!("remora-state-{name}-{}", std::process::id()));
    State::open(&folder).unwrap()
}

#[test]
fn a_run_lives_as_long_as_its_record_is_held() {
    let state = state("held");
    let (b, a) = (state.record(&record("b", 3)).unwrap(), state.record(&record("a", 2)).unwrap());
    assert_eq!(state.alive().unwrap(), [record("a", 2), record("b", 3)]);
    drop(b);
    assert_eq!(state.alive().unwrap(), [record("a", 2)]);
    assert!(state.run("b").exists(), "looking removes nothing");
    assert_eq!(state.sweep().unwrap(), [record("a", 2)]);
    assert!(!state.run("b").exists() && state.run("a").exists());
    drop(a);
    assert_eq!(state.sweep().unwrap(), []);
    std::fs::remove_dir_all(state.folder()).unwrap();
}

#[test]
fn those_who_look_are_not_taken_for_the_owner() {
    let state = state("look");
    drop(state.record(&record("a", 2)).unwrap());
    let looking = File::open(state.run("a").join("record.json")).unwrap();
    looking.try_lock_shared().unwrap();
    assert_eq!(state.alive().unwrap(), []);
    std::fs::remove_dir_all(state.folder()).unwrap();
}

#[test]
fn only_root_looks_in() {
    use std::os::unix::fs::PermissionsExt;
    let state = state("mode");
    let mode = state.folder().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::remove_dir_all(state.folder()).unwrap();
}
