//! Losses that workers cause themselves.

use chaos::checker::{Check, Violation};
use chaos::history::{EventKind, LogLine, Round};

use crate::example::{assert_only, at, broken};

/// The example with events, and with lines that worker-1 logged.
fn logged(events: &[EventKind], lines: &[&str], change: impl FnOnce(&mut Round)) -> Vec<Violation> {
    broken(|round| {
        round.events.extend(events.iter().map(|event| at(50, event.clone())));
        let line = |text: &&str| LogLine { process: "worker-1".into(), text: (*text).to_owned() };
        round.state.errors = lines.iter().map(line).collect();
        change(round);
    })
}

const STARTING_OVER: &str = r#"{"level":"ERROR","partition":"1","mismatch":"MessagesMissing","message":"the stream is not the one that was read before, or lost messages: starting over"}"#;
const GONE: &str =
    r#"{"level":"ERROR","partition":"1","message":"the stream is gone: starting over with a new one"}"#;
const DEAD_LETTER: &str = r#"{"level":"ERROR","partition":"1","sequence":7,"message":"dead letter"}"#;
const PANIC: &str = "thread 'main' panicked at worker/src/x.rs:1:1:";

#[test]
fn a_generation_rises_only_if_something_took_messages() {
    let rise = |round: &mut Round| round.state.queues[1].generation_after = 2;
    let without_cause = logged(&[], &[STARTING_OVER], rise);
    assert_only(&without_cause, Check::Loss);
    assert!(without_cause[0].excerpt[0].contains("MessagesMissing"), "{without_cause:?}");
    assert_only(&logged(&[EventKind::QueueLoses { partitions: vec![0] }], &[], rise), Check::Loss);
    assert_eq!(logged(&[EventKind::QueueLoses { partitions: vec![0, 1] }], &[STARTING_OVER, GONE], rise), []);
    let first = |round: &mut Round| round.state.queues[1].generation_before = 0;
    assert_eq!(logged(&[], &[], first), []);
}

#[test]
fn the_last_applied_message_stays_unless_something_took_it() {
    let purged = |round: &mut Round| round.state.queues[1].holds_last = false;
    assert_only(&logged(&[], &[], purged), Check::Loss);
    assert_only(&logged(&[EventKind::QueueLoses { partitions: vec![0] }], &[], purged), Check::Loss);
    assert_eq!(logged(&[EventKind::QueueLoses { partitions: vec![1] }], &[], purged), []);
}

#[test]
fn every_error_that_is_logged_has_a_cause() {
    let unchanged = |_: &mut Round| {};
    for line in [STARTING_OVER, GONE, DEAD_LETTER, PANIC, r#"{"level":"ERROR","message":"Postgres"}"#] {
        assert_only(&logged(&[], &[line], unchanged), Check::Loss);
        let other = [
            EventKind::QueueLoses { partitions: vec![0] },
            EventKind::NotUnderstood { partition: 0 },
            EventKind::FaultBegin { fault: "kill-nats".into(), target: "nats".into() },
        ];
        assert_only(&logged(&other, &[line], unchanged), Check::Loss);
    }
    assert_eq!(
        logged(&[EventKind::QueueLoses { partitions: vec![1] }], &[STARTING_OVER, GONE], unchanged),
        []
    );
    assert_eq!(logged(&[EventKind::NotUnderstood { partition: 1 }], &[DEAD_LETTER], unchanged), []);
    assert_only(
        &logged(&[EventKind::NotUnderstood { partition: 1 }], &[STARTING_OVER], unchanged),
        Check::Loss,
    );
    assert_only(
        &logged(&[EventKind::QueueLoses { partitions: vec![1] }], &[DEAD_LETTER], unchanged),
        Check::Loss,
    );
}
