//! Paths that a rule must not be talked out of, over HTTP/1 and over HTTP/2.

use crate::bed::Bed;
use crate::frames::{Outcome, get};
use crate::h1_framing::refused;

/// What comes of a path over HTTP/1 and over HTTP/2: the status.
fn statuses(bed: &Bed, path: &str) -> [u16; 2] {
    let answer = bed.answer_to(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
    let mut h2 = bed.h2();
    let id = h2.ask(&get(path));
    let Outcome::Answer(status) = h2.outcome(id) else { panic!("{path}: no answer over HTTP/2") };
    [answer.split(' ').nth(1).unwrap().parse().unwrap(), status]
}

pub(crate) fn disguised(bed: &Bed) {
    for path in [
        "/a/../admin",
        "/public/../admin",
        "/%2e%2e/admin",
        "/public/%2e%2e/admin",
        "/public/%2E./admin",
        "//admin",
        "//admin/x",
        "/./admin",
        "/%61dmin",
        "/admin%2fx",
        "/%2fadmin",
        "/a%2f..%2fadmin",
        "/%5cadmin",
        "/\\admin",
        "/public\\..\\admin",
        "/admin\\x",
        "/admin;x",
        "/admin;x=1/y",
        "/..;x=1/admin",
        "/admin%23x",
        "/ADMIN",
    ] {
        // The rule does not take it for its own, and the origin sees what the rule saw.
        assert_eq!(statuses(bed, path), [200, 200], "{path}");
        let seen = bed.origin.seen("/");
        assert!(seen.len() == 2 && seen.iter().all(|seen| seen.path() == path), "{path}: {seen:?}");
        bed.origin.forget();
    }
    for path in ["/admin", "/admin/", "/admin/x", "/admin?x", "/admin/../public", "/admin//"] {
        assert_eq!(statuses(bed, path), [503, 503], "{path}");
    }
    // A fragment is none of a request's: HTTP/1 refuses it, and of HTTP/2 rules see what is left of the path, as the origin does.
    refused(bed, &["400"], &[b"GET /admin#x HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /#/admin HTTP/1.1\r\nhost: a\r\n\r\n"]);
    for (path, left, status) in
        [("/admin#x", "/admin", 503), ("/#/admin", "/", 200), ("/public#/../admin", "/public", 200)]
    {
        let mut h2 = bed.h2();
        let id = h2.ask(&get(path));
        assert_eq!(h2.outcome(id), Outcome::Answer(status), "{path}");
        assert!(bed.origin.seen("/").iter().all(|seen| seen.path() == left), "{path}");
        bed.origin.forget();
    }
}
