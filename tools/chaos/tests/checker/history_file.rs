//! A history that was written is read back as it was, and gives the same result.

use chaos::checker::check;
use chaos::history::{Entry, Event, EventKind, Reader, Writer};

use crate::example::valid;

#[test]
fn a_history_survives_its_file_even_if_the_end_is_missing() {
    let dir = std::env::temp_dir().join(format!("chaos-history-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("history.jsonl");
    let round = valid();
    let mut writer = Writer::create(&path).unwrap();
    for _ in 0..2 {
        for event in &round.events {
            writer.write(&Entry::Event(event.clone())).unwrap();
        }
        for op in &round.ops {
            writer.write(&Entry::Op(Box::new(op.clone()))).unwrap();
        }
        writer.write(&Entry::State(Box::new(round.state.clone()))).unwrap();
    }
    for number in [3, 4] {
        let begin = EventKind::RoundBegin { round: number, seed: 42 };
        writer.write(&Entry::Event(Event { at_us: 0, kind: begin })).unwrap();
        writer.write(&Entry::Op(Box::new(round.ops[0].clone()))).unwrap();
    }
    writer.flush().unwrap();

    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 5]).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    for _ in 0..2 {
        let read = reader.next_round().unwrap().expect("a round is missing");
        assert_eq!(read, round);
        assert_eq!(check(&read), []);
    }
    assert_eq!(reader.next_round().unwrap(), None);
    assert_eq!(reader.unfinished(), [3, 4]);

    std::fs::write(&path, "not an entry\n").unwrap();
    assert!(Reader::open(&path).unwrap().next_round().is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}
