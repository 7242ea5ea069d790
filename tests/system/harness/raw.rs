//! HTTP by the byte, for requests that no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::test::LIMIT;

/// A connection.
pub(crate) struct Raw(BufReader<TcpStream>);

/// An answer: its status, its headers in lower case, its body.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A request with a body of JSON, as most clients send it.
pub(crate) fn json_request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    /// A client that takes little at a time: the kernel keeps no more than a few KiB for it.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        Self(BufReader::new(socket.connect(address).await.unwrap()))
    }

    /// This side's address.
    #[cfg(target_os = "linux")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.get_ref().local_addr().unwrap()
    }

    /// Sends bytes; what the other side does not take any more is none of our business.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(LIMIT, self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// Reads an answer with a `Content-Length`; none if the connection is closed instead.
    pub(crate) async fn reply(&mut self) -> Option<RawReply> {
        timeout(LIMIT, self.read_reply()).await.unwrap()
    }

    async fn read_reply(&mut self) -> Option<RawReply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).await.unwrap_or(0) == 0 {
                assert_eq!(head, "", "the connection was closed within an answer");
                return None;
            }
        }
        let head = head.to_lowercase();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        Some(RawReply { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Reads so many bytes.
    pub(crate) async fn take(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        timeout(LIMIT, self.0.read_exact(&mut bytes)).await.unwrap().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads whatever comes until the connection is closed.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end like any other.
        let _ = timeout(LIMIT, self.0.read_to_end(&mut bytes)).await.expect("the connection stays open");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
