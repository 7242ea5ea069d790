//! Closed and open loops.

use std::time::Duration;

use loadtest::drive::{Pace, percentile_ms};

use crate::fake::{Manner, Server};
use crate::sale;

#[test]
fn a_closed_loop_ends_with_its_time() {
    let server = Server::ceiling();
    let mut sale = sale(&server);
    sale.mix.users = None;
    sale.length = Some(Duration::from_millis(500));
    sale.check = false;
    let report = sale.run(|_| ()).unwrap();
    let total = &report.outcome.total;
    assert!(total.finished > 100 && total.finished == total.won, "{}", total.finished);
    assert_eq!(total.finished, report.outcome.sent);
    let elapsed = report.outcome.elapsed;
    assert!(elapsed > Duration::from_millis(400) && elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(!report.timeline.is_empty());
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let server = Server::ceiling();
    let mut sale = sale(&server);
    sale.mix.users = None;
    sale.pace = Pace::Open { rate: 1000.0 };
    sale.length = Some(Duration::from_millis(700));
    sale.check = false;
    let report = sale.run(|_| ()).unwrap();
    assert_eq!((report.outcome.total.finished, report.outcome.unsent), (700, 0));
    assert!(report.outcome.elapsed >= Duration::from_millis(699), "{:?}", report.outcome.elapsed);
}

#[test]
fn a_stall_is_not_hidden_by_an_open_loop() {
    let server = Server::start(Manner::Stalls(Duration::from_millis(600)));
    let mut sale = sale(&server);
    sale.mix.users = None;
    sale.pace = Pace::Open { rate: 1000.0 };
    sale.length = Some(Duration::from_millis(600));
    // Two requests stall; the other hundreds are only late, and have to show it.
    sale.connections = 2;
    let report = sale.run(|_| ()).unwrap();
    let latency = &report.outcome.total.latency_us;
    assert!(latency.len() >= 600, "{}", latency.len());
    assert!(percentile_ms(latency, 50.0) > 150.0, "{}", percentile_ms(latency, 50.0));
    assert_eq!(report.outcome.unsent, 0);
}
