//! The framing of both protocols, whole and in any pieces.

use proptest::prelude::*;

use super::super::frame::Kind;
use super::super::rule::Matcher;
use super::*;

fn pieces(protocol: Protocol, direction: Direction, chunks: &[&[u8]]) -> (Vec<Piece>, Vec<u8>, bool) {
    let mut framer = Framer::new(protocol, direction);
    let mut pieces = Vec::new();
    for chunk in chunks {
        framer.push(chunk);
        while let Some(piece) = framer.next() {
            pieces.push(piece);
        }
    }
    let mut all = Vec::new();
    for piece in &pieces {
        match piece {
            Piece::Frame(frame) => all.extend_from_slice(&frame.bytes),
            Piece::Opaque(bytes) => all.extend_from_slice(bytes),
        }
    }
    let follows = framer.follows();
    all.extend_from_slice(&framer.rest().unwrap_or_default());
    (pieces, all, follows)
}

fn subjects(pieces: &[Piece]) -> Vec<String> {
    pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Frame(frame) => match &frame.kind {
                Kind::Message { subject, .. } => Some(String::from_utf8_lossy(subject).into_owned()),
                _ => None,
            },
            Piece::Opaque(_) => None,
        })
        .collect()
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

const CONVERSATION: &[u8] = b"INFO {\"x\":1}\r\nMSG claims.1 7 $JS.ACK.1 5\r\nhel\r\n\r\n+OK\r\nPING\r\n\
    HMSG _INBOX.a.ack 9 12 16\r\nNATS/1.0\r\n\r\nseq1\r\n-ERR 'x'\r\nMSG last 1 0\r\n\r\n";

#[test]
fn nats_messages_are_found_with_their_subjects_and_payloads() {
    let (pieces, all, follows) = pieces(Protocol::Nats, Direction::ToClient, &[CONVERSATION]);
    assert!(follows);
    assert_eq!(all, CONVERSATION);
    assert_eq!(pieces.len(), 7);
    assert_eq!(subjects(&pieces), ["claims.1", "_INBOX.a.ack", "last"]);
    let Piece::Frame(frame) = &pieces[4] else { panic!("framing lost") };
    let matcher = |subject: &str, payload: &str| Matcher {
        subject: Some(subject.to_owned()),
        payload: Some(payload.to_owned()),
    };
    assert!(frame.matches(&matcher("_INBOX", "seq")));
    assert!(!frame.matches(&matcher("_INBOX", "no such text")));
    assert!(!frame.matches(&matcher("claims", "seq")));
    assert!(frame.matches(&Matcher::default()));
}

#[test]
fn writes_are_found_by_the_statement_that_is_bound() {
    let mut up = startup(196_608, b"user\0me\0\0");
    up.extend(postgres_frame(b'P', b"s1\0SELECT claims\0\0\0"));
    up.extend(postgres_frame(b'P', b"s2\0WITH a AS (INSERT INTO claims VALUES (1)) SELECT\0\0\0"));
    up.extend(postgres_frame(b'P', b"s3\0INSERT INTO coupons VALUES (1)\0\0\0"));
    up.extend(postgres_frame(b'B', b"\0s1\0\0\0"));
    up.extend(postgres_frame(b'B', b"\0s2\0\0\0"));
    up.extend(postgres_frame(b'B', b"\0s3\0\0\0"));
    up.extend(postgres_frame(b'Q', b"INSERT INTO claims\0"));
    let (pieces, all, follows) = pieces(Protocol::Postgres, Direction::ToServer, &[&up]);
    let kinds: Vec<_> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Frame(frame) => frame.kind.clone(),
            Piece::Opaque(_) => panic!("framing lost"),
        })
        .collect();
    // The start, three statements, and the first of them with its parameters.
    let mut expected = vec![Kind::Other; 5];
    expected.extend([Kind::Commit, Kind::Commit, Kind::Other]);
    assert_eq!(kinds, expected);
    assert!(follows);
    assert_eq!(all, up);
}

#[test]
fn the_end_of_an_answer_and_an_error_are_found() {
    let kinds: [(&[u8], Kind); 3] = [(b"R", Kind::Other), (b"E", Kind::Failed), (b"Z", Kind::Completed)];
    let down: Vec<u8> = kinds.iter().flat_map(|(tag, _)| postgres_frame(tag[0], b"I")).collect();
    let (pieces, _, follows) = pieces(Protocol::Postgres, Direction::ToClient, &[&down]);
    assert!(follows && pieces.len() == kinds.len());
    for (piece, (_, kind)) in pieces.iter().zip(kinds) {
        assert!(matches!(piece, Piece::Frame(frame) if frame.kind == kind), "{piece:?}");
    }
}

#[test]
fn both_directions_of_a_connection_with_encryption_are_passed_on_unchanged() {
    for (direction, text) in
        [(Direction::ToServer, &startup(80_877_103, b"")[..]), (Direction::ToClient, b"N")]
    {
        let (pieces, all, follows) = pieces(Protocol::Postgres, direction, &[text]);
        assert!(!follows);
        assert_eq!((pieces.len(), &all[..]), (1, text));
    }
}

#[test]
fn what_cannot_be_framed_is_passed_on_unchanged() {
    for (protocol, direction) in
        [(Protocol::Nats, Direction::ToServer), (Protocol::Postgres, Direction::ToServer)]
    {
        let text = b"\x16\x03\x01\x02\x00 not the protocol at all \r\n more";
        let (_, all, follows) = pieces(protocol, direction, &[&text[..9], &text[9..]]);
        assert!(!follows);
        assert_eq!(all, text);
    }
    let wrong_end: &[u8] = b"MSG a 1 2\r\nabcdMSG";
    let (_, all, follows) = pieces(Protocol::Nats, Direction::ToClient, &[wrong_end]);
    assert!(!follows);
    assert_eq!(all, wrong_end);
}

proptest! {
    #[test]
    fn framing_does_not_depend_on_how_the_bytes_arrive(cuts in prop::collection::vec(0..CONVERSATION.len(), 0..20)) {
        let mut cuts = cuts;
        cuts.push(CONVERSATION.len());
        cuts.sort_unstable();
        let mut from = 0;
        let chunks: Vec<&[u8]> = cuts.iter().map(|to| { let chunk = &CONVERSATION[from..*to]; from = *to; chunk }).collect();
        let whole = pieces(Protocol::Nats, Direction::ToClient, &[CONVERSATION]);
        prop_assert_eq!(pieces(Protocol::Nats, Direction::ToClient, &chunks), whole);
    }

    #[test]
    fn no_bytes_are_ever_lost(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
        let at = at.min(bytes.len());
        for protocol in [Protocol::Nats, Protocol::Postgres] {
            for direction in [Direction::ToServer, Direction::ToClient] {
                let (_, all, _) = pieces(protocol, direction, &[&bytes[..at], &bytes[at..]]);
                prop_assert_eq!(&all, &bytes);
            }
        }
    }
}
