//! How requests end, against servers that answer with given bytes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::time::Duration;

use client::{Bytes, Connection, Error, Limits, Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;

const LIMITS: Limits = Limits { connect: Duration::from_secs(5), body_bytes_max: 16 };
const LIMIT: Duration = Duration::from_secs(5);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server whose connections each answer with the next of `scripts`: one part per request, and close after the
/// last. An empty part is no answer. Returns what the requests were, too.
async fn server(scripts: Vec<Vec<&'static str>>) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = unbounded_channel();
    tokio::spawn(async move {
        for script in scripts {
            let (mut stream, _) = listener.accept().await.unwrap();
            for part in script {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let _ = seen.send(String::from_utf8_lossy(&request[..read]).into_owned());
                if part.is_empty() {
                    sleep(Duration::from_secs(60)).await;
                }
                stream.write_all(part.as_bytes()).await.unwrap();
            }
        }
    });
    (address, requests)
}

fn get() -> Request<Bytes> {
    client::request(Method::GET, "/x?y=1", "localhost:1", None).unwrap()
}

/// What a first request ends with that is answered with `part`.
async fn answered(part: &'static str) -> Result<(u16, Bytes), Error> {
    let (address, _requests) = server(vec![vec![part]]).await;
    let response = Connection::new(address, LIMITS).send(get(), Duration::from_millis(300)).await?;
    Ok((response.status().as_u16(), response.into_body()))
}

#[tokio::test]
async fn whole_responses_are_read_however_they_end() {
    for part in [
        OK,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nx-sum: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nok",
    ] {
        assert_eq!(answered(part).await.unwrap(), (200, Bytes::from_static(b"ok")), "{part}");
    }
}

#[tokio::test]
async fn nonsense_is_malformed() {
    for part in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n12345678901234567",
    ] {
        let error = answered(part).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_broken() {
    for part in [
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\no",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let error = answered(part).await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{part}: {error}");
    }
}

#[tokio::test]
async fn no_response_and_no_server_are_told_apart() {
    assert!(matches!(answered("").await.unwrap_err(), Error::TimedOut(_)));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Connection::new(closed, LIMITS).send(get(), LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::NotConnected(_)), "{error}");
}

#[tokio::test]
async fn a_connection_is_kept_and_opened_again_once_it_is_closed() {
    let (address, mut requests) = server(vec![vec![OK, OK], vec![OK]]).await;
    let mut connection = Connection::new(address, LIMITS);
    for _ in 0..2 {
        connection.send(get(), LIMIT).await.unwrap();
    }
    while connection.is_open() {
        sleep(Duration::from_millis(1)).await;
    }
    connection.send(get(), LIMIT).await.unwrap();
    for _ in 0..3 {
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("GET /x?y=1 HTTP/1.1\r\nhost: localhost:1\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_body_is_sent_as_json() {
    let (address, mut requests) = server(vec![vec![OK]]).await;
    let request = client::request(Method::POST, "/new", "h", Some(&json!({"name": "é"}))).unwrap();
    Connection::new(address, LIMITS).send(request, LIMIT).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"name\":\"é\"}"), "{request}");
    assert!(client::request(Method::GET, "/with space", "h", None).is_err());
}
