//! The framing of the NATS client protocol, in both directions.
//!
//! A frame is a control line, and for messages a payload whose size is the line's last word.

use bytes::Bytes;

use super::frame::{FRAME_BYTES_MAX, Kind, LostFraming};

/// The longest control line. Servers refuse clients' lines over 4 KiB; the server's own INFO may be longer.
const LINE_BYTES_MAX: usize = 64 << 10;

const LINE_END: &[u8] = b"\r\n";

/// The length of the frame at the beginning of the buffer, once it is complete.
pub(super) fn frame_length(buffer: &[u8]) -> Result<Option<usize>, LostFraming> {
    let Some(line) = line_length(buffer) else {
        return if buffer.len() > LINE_BYTES_MAX { Err(LostFraming) } else { Ok(None) };
    };
    let mut words = words(&buffer[..line]);
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    let frame = match verb.as_slice() {
        b"PUB" | b"HPUB" | b"MSG" | b"HMSG" => {
            let payload = words.last().and_then(number).ok_or(LostFraming)?;
            line.saturating_add(payload).saturating_add(LINE_END.len())
        }
        b"INFO" | b"CONNECT" | b"SUB" | b"UNSUB" | b"PING" | b"PONG" | b"+OK" | b"-ERR" => line,
        _ => return Err(LostFraming),
    };
    match buffer.get(..frame) {
        Some(bytes) if bytes.ends_with(LINE_END) => Ok(Some(frame)),
        None if frame <= FRAME_BYTES_MAX => Ok(None),
        _ => Err(LostFraming),
    }
}

/// The length of the control line with its end.
fn line_length(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(LINE_END.len()).position(|window| window == LINE_END)?;
    Some(end + LINE_END.len())
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// What a complete frame is: `PUB subject [reply] size`, `MSG subject subscription [reply] size`, and the same
/// with the size of the headers before the last word for `HPUB` and `HMSG`.
pub(super) fn kind(bytes: &Bytes) -> Kind {
    let line = line_length(bytes).unwrap_or_default();
    let words: Vec<&[u8]> = words(&bytes[..line]).collect();
    let verb = words.first().copied().unwrap_or_default().to_ascii_uppercase();
    let (from_server, with_headers) = match verb.as_slice() {
        b"PUB" => (false, false),
        b"HPUB" => (false, true),
        b"MSG" => (true, false),
        b"HMSG" => (true, true),
        _ => return Kind::Other,
    };
    let reply = 2 + usize::from(from_server);
    let sizes = 1 + usize::from(with_headers);
    let (Some(subject), Some(first_size)) = (words.get(1), words.len().checked_sub(sizes)) else {
        return Kind::Other;
    };
    let word = |place: usize| words.get(place).map(|word| bytes.slice_ref(word));
    Kind::Message {
        subject: bytes.slice_ref(subject),
        subscription: word(2).filter(|_| from_server),
        reply: word(reply).filter(|_| first_size > reply),
        payload: bytes.slice(line..bytes.len() - LINE_END.len()),
        headers: number(words[first_size]).filter(|_| with_headers).unwrap_or_default(),
    }
}
