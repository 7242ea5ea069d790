//! Losses that the workers cause themselves: a queue is read from its beginning to its end unless something took
//! messages from it.
//!
//! A worker that concludes wrongly that messages are missing passes over those that are there, and begins a new
//! generation. Its clients are told that the outcome is unknown, so that no answer is false. What shows is the
//! generation, and what the worker says of it.

use serde_json::Value;

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};
use crate::history::{EventKind, LogLine};

/// What workers say when they keep a message that they do not understand.
const DEAD_LETTER: &str = "dead letter";

/// What they say when they start over with a stream.
const STARTING_OVER: &str = "starting over";

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for queue in &index.round.state.queues {
        let partition = queue.partition;
        if loses(index, partition) {
            continue;
        }
        // The first generation of all is no loss.
        if queue.generation_after > queue.generation_before.max(1) {
            let (before, after) = (queue.generation_before, queue.generation_after);
            let summary = format!(
                "partition {partition} went from generation {before} to {after}, but nothing took messages"
            );
            findings.add(Check::Loss, summary, lines_of(index, partition));
        }
        if !queue.holds_last {
            let summary =
                format!("partition {partition}: the last applied message is gone, but nothing took it");
            findings.add(Check::Loss, summary, lines_of(index, partition));
        }
    }
    for line in index.round.state.errors.iter().filter(|line| !is_explained(index, line)) {
        let summary = format!("{} logged an error that no fault explains", line.process);
        findings.add(Check::Loss, summary, Excerpt::default().text(&line.text));
    }
}

/// Whether a fault may have taken messages from a partition's queue.
fn loses(index: &Index<'_>, partition: u32) -> bool {
    index.round.events.iter().any(|event| match &event.kind {
        EventKind::QueueLoses { partitions } => partitions.contains(&partition),
        _ => false,
    })
}

/// Whether a fault published something to a partition that workers do not understand.
fn is_misunderstood(index: &Index<'_>, wanted: u32) -> bool {
    let events = &index.round.events;
    events
        .iter()
        .any(|event| matches!(event.kind, EventKind::NotUnderstood { partition } if partition == wanted))
}

fn is_explained(index: &Index<'_>, line: &LogLine) -> bool {
    let disk_is_full = index.round.events.iter().any(
        |event| matches!(&event.kind, EventKind::FaultBegin { fault, .. } if fault.starts_with("disk-full")),
    );
    let fields: Value = serde_json::from_str(&line.text).unwrap_or_default();
    let message = fields["message"].as_str().unwrap_or_default();
    let partition = partition_of(&fields);
    disk_is_full
        || (message == DEAD_LETTER && partition.is_some_and(|partition| is_misunderstood(index, partition)))
        || (message.contains(STARTING_OVER) && partition.is_some_and(|partition| loses(index, partition)))
}

fn partition_of(fields: &Value) -> Option<u32> {
    fields["partition"].as_str()?.parse().ok()
}

/// What was logged about a partition.
fn lines_of(index: &Index<'_>, partition: u32) -> Excerpt {
    let lines = index.round.state.errors.iter().filter(|line| {
        let fields: Value = serde_json::from_str(&line.text).unwrap_or_default();
        partition_of(&fields) == Some(partition)
    });
    lines.fold(Excerpt::default(), |excerpt, line| excerpt.text(format!("{}: {}", line.process, line.text)))
}
