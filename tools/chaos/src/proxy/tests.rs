//! Every rule, against plain sockets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::{Direction, Matcher, OnHeal, Protocol, Proxy, Rule, Tap};

/// Far longer than anything here takes; only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that something that is held would have arrived.
const A_WHILE: Duration = Duration::from_millis(100);

/// A proxy with a connection through it, and both ends of that.
struct Link {
    proxy: Proxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

async fn link(protocol: Protocol) -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream: SocketAddr = listener.local_addr().unwrap();
    let proxy = Proxy::start(protocol, upstream, None).await.unwrap();
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    Link { proxy, listener, client, server }
}

async fn receive(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    timeout(PATIENCE, stream.read_exact(&mut buffer)).await.expect("nothing came").unwrap();
    buffer
}

/// What arrives until the stream ends, whether in order or by a reset.
async fn receive_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    while let Ok(1..) = timeout(PATIENCE, stream.read_buf(&mut buffer)).await.expect("no end") {}
    buffer.to_vec()
}

async fn stays_silent(stream: &mut TcpStream) {
    assert!(timeout(A_WHILE, stream.read_u8()).await.is_err(), "something came, or the connection ended");
}

#[tokio::test]
async fn without_rules_bytes_and_ends_pass_both_ways() {
    let mut link = link(Protocol::Nats).await;
    link.client.write_all(b"PING\r\nnot NATS at all\r\n").await.unwrap();
    assert_eq!(receive(&mut link.server, 23).await, b"PING\r\nnot NATS at all\r\n");
    link.client.shutdown().await.unwrap();
    assert_eq!(receive_all(&mut link.server).await, b"");
    link.server.write_all(b"+OK\r\n").await.unwrap();
    drop(link.server);
    assert_eq!(receive_all(&mut link.client).await, b"+OK\r\n");
    assert_eq!(link.proxy.stats().framing_lost.get(), 1);
    let connections = link.proxy.connections.clone();
    connections.close();
    drop(link.proxy);
    timeout(PATIENCE, connections.wait()).await.unwrap();
}

#[tokio::test]
async fn a_hole_holds_one_direction_and_delivers_when_it_ends() {
    let mut link = link(Protocol::Nats).await;
    let hole =
        link.proxy.add_rule(Rule::BlackHole { direction: Direction::ToServer, on_heal: OnHeal::Deliver });
    link.client.write_all(b"PING\r\n").await.unwrap();
    link.server.write_all(b"PONG\r\n").await.unwrap();
    assert_eq!(receive(&mut link.client, 6).await, b"PONG\r\n");
    stays_silent(&mut link.server).await;
    assert_eq!(hole.hits(), 1);
    link.proxy.remove_rule(&hole);
    assert_eq!(receive(&mut link.server, 6).await, b"PING\r\n");
    assert_eq!(link.proxy.stats().bytes_held.get(), 6);
}

#[tokio::test]
async fn a_hole_can_cut_what_it_held() {
    let mut link = link(Protocol::Nats).await;
    let hole = link.proxy.add_rule(Rule::BlackHole { direction: Direction::ToClient, on_heal: OnHeal::Cut });
    link.server.write_all(b"PING\r\n").await.unwrap();
    stays_silent(&mut link.client).await;
    link.proxy.remove_rule(&hole);
    assert_eq!(receive_all(&mut link.client).await, b"");
    assert_eq!(link.proxy.stats().cut.get(), 1);
}

#[tokio::test]
async fn delays_keep_the_order() {
    let mut link = link(Protocol::Nats).await;
    let delay = Duration::from_millis(60);
    let rule = link.proxy.add_rule(Rule::Delay { min: delay, max: delay * 2 });
    let start = Instant::now();
    let text: Vec<u8> = (0..50).flat_map(|n| format!("SUB s {n}\r\n").into_bytes()).collect();
    for chunk in text.chunks(7) {
        link.client.write_all(chunk).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(receive(&mut link.server, text.len()).await, text);
    assert!(start.elapsed() >= delay);
    assert!(rule.hits() >= 1);
}

#[tokio::test]
async fn slices_arrive_whole() {
    let mut link = link(Protocol::Nats).await;
    link.proxy.add_rule(Rule::Slice);
    let text = [b"PUB s 5000\r\n".as_slice(), &[b'x'; 5000], b"\r\n"].concat();
    link.client.write_all(&text).await.unwrap();
    assert_eq!(receive(&mut link.server, text.len()).await, text);
    assert!(link.proxy.stats().bytes_sliced.get() > 0);
}

#[tokio::test]
async fn a_connection_is_cut_at_the_given_byte_and_only_once() {
    let mut link = link(Protocol::Nats).await;
    let rule = link.proxy.add_rule(Rule::CutAfter { direction: Direction::ToServer, bytes: 9, reset: false });
    link.client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(receive(&mut link.server, 6).await, b"PING\r\n");
    link.client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(receive_all(&mut link.server).await, b"PIN");
    assert_eq!((rule.hits(), link.proxy.stats().cut.get()), (1, 1));

    let mut again = TcpStream::connect(link.proxy.addr()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, link.listener.accept()).await.unwrap().unwrap();
    again.write_all(b"PING\r\nPING\r\n").await.unwrap();
    assert_eq!(receive(&mut server, 12).await, b"PING\r\nPING\r\n");
}

#[tokio::test]
async fn new_connections_are_refused_and_open_ones_cut_on_demand() {
    let mut link = link(Protocol::Nats).await;
    link.proxy.add_rule(Rule::Refuse);
    // The reset may come as early as during the connect.
    if let Ok(mut refused) = TcpStream::connect(link.proxy.addr()).await {
        assert_eq!(receive_all(&mut refused).await, b"");
    }
    assert_eq!(link.proxy.stats().refused.get(), 1);
    assert_eq!(link.proxy.cut_all(), 1);
    assert_eq!(receive_all(&mut link.client).await, b"");
    assert_eq!(receive_all(&mut link.server).await, b"");
}

fn postgres_frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn startup(code: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 8).to_be_bytes().to_vec();
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A link with a prepared statement that commits claims, and the frame that executes it.
async fn link_with_a_write() -> (Link, Vec<u8>) {
    let mut link = link(Protocol::Postgres).await;
    let hello = startup(196_608, b"user\0me\0\0");
    link.client.write_all(&hello).await.unwrap();
    receive(&mut link.server, hello.len()).await;
    let prepare = postgres_frame(b'P', b"s1\0INSERT INTO claims\0\0\0");
    link.client.write_all(&prepare).await.unwrap();
    receive(&mut link.server, prepare.len()).await;
    let prepared =
        [postgres_frame(b'R', b"\0\0\0\0"), postgres_frame(b'1', b""), postgres_frame(b'Z', b"I")].concat();
    link.server.write_all(&prepared).await.unwrap();
    assert_eq!(receive(&mut link.client, prepared.len()).await, prepared);
    (link, postgres_frame(b'B', b"\0s1\0\0\0"))
}

#[tokio::test]
async fn a_commit_reaches_the_server_and_its_answer_is_lost() {
    let (mut link, bind) = link_with_a_write().await;
    let rule = link.proxy.add_rule(Rule::CommitAnswerLost { times: 1 });
    link.client.write_all(&bind).await.unwrap();
    assert_eq!(receive(&mut link.server, bind.len()).await, bind);
    let answer = [postgres_frame(b'2', b""), postgres_frame(b'C', b"INSERT 0 1\0")].concat();
    link.server.write_all(&answer).await.unwrap();
    stays_silent(&mut link.client).await;
    link.server.write_all(&postgres_frame(b'Z', b"I")).await.unwrap();
    assert_eq!(receive_all(&mut link.client).await, b"");
    assert_eq!((rule.hits(), link.proxy.stats().commit_answers_lost.get()), (1, 1));
}

#[tokio::test]
async fn a_statement_that_failed_is_no_commit_whose_answer_could_be_lost() {
    let (mut link, bind) = link_with_a_write().await;
    let rule = link.proxy.add_rule(Rule::CommitAnswerLost { times: 1 });
    link.client.write_all(&bind).await.unwrap();
    receive(&mut link.server, bind.len()).await;
    let failed = [postgres_frame(b'E', b"SERROR\0\0"), postgres_frame(b'Z', b"I")].concat();
    link.server.write_all(&failed).await.unwrap();
    assert_eq!(receive(&mut link.client, failed.len()).await, failed);
    assert_eq!((rule.hits(), link.proxy.stats().commit_answers_lost.get()), (0, 0));

    // The rule still applies to the next.
    link.client.write_all(&bind).await.unwrap();
    receive(&mut link.server, bind.len()).await;
    link.server.write_all(&postgres_frame(b'Z', b"I")).await.unwrap();
    assert_eq!(receive_all(&mut link.client).await, b"");
    assert_eq!((rule.hits(), link.proxy.stats().commit_answers_lost.get()), (1, 1));
}

#[tokio::test]
async fn chosen_frames_are_lost_and_no_others() {
    let mut link = link(Protocol::Nats).await;
    let matcher = Matcher { subject: Some("_INBOX".into()), payload: Some("\"seq\"".into()) };
    let rule = link.proxy.add_rule(Rule::FramesLost {
        direction: Direction::ToClient,
        matcher,
        times: 1,
        one_in: 1,
    });
    let ack = b"MSG _INBOX.1 1 9\r\n{\"seq\":1}\r\n";
    let reply = b"MSG _INBOX.1 1 5\r\nreply\r\n";
    link.server.write_all(&[ack.as_slice(), reply, ack].concat()).await.unwrap();
    let rest = [reply.as_slice(), ack].concat();
    assert_eq!(receive(&mut link.client, rest.len()).await, rest);
    assert_eq!((rule.hits(), link.proxy.stats().frames_lost.get()), (1, 1));
}

#[tokio::test]
async fn a_tap_gets_copies_even_of_what_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tap, mut tapped) = Tap::new();
    let proxy =
        Proxy::start(Protocol::Nats, listener.local_addr().unwrap(), Some(tap.clone())).await.unwrap();
    let _client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    proxy.add_rule(Rule::FramesLost {
        direction: Direction::ToClient,
        matcher: Matcher::default(),
        times: 9,
        one_in: 1,
    });
    server
        .write_all(
            b"MSG claims.1 1 $JS.ACK.x 3\r\none\r\nHMSG claims.2 2 $JS.y 12 15\r\nNATS/1.0\r\n\r\ntwo\r\n",
        )
        .await
        .unwrap();
    for (subject, reply, payload) in [("claims.1", "$JS.ACK.x", "one"), ("claims.2", "$JS.y", "two")] {
        let copy = timeout(PATIENCE, tapped.recv()).await.unwrap().unwrap();
        assert_eq!((&copy.subject[..], &copy.payload[..]), (subject.as_bytes(), payload.as_bytes()));
        assert_eq!(copy.reply.as_deref(), Some(reply.as_bytes()));
        assert!(copy.is_lost);
    }
    assert!(!tap.is_lossy());
}

#[tokio::test]
async fn now_and_then_a_frame_is_lost_and_the_others_arrive() {
    let mut link = link(Protocol::Nats).await;
    let matcher = Matcher { subject: Some("claims".into()), payload: None };
    let rule = link.proxy.add_rule(Rule::FramesLost {
        direction: Direction::ToClient,
        matcher,
        times: 40,
        one_in: 3,
    });
    let frame = |number: u32| format!("MSG claims.1 1 4\r\n{number:04}\r\n").into_bytes();
    link.server.write_all(&(0..1_000).flat_map(frame).collect::<Vec<_>>()).await.unwrap();
    link.server.write_all(b"PING\r\n").await.unwrap();
    let arrived = receive(&mut link.client, 960 * frame(0).len() + 6).await;
    assert!(arrived.ends_with(b"PING\r\n"));
    assert_eq!(rule.hits(), 40);
    // With one in three, they are not the first 40 in a row.
    assert!(arrived[..40 * frame(0).len()] != (40..80).flat_map(frame).collect::<Vec<_>>()[..]);
}

#[tokio::test]
async fn held_frames_are_overtaken_by_other_subscriptions_only() {
    let mut link = link(Protocol::Nats).await;
    let matcher = Matcher { subject: Some("claims".into()), payload: Some("one".into()) };
    let hold = Duration::from_secs(60);
    let rule = link.proxy.add_rule(Rule::FramesHeld { direction: Direction::ToClient, matcher, hold });
    let one = b"MSG claims.1 1 3\r\none\r\n".as_slice();
    let two = b"MSG claims.1 1 3\r\ntwo\r\n".as_slice();
    let other = b"MSG else 2 3\r\nxxx\r\n".as_slice();
    link.server.write_all(&[one, two, other].concat()).await.unwrap();
    assert_eq!(receive(&mut link.client, other.len()).await, other);
    stays_silent(&mut link.client).await;
    link.proxy.remove_rule(&rule);
    let late = [one, two].concat();
    assert_eq!(receive(&mut link.client, late.len()).await, late);
    assert_eq!((rule.hits(), link.proxy.stats().frames_held.get()), (1, 2));
}
