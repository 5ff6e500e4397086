use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::*;

const ES256: &str = r#"{"kty":"EC","crv":"P-256","kid":"a",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn parsed(keys: &str) -> Result<usize, &'static str> {
    parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).map(|keys| keys.len())
}

#[test]
fn unknown_kinds_are_passed_over_and_secrets_never_taken() {
    let others = r#"{"kty":"XX","kid":"b"},{"kty":"oct","k":"c2VjcmV0","kid":"c"}"#;
    assert_eq!(parsed(&format!("{ES256},{others}")), Ok(1));
    assert!(parsed(others).is_err());
    assert!(parsed("").is_err());
    assert!(parse(b"{").is_err());
    assert!(parsed(&ES256.replace(r#""kid""#, r#""use":"enc","kid""#)).is_err());
    assert!(parsed(&ES256.replace(r#""kid""#, r#""alg":"HS256","kid""#)).is_err());
}

#[tokio::test]
async fn http_is_for_loopback() {
    for url in ["http://example.org/keys", "http://10.0.0.1/keys", "ftp://localhost/keys", "https://"] {
        assert!(JwksSource::new(url, None).await.is_err(), "{url}");
    }
    assert!(is_loopback("127.0.0.1") && is_loopback("[::1]") && is_loopback("localhost"));
    assert!(!is_loopback("localhost.example.org"));
}

/// An issuer that answers once it may, with whichever key it has then.
struct Issuer {
    url: String,
    asked: watch::Receiver<usize>,
    may_answer: Arc<Semaphore>,
    key: Arc<RwLock<String>>,
    _serving: tokio::task::JoinSet<()>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (may_answer, key) = (Arc::new(Semaphore::new(0)), Arc::new(RwLock::new(ES256.to_owned())));
        let (count, asked) = watch::channel(0);
        let mut serving = tokio::task::JoinSet::new();
        let (may, keys) = (Arc::clone(&may_answer), Arc::clone(&key));
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                count.send_modify(|count| *count += 1);
                may.acquire().await.unwrap().forget();
                let body = format!(r#"{{"keys":[{}]}}"#, keys.read().unwrap());
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        Self { url, asked, may_answer, key, _serving: serving }
    }

    async fn source(&self) -> JwksSource {
        self.may_answer.add_permits(1);
        let source = JwksSource::new(&self.url, None).await.unwrap();
        assert!(source.find(Some("a")).is_some());
        // As if long ago.
        *source.remote.as_ref().unwrap().asked() = Asked::default();
        source
    }
}

#[tokio::test]
async fn a_known_key_waits_for_nobody() {
    let mut issuer = Issuer::start().await;
    let source = issuer.source().await;
    *issuer.key.write().unwrap() = ES256.replace(r#""kid":"a""#, r#""kid":"b""#);
    for _ in 0..3 {
        // The issuer is silent for now.
        let known = tokio::time::timeout(TIMEOUT / 2, source.key(Some("a"))).await.expect("at once");
        assert!(known.is_ok());
    }
    issuer.asked.wait_for(|asked| *asked == 2).await.unwrap();
    issuer.may_answer.add_permits(1);
    assert!(source.key(Some("b")).await.is_ok(), "what was asked for in the background");
    assert_eq!(source.key(Some("a")).await.err().unwrap().reason, Reason::UnknownKey, "withdrawn");
    assert_eq!(*issuer.asked.borrow(), 2);
}

#[tokio::test]
async fn of_unknown_keys_one_question_is_made() {
    let mut issuer = Issuer::start().await;
    let source = Arc::new(issuer.source().await);
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..20 {
        let source = Arc::clone(&source);
        asking.spawn(async move { source.key(Some(&format!("unknown-{n}"))).await.err().unwrap().reason });
    }
    issuer.asked.wait_for(|asked| *asked == 2).await.unwrap();
    issuer.may_answer.add_permits(1);
    while let Some(reason) = asking.join_next().await {
        assert_eq!(reason.unwrap(), Reason::UnknownKey);
    }
    assert_eq!(*issuer.asked.borrow(), 2);
}

#[tokio::test]
async fn of_an_issuer_that_fails_nobody_waits_twice() {
    let issuer = Issuer::start().await;
    let source = issuer.source().await;
    // Closed: whoever asks is refused.
    drop(issuer);
    for _ in 0..2 {
        let refused = source.key(Some("unknown")).await.err().unwrap();
        assert_eq!(refused.reason, Reason::ReviewerUnavailable);
    }
    let asked = *source.remote.as_ref().unwrap().asked();
    assert!(asked.tried.is_some() && asked.answered.is_none());
}
