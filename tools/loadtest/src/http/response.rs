//! Taking answers apart as their bytes arrive.

use std::io::{self, Read};
use std::ops::Range;

use memchr::memchr;

/// Headers read per answer; a proxy in front adds a handful to the server's own.
const HEADERS_MAX: usize = 48;

/// A claim's answer fits into this; a larger one makes the buffer grow.
const BUFFER_BYTES: usize = 4 * 1024;

/// An answer that is not HTTP/1.1, or larger than the buffer may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A complete answer, borrowed from the buffer it arrived in.
#[derive(Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The body, without chunk framing.
    pub body: &'a [u8],
    /// The connection cannot carry another request.
    pub close: bool,
    /// `Retry-After`, when given in seconds.
    pub retry_after_s: Option<u32>,
    /// `Location`.
    pub location: Option<&'a [u8]>,
}

/// Where the parts of a complete answer lie in the buffer.
#[derive(Debug)]
pub struct Layout {
    head: Head,
    body: Range<usize>,
}

/// Collects the bytes of one answer at a time.
///
/// The buffer is reused for every answer of a connection, so reading allocates nothing once it has grown
/// to the size of the largest one.
#[derive(Debug)]
pub struct ResponseBuffer {
    bytes: Vec<u8>,
    filled: usize,
    bytes_max: usize,
    /// The chunks seen so far, so that a long body is not read from its beginning with every part that arrives.
    chunks: Vec<Range<usize>>,
}

impl ResponseBuffer {
    /// A buffer for answers of at most `bytes_max` bytes, head included.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: vec![0; BUFFER_BYTES.min(bytes_max)], filled: 0, bytes_max, chunks: Vec::new() }
    }

    /// Forgets what has arrived, ready for the next answer.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.chunks.clear();
    }

    /// Whether a part of an answer has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Reads once from `source`. Returns the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `source`, and [`io::ErrorKind::InvalidData`] when the answer outgrows the limit.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.filled == self.bytes.len() {
            let larger = (self.bytes.len() * 2).min(self.bytes_max);
            if larger == self.bytes.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "answer too large"));
            }
            self.bytes.resize(larger, 0);
        }
        let read = source.read(&mut self.bytes[self.filled..])?;
        self.filled += read;
        Ok(read)
    }

    /// Where the parts of the answer are, once all of it is there; to be asked once per answer.
    ///
    /// `ended` says that the other side has closed the connection, which is how an answer without a
    /// length ends. Bytes after the answer are an error: nothing was asked that they could answer.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are not an HTTP/1.1 answer.
    pub fn parse(&mut self, ended: bool) -> Result<Option<Layout>, Malformed> {
        let Some(head) = Head::parse(&self.bytes[..self.filled])? else { return Ok(None) };
        let body = match head.framing {
            Framing::Length(length) => {
                let end = head.end.checked_add(length).ok_or(Malformed("absurd length"))?;
                if self.filled > end {
                    return Err(Malformed("bytes after the answer"));
                }
                if self.filled < end {
                    return Ok(None);
                }
                head.end..end
            }
            Framing::Chunked => match self.unchunk(head.end)? {
                Some(body) => body,
                None => return Ok(None),
            },
            Framing::UntilClosed if ended => head.end..self.filled,
            Framing::UntilClosed => return Ok(None),
        };
        Ok(Some(Layout { head, body }))
    }

    /// The answer whose parts [`ResponseBuffer::parse`] has found.
    #[must_use]
    pub fn view(&self, layout: &Layout) -> Response<'_> {
        Response {
            status: layout.head.status,
            body: &self.bytes[layout.body.clone()],
            close: layout.head.close,
            retry_after_s: layout.head.retry_after_s,
            location: layout.head.location.clone().map(|range| &self.bytes[range]),
        }
    }

    /// Moves the chunks together, once the last one is there.
    fn unchunk(&mut self, start: usize) -> Result<Option<Range<usize>>, Malformed> {
        let Some(end) = find_chunks(&self.bytes[..self.filled], start, &mut self.chunks)? else {
            return Ok(None);
        };
        if end != self.filled {
            return Err(Malformed("bytes after the answer"));
        }
        let mut to = start;
        for chunk in self.chunks.drain(..) {
            let length = chunk.len();
            self.bytes.copy_within(chunk, to);
            to += length;
        }
        Ok(Some(start..to))
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

/// What of the status line and the headers matters here.
#[derive(Debug)]
struct Head {
    status: u16,
    /// Where the body begins.
    end: usize,
    framing: Framing,
    close: bool,
    retry_after_s: Option<u32>,
    location: Option<Range<usize>>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) =
            parsed.parse(bytes).map_err(|_| Malformed("not an HTTP answer"))?
        else {
            return Ok(None);
        };
        let status = parsed.code.unwrap_or_default();
        if status < 200 {
            return Err(Malformed("an interim answer that nothing asked for"));
        }
        let mut head = Self {
            status,
            end,
            framing: Framing::UntilClosed,
            close: parsed.version != Some(1),
            retry_after_s: None,
            location: None,
        };
        for header in parsed.headers.iter() {
            head.note(header, bytes)?;
        }
        if matches!(status, 204 | 304) {
            head.framing = Framing::Length(0);
        }
        head.close |= head.framing == Framing::UntilClosed;
        Ok(Some(head))
    }

    fn note(&mut self, header: &httparse::Header<'_>, bytes: &[u8]) -> Result<(), Malformed> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // Telling names apart by their length first keeps this off the profile.
        match header.name.len() {
            14 if is("content-length") && self.framing != Framing::Chunked => {
                let length = number(header.value).ok_or(Malformed("bad content-length"))?;
                self.framing = Framing::Length(length);
            }
            17 if is("transfer-encoding") => {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("unknown transfer-encoding"));
                }
                self.framing = Framing::Chunked;
            }
            10 if is("connection") => self.close |= header.value.eq_ignore_ascii_case(b"close"),
            11 if is("retry-after") => {
                self.retry_after_s = number(header.value).and_then(|seconds| u32::try_from(seconds).ok());
            }
            8 if is("location") => {
                // The value is a part of `bytes`: remember where, so that the head borrows nothing.
                let at = header.value.as_ptr().addr() - bytes.as_ptr().addr();
                self.location = Some(at..at + header.value.len());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Adds to `found` the chunks of a body that begins at `start`. Tells where the body ends; `None` while some of it
/// is missing.
fn find_chunks(
    bytes: &[u8],
    start: usize,
    found: &mut Vec<Range<usize>>,
) -> Result<Option<usize>, Malformed> {
    loop {
        // The line end after a chunk is not part of it.
        let at = found.last().map_or(start, |chunk| chunk.end + 2);
        let Some(line) = memchr(b'\n', &bytes[at..]) else { return Ok(None) };
        let size = chunk_size(&bytes[at..at + line])?;
        let chunk = at + line + 1;
        if size == 0 {
            return Ok(trailer_end(&bytes[chunk..]).map(|end| chunk + end));
        }
        let end =
            chunk.checked_add(size).filter(|end| *end < usize::MAX - 2).ok_or(Malformed("absurd chunk"))?;
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => found.push(chunk..end),
            Some(_) => return Err(Malformed("chunk without an end")),
            None => return Ok(None),
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.split(|&byte| byte == b';' || byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok())
        .ok_or(Malformed("bad chunk size"))
}

/// Where the lines after the last chunk end: with an empty one.
fn trailer_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = memchr(b'\n', &bytes[at..])?;
        at += line + 1;
        if line <= 1 {
            return Some(at);
        }
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 13\r\n\r\n{\"position\":7";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n3;x=y\r\n,3]\r\n0\r\nx-sum: 1\r\n\r\n";
    const PENDING: &[u8] =
        b"HTTP/1.1 202 Accepted\r\nlocation: /api/x?p=1\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const UNTIL_CLOSED: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nall of it";

    type Seen = (u16, Vec<u8>, bool, Option<u32>, Option<Vec<u8>>);

    /// Delivers the bytes in two reads and reports what came of each.
    fn deliver(bytes: &[u8], split: usize) -> (Option<Seen>, Option<Seen>) {
        let mut buffer = ResponseBuffer::new(1024);
        let mut seen = [const { None }; 2];
        for (part, seen) in [&bytes[..split], &bytes[split..]].into_iter().zip(&mut seen) {
            let mut part = part;
            while !part.is_empty() {
                buffer.fill(&mut part).unwrap();
            }
            let layout = buffer.parse(false).unwrap();
            *seen = layout.map(|layout| {
                let a = buffer.view(&layout);
                (a.status, a.body.to_vec(), a.close, a.retry_after_s, a.location.map(<[u8]>::to_vec))
            });
            if seen.is_some() {
                buffer.clear();
            }
        }
        let [first, second] = seen;
        (first, second)
    }

    #[test]
    fn answers_split_at_every_byte_are_read_the_same() {
        let expected = [
            (PLAIN, (200, b"{\"position\":7".to_vec(), false, None, None)),
            (CHUNKED, (200, b"[1,2,3]".to_vec(), false, None, None)),
            (PENDING, (202, Vec::new(), true, Some(1), Some(b"/api/x?p=1".to_vec()))),
        ];
        for (bytes, expected) in expected {
            for split in 0..bytes.len() {
                assert_eq!(deliver(bytes, split), (None, Some(expected.clone())), "split at {split}");
            }
        }
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let mut buffer = ResponseBuffer::new(1024);
        buffer.fill(&mut &UNTIL_CLOSED[..]).unwrap();
        assert!(buffer.parse(false).unwrap().is_none());
        let layout = buffer.parse(true).unwrap().unwrap();
        let answer = buffer.view(&layout);
        assert_eq!((answer.body, answer.close), (&b"all of it"[..], true));
    }

    #[test]
    fn nonsense_is_refused() {
        let bad: [&[u8]; 6] = [
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
        ];
        for bytes in bad {
            let mut buffer = ResponseBuffer::new(1024);
            buffer.fill(&mut &bytes[..]).unwrap();
            assert!(buffer.parse(false).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_answer_larger_than_the_limit_is_an_error() {
        let mut buffer = ResponseBuffer::new(16);
        assert_eq!(buffer.fill(&mut &PLAIN[..]).unwrap(), 16);
        let refused = buffer.fill(&mut &PLAIN[16..]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
