//! Back to normal: queues read to their ends, no transaction left open, figures within their limits.

use super::index::Index;
use super::violation::{Check, Findings};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let state = &index.round.state;
    for end in &state.partitions {
        if end.stream_last != Some(end.cursor) {
            findings.add(
                Check::Cursor,
                || match end.stream_last {
                    Some(last) => {
                        format!(
                            "partition {} is read to {}, its stream ends at {last}",
                            end.partition, end.cursor
                        )
                    }
                    None => format!("partition {} has no stream", end.partition),
                },
                |excerpt| excerpt,
            );
        }
    }
    for session in &state.idle_in_transaction {
        findings.add(
            Check::IdleInTransaction,
            || format!("{} has been idle in a transaction for {} ms", session.application, session.idle_ms),
            |excerpt| excerpt.text(format!("session {}: {}", session.pid, session.query)),
        );
    }
    for gauge in state.gauges.iter().filter(|gauge| gauge.value > gauge.limit) {
        findings.add(
            Check::Gauge,
            || format!("{} is {}, above {}", gauge.name, gauge.value, gauge.limit),
            |excerpt| excerpt,
        );
    }
}
