//! Back to normal: queues read to their ends, no open transaction, gauges within their limits.

use super::index::Index;
use super::violation::{Check, Excerpt, Findings};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let state = &index.round.state;
    for end in state.partitions.iter().filter(|end| !end.is_quiet()) {
        let (partition, cursor) = (end.partition, end.cursor);
        let summary = match end.stream_last {
            Some(last) => format!("partition {partition} is read to {cursor}, its stream ends at {last}"),
            None => format!("partition {partition} has no stream"),
        };
        findings.add(Check::Cursor, summary, Excerpt::default());
    }
    for session in &state.idle_in_transaction {
        let summary =
            format!("{} has been idle in a transaction for {} ms", session.application, session.idle_ms);
        let excerpt = Excerpt::default().text(format!("session {}: {}", session.pid, session.query));
        findings.add(Check::IdleInTransaction, summary, excerpt);
    }
    for gauge in state.gauges.iter().filter(|gauge| gauge.value > gauge.limit) {
        let summary = format!("{} is {}, above {}", gauge.name, gauge.value, gauge.limit);
        findings.add(Check::Gauge, summary, Excerpt::default());
    }
}
