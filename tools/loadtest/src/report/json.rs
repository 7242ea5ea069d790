//! A run's figures for programs.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json as value};

use crate::drive::{Fault, Pace, percentile_ms, threads_used};
use crate::sale::Report;
use crate::target::Target;

use super::number::PERCENTILES;

/// Everything about a run, as one JSON object.
pub fn json(report: &Report) -> Value {
    let (sale, outcome) = (&report.sale, &report.outcome);
    let total = &outcome.total;
    let answers = total.answers.iter();
    let answers =
        answers.map(|((status, code), count)| value!({"status": status, "code": code, "count": count}));
    let faults =
        Fault::ALL.iter().zip(total.faults).map(|(fault, count)| (fault.name().to_owned(), count.into()));
    value!({
        "run": {
            "servers": sale.targets.iter().map(Target::authority).collect::<Vec<_>>(),
            "stock": sale.stock,
            "coupons": sale.mix.coupons,
            "skew": sale.mix.skew,
            "users": sale.mix.users,
            "earlier_users": sale.mix.earlier_users,
            "repeat_share": sale.mix.repeat_share,
            "seed": sale.mix.seed,
            "connections": sale.connections,
            "threads": threads_used(sale.threads, sale.connections),
            "rate": if let Pace::Open { rate } = sale.pace { Some(rate) } else { None },
            "duration_s": sale.length.map(|length| length.as_secs_f64()),
            "retries_max": sale.retries,
        },
        "elapsed_s": outcome.elapsed.as_secs_f64(),
        "sent": outcome.sent,
        "unsent": outcome.unsent,
        "finished": total.finished,
        "finished_per_s": report.rate(),
        "won": total.won,
        "won_per_s": report.won_rate(),
        "unknown": outcome.ledger.unknown.len(),
        "retries": total.retries,
        "follow_ups": total.follow_ups,
        "answers": answers.collect::<Vec<_>>(),
        "faults": faults.collect::<Map<String, Value>>(),
        "latency_ms": latency(&total.latency_us),
        "won_latency_ms": latency(&total.won_latency_us),
        "timeline": report.timeline,
        "checks": report.checks,
        "viewed_in_s": report.viewed_in.as_secs_f64(),
        "passed": report.passed(),
    })
}

fn latency(latency_us: &Histogram<u64>) -> Value {
    let mut figures = Map::new();
    figures.insert("mean".to_owned(), (latency_us.mean() / 1000.0).into());
    for (percentile, name) in PERCENTILES {
        figures.insert(name.to_owned(), percentile_ms(latency_us, percentile).into());
    }
    figures.insert("max".to_owned(), (latency_us.max() as f64 / 1000.0).into());
    figures.into()
}
