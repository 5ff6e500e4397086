use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ca::Lifetimes;
use crate::ca::fixture::{CATALOG, TestDir, hours, id};

fn ca(directory: &TestDir) -> CaDirectory {
    let lifetimes = Lifetimes { root: hours(2400), intermediate: hours(240) };
    CaDirectory::init(&directory.path().join("ca"), &"example.org".parse().unwrap(), lifetimes).unwrap()
}

#[test]
fn a_token_is_good_once() {
    let (directory, now) = (TestDir::new(), SystemTime::now());
    let ca = ca(&directory);
    let token = ca.make_token(&id(CATALOG), hours(1), now).unwrap();
    assert_eq!(ca.redeem_token(&token, now).unwrap(), id(CATALOG));
    let again = ca.redeem_token(&token, now).unwrap_err();
    assert!(matches!(again, Error::Ca(CaError::UsedToken)), "{again}");
}

#[test]
fn of_many_at_once_one_gets_it() {
    let (directory, now) = (TestDir::new(), SystemTime::now());
    let ca = ca(&directory);
    let token = ca.make_token(&id(CATALOG), hours(1), now).unwrap();
    let redeemed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| ca.redeem_token(&token, now).is_ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&redeemed| redeemed).count()
    });
    assert_eq!(redeemed, 1);
}

#[test]
fn an_expired_token_is_refused_and_gone() {
    let (directory, now) = (TestDir::new(), SystemTime::now());
    let ca = ca(&directory);
    let token = ca.make_token(&id(CATALOG), hours(1), now).unwrap();
    let late = ca.redeem_token(&token, now + hours(2)).unwrap_err();
    assert!(matches!(late, Error::Ca(CaError::ExpiredToken(_))), "{late}");
    assert!(matches!(ca.redeem_token(&token, now), Err(Error::Ca(CaError::UsedToken))), "not even by an older clock");
    ca.make_token(&id(CATALOG), hours(1), now + hours(100)).unwrap();
    let kept = std::fs::read_dir(ca.path().join(TOKEN_DIRECTORY)).unwrap().count();
    assert_eq!(kept, 1, "the old one is forgotten");
}

#[test]
fn what_is_no_token_is_not_known() {
    let (directory, now) = (TestDir::new(), SystemTime::now());
    let ca = ca(&directory);
    let token = ca.make_token(&id(CATALOG), hours(1), now).unwrap();
    let other = format!("{PREFIX}{}", "0".repeat(64));
    for wrong in ["", "../state.json", &token[..token.len() - 1], &format!("{token}0"), &other] {
        let error = ca.redeem_token(wrong, now).unwrap_err();
        assert!(matches!(error, Error::Ca(CaError::UnknownToken)), "{wrong}: {error}");
    }
    assert!(ca.make_token(&id("spiffe://other.org/x"), hours(1), now).is_err());
}

#[test]
fn the_token_itself_is_not_kept() {
    let (directory, now) = (TestDir::new(), SystemTime::now());
    let ca = ca(&directory);
    let token = ca.make_token(&id(CATALOG), hours(1), now).unwrap();
    let tokens = ca.path().join(TOKEN_DIRECTORY);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = std::fs::read_dir(&tokens).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&tokens), mode(&file)), (0o700, 0o600));
    let content = std::fs::read_to_string(&file).unwrap();
    let secret = token.strip_prefix(PREFIX).unwrap();
    assert!(!content.contains(secret) && !file.display().to_string().contains(secret), "{content}");
}
