//! A patient client for setting up and checking, where speed does not matter.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{ResponseBuffer, Target};

/// The largest body taken: a coupon with tens of millions of claims.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// A coupon with a million claims takes seconds on a slow server.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A blocking connection that is opened again when the server has closed it.
#[derive(Debug)]
pub struct Client {
    target: Target,
    stream: Option<TcpStream>,
    buffer: ResponseBuffer,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client for `target`, not connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, stream: None, buffer: ResponseBuffer::new(ANSWER_BYTES_MAX) }
    }

    /// Asks for `path`, which is encoded already.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in HTTP.
    pub fn get(&mut self, path: &str) -> anyhow::Result<Reply> {
        let head =
            format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.target.path(path), self.target.authority());
        self.ask(&head).with_context(|| format!("GET {path}"))
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in HTTP.
    pub fn post(&mut self, path: &str, body: &serde_json::Value) -> anyhow::Result<Reply> {
        let body = body.to_string();
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.target.path(path),
            self.target.authority(),
            body.len(),
        );
        self.ask(&request).with_context(|| format!("POST {path}"))
    }

    fn ask(&mut self, request: &str) -> anyhow::Result<Reply> {
        // An idle connection may have been closed meanwhile, which only the attempt to use it shows.
        if self.stream.is_some()
            && let Ok(reply) = self.attempt(request)
        {
            return Ok(reply);
        }
        self.stream = None;
        self.attempt(request)
    }

    fn attempt(&mut self, request: &str) -> anyhow::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.target)?,
        };
        stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        loop {
            let ended = self.buffer.fill(&mut stream)? == 0;
            if let Some(layout) = self.buffer.parse(ended).map_err(|wrong| anyhow!(wrong.0))? {
                let answer = self.buffer.view(&layout);
                let reply = Reply { status: answer.status, body: answer.body.to_vec() };
                self.stream = (!answer.close).then_some(stream);
                return Ok(reply);
            }
            if ended {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

fn connect(target: &Target) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.resolve()?, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}
