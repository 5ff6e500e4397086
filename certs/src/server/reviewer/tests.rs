use super::*;

#[test]
fn tokens_have_bounds() {
    fn reason(text: &str) -> Result<&str, Reason> {
        bearer(text).map_err(|refused| refused.reason)
    }
    assert_eq!(reason("Bearer abc"), Ok("abc"));
    assert_eq!(reason("bearer  abc "), Ok("abc"));
    for text in ["", "abc", "Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer a\u{e9}"] {
        assert_eq!(reason(text), Err(Reason::TokenMalformed), "{text:?}");
    }
    assert_eq!(reason(&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))), Err(Reason::TokenTooLarge));
    assert!(reason(&format!("Bearer {}", "x".repeat(MAX_TOKEN))).is_ok());
}

#[test]
fn a_token_is_known_by_its_shape() {
    for token in ["a.b.c", "a.b.", "eyJhbGciOiJub25lIn0.e30."] {
        assert!(is_jwt(token), "{token}");
    }
    for token in ["", "a", "a.b", ".b.c", "a..c", "a.b.c.d", "a.b+.c", "remora-join-00"] {
        assert!(!is_jwt(token), "{token}");
    }
}

#[tokio::test]
async fn without_a_reviewer_nobody_is_anybody() {
    let reviewers = Reviewers::default();
    let reason = async |authorization| reviewers.review(authorization, None).await.unwrap_err().reason;
    assert_eq!(reason(None).await, Reason::NoCredentials);
    assert_eq!(reason(Some("Bearer a.b.c")).await, Reason::WrongIssuer);
    assert_eq!(reason(Some("Bearer remora-join-1")).await, Reason::TokenMalformed);
}

#[test]
fn refusals_never_hold_the_token() {
    let secret = "c2VjcmV0";
    for text in [format!("Basic {secret}"), format!("Bearer {secret} {secret}"), secret.to_owned()] {
        let refused = bearer(&text).unwrap_err();
        assert!(!refused.to_string().contains(secret) && !refused.status().message().contains(secret));
    }
}
