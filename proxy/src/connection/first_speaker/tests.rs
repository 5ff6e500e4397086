use tokio::io::duplex;
use tokio::time::Instant;

use super::*;

const IDLE: Duration = Duration::from_secs(4000);
const BOUNDS: (Duration, Duration) = (Duration::from_secs(10), IDLE);

#[test]
fn settings_are_told_from_greetings() {
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    for end in 0..=settings.len() {
        assert!(begins_settings(&settings[..end]), "{end}");
    }
    let mysql = b"\x4a\0\0\0\x0a8.0.36";
    let others =
        [&mysql[..], b"220 mail ESMTP\r\n", b"\0\0\x07\x04\0\0\0\0\0", b"\0\0\x06\x04\x01\0\0\0\0", b"\0\0\x06\0"];
    assert!(others.iter().all(|greeting| !begins_settings(greeting)));
}

#[tokio::test(start_paused = true)]
async fn every_half_word_is_shown_as_soon_as_the_first_however_rare() {
    let ((mut client, downstream), (upstream, mut server)) = (duplex(64), duplex(64));
    let (mut io, mut upstream, mut shown) = (Replay::new(downstream), Replay::new(upstream), 0);
    let peers = async {
        for pause in [0, 1, 3600, 3600] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let said = Instant::now();
            client.write_all(b"\r\n").await.unwrap();
            server.read_exact(&mut [0; 2]).await.unwrap();
            assert_eq!(said.elapsed(), HALF_A_WORD, "after {pause} s");
        }
        Instant::now()
    };
    let speaking = async { (speaks_first(&mut io, &mut upstream, &mut shown, BOUNDS).await, Instant::now()) };
    let ((spoken, ended), last) = tokio::join!(speaking, peers);
    assert!(matches!(spoken, Err(Error::IdleTimeout(IDLE))), "{spoken:?}");
    assert_eq!((shown, ended - last), (8, IDLE));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_server_that_has_said_its_settings_is_heard() {
    let said = [&b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff"].concat();
    let ((_client, downstream), (upstream, mut server)) = (duplex(64), duplex(64));
    let (mut io, mut upstream, mut shown) = (Replay::new(downstream), Replay::new(upstream), 0);
    let mut speaking = Box::pin(speaks_first(&mut io, &mut upstream, &mut shown, BOUNDS));
    server.write_all(&said).await.unwrap();
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, &mut speaking).await.expect_err("what it says decides nothing");
    drop(server);
    let spoken = tokio::time::timeout(hour, &mut speaking).await.expect("its end does");
    assert_eq!(spoken.unwrap(), Inspected::Tcp);
    drop(speaking);
    assert_eq!(&upstream.prefix[..], said, "and the client hears what it said");
}

#[tokio::test(start_paused = true)]
async fn half_words_shown_in_part_go_on_where_they_were_cut_short() {
    let ((mut client, downstream), (upstream, mut server)) = (duplex(64), duplex(2));
    let (mut io, mut upstream, mut shown) = (Replay::new(downstream), Replay::new(upstream), 0);
    client.write_all(b"GET").await.unwrap();
    let second = Duration::from_secs(1);
    let cut = tokio::time::timeout(second, speaks_first(&mut io, &mut upstream, &mut shown, BOUNDS)).await;
    assert!(cut.is_err() && shown == 2, "{shown} shown");
    let mut heard = [0; 3];
    let (again, _) = tokio::join!(
        tokio::time::timeout(second, speaks_first(&mut io, &mut upstream, &mut shown, BOUNDS)),
        server.read_exact(&mut heard)
    );
    assert!(again.is_err() && &heard == b"GET", "{}", heard.escape_ascii());
}
