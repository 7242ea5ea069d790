//! The framing of the NATS client protocol, in both directions.
//!
//! A frame is a control line, and for messages a payload whose size is the line's last word.

use bytes::{Bytes, BytesMut};

use super::frame::{FRAME_BYTES_MAX, Frame, Kind, Lost};

/// The longest control line. Servers refuse clients' lines over 4 KiB; the server's own INFO may be longer.
const LINE_BYTES_MAX: usize = 64 << 10;

const LINE_END: &[u8] = b"\r\n";

#[derive(Debug, Default)]
pub(super) struct Parser {
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    /// The frame whose control line was read, until its payload is whole.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    /// Length of the control line with its end.
    line: usize,
    /// Length of the whole frame.
    whole: usize,
}

impl Parser {
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Lost> {
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => match self.control_line(buffer)? {
                Some(pending) => pending,
                None => return Ok(None),
            },
        };
        if buffer.len() < pending.whole {
            self.pending = Some(pending);
            return Ok(None);
        }
        let bytes = buffer.split_to(pending.whole).freeze();
        if pending.whole > pending.line && !bytes.ends_with(LINE_END) {
            // Put back for the caller, who passes on what cannot be framed.
            let mut whole = BytesMut::from(&bytes[..]);
            whole.unsplit(buffer.split());
            *buffer = whole;
            return Err(Lost);
        }
        let kind = kind(&bytes, pending.line);
        Ok(Some(Frame { bytes, kind }))
    }

    fn control_line(&mut self, buffer: &BytesMut) -> Result<Option<Pending>, Lost> {
        let from = self.searched.saturating_sub(1);
        let Some(end) = buffer[from..].windows(LINE_END.len()).position(|window| window == LINE_END) else {
            self.searched = buffer.len();
            return if buffer.len() > LINE_BYTES_MAX { Err(Lost) } else { Ok(None) };
        };
        self.searched = 0;
        let line = from + end + LINE_END.len();
        let mut words = words(&buffer[..line]);
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let whole = match verb.as_slice() {
            b"PUB" | b"HPUB" | b"MSG" | b"HMSG" => {
                let size = words.last().and_then(number).ok_or(Lost)?;
                line.checked_add(size).and_then(|whole| whole.checked_add(LINE_END.len())).ok_or(Lost)?
            }
            b"INFO" | b"CONNECT" | b"SUB" | b"UNSUB" | b"PING" | b"PONG" | b"+OK" | b"-ERR" => line,
            _ => return Err(Lost),
        };
        if whole > FRAME_BYTES_MAX { Err(Lost) } else { Ok(Some(Pending { line, whole })) }
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn kind(bytes: &Bytes, line: usize) -> Kind {
    let mut words = words(&bytes[..line]);
    let verb = words.next().unwrap_or_default();
    let from_server = verb.eq_ignore_ascii_case(b"MSG") || verb.eq_ignore_ascii_case(b"HMSG");
    let to_server = verb.eq_ignore_ascii_case(b"PUB") || verb.eq_ignore_ascii_case(b"HPUB");
    let Some(subject) = words.next().filter(|_| from_server || to_server) else { return Kind::Other };
    let subscription = if from_server { words.next() } else { None };
    // What is left is an optional reply subject and one size, or two with headers.
    let rest: Vec<&[u8]> = words.collect();
    let with_headers = verb.len() == if from_server { b"HMSG".len() } else { b"HPUB".len() };
    let sizes = if with_headers { 2 } else { 1 };
    let headers = rest.len().checked_sub(2).filter(|_| with_headers).and_then(|place| number(rest[place]));
    Kind::Message {
        subject: bytes.slice_ref(subject),
        subscription: subscription.map(|word| bytes.slice_ref(word)),
        reply: rest.first().filter(|_| rest.len() > sizes).map(|word| bytes.slice_ref(word)),
        payload: bytes.slice(line..bytes.len() - LINE_END.len()),
        headers: headers.unwrap_or_default(),
    }
}
