//! The harness without a mesh: what the other tests rely on works when nothing is in between.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use remora_test::client;
use remora_test::mesh::Mesh;

#[test]
fn the_applications_answer_directly() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _http = server.peer("http", 8080, &[]);
    let url = |path: &str| format!("http://{}{path}", server.at(8080));

    let answer = client.curl(&[&url("/some/where?a=1"), "-H", "x-a: 1", "-d", "body"]);
    assert_eq!(answer.code, 200, "{answer:?}");
    let seen = answer.json();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["path"], "/some/where?a=1");
    assert_eq!(seen["headers"]["x-a"][0], "1");
    assert_eq!(seen["body"], 4);
    assert_eq!(seen["version"], "HTTP/1.1");
    assert_eq!(client.curl(&[&url("/status/418")]).code, 418);
    assert_eq!(client.curl(&[&url("/abort")]).code, 0);
    assert_eq!(client.curl(&[&url("/echo"), "--http2-prior-knowledge", "-d", "to and fro"]).body, "to and fro");

    client.h2load(&["-n", "200", "-c", "4", &url("/name")]).assert_clean(200);
    let counts = client.curl(&[&url("/counts")]).json();
    assert_eq!(counts["requests"], 204);

    let to = server.at(8080);
    let call = client.block_on(|| async move {
        let mut h2 = client::h2(to).await.unwrap();
        client::unary(&mut h2, "server", "/test.Echo/Unary", &[]).await.unwrap()
    });
    assert_eq!((call.status, call.reply.as_str(), call.trailers), (Some(0), "server", true), "{call:?}");
}

#[test]
fn the_tcp_applications_answer_directly() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _greeter = server.peer("greeter", 3306, &[]);
    let mut stream = client.enter(|| TcpStream::connect(server.at6(3306))).unwrap();
    let mut hello = [0; 18];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello from server\n");
    stream.write_all(b"and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "and back");
}
