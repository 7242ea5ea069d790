//! A server may be slow, busy or rude without breaking a promise.

use std::time::Duration;

use loadtest::drive::{Fault, Pace};

use crate::fake::{Manner, Server};
use crate::{broken, sale};

#[test]
fn a_busy_server_is_asked_again_with_the_same_key() {
    let server = Server::start(Manner::Busy);
    let report = sale(&server).run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.outcome.total.won, report.outcome.total.retries), (50, 400));
}

#[test]
fn without_retries_a_busy_answer_leaves_the_outcome_unknown() {
    let server = Server::start(Manner::Busy);
    let mut sale = sale(&server);
    sale.retries = 0;
    sale.mix.users = Some(1);
    let report = sale.run(|_| ()).unwrap();
    assert_eq!(report.outcome.ledger.unknown.len(), 1);
    assert_eq!((report.outcome.total.won, report.outcome.total.retries), (0, 0));
    assert_eq!(broken(&report), ["every claim gets an outcome"]);
}

#[test]
fn a_pending_claim_is_followed_to_its_outcome() {
    let server = Server::start(Manner::Pending);
    let report = sale(&server).run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.outcome.total.won, report.outcome.total.follow_ups), (50, 800));
}

#[test]
fn a_broken_connection_is_opened_again_and_the_outcome_learned() {
    let server = Server::start(Manner::BreaksOff);
    let report = sale(&server).run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!(report.outcome.total.won, 50);
    assert!(report.outcome.total.faults[1] >= 16, "{:?}", report.outcome.total.faults);
}

#[test]
fn a_server_that_closes_after_each_answer_is_connected_to_again() {
    let server = Server::start(Manner::Closes);
    let report = sale(&server).run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.outcome.total.finished, report.outcome.total.faults), (400, [0; 4]));
}

#[test]
fn an_open_loop_survives_closed_connections_and_late_answers() {
    for manner in [Manner::Closes, Manner::Sleeps] {
        let server = Server::start(manner);
        let mut sale = sale(&server);
        // Slow enough that connections wait for a request to be due.
        sale.pace = Pace::Open { rate: 500.0 };
        if manner == Manner::Sleeps {
            sale.timeout = Duration::from_millis(300);
        }
        let report = sale.run(|_| ()).unwrap();
        assert_eq!(broken(&report), [""; 0], "{manner:?}");
        let total = &report.outcome.total;
        assert_eq!((total.finished, report.outcome.unsent), (400, 0), "{manner:?}");
        let timed_out = total.faults[Fault::TimedOut as usize];
        assert_eq!(total.faults.iter().sum::<u64>(), timed_out, "{manner:?}: {:?}", total.faults);
        assert_eq!(timed_out > 0, manner == Manner::Sleeps, "{:?}", total.faults);
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let server = Server::start(Manner::Honest);
    let sale = sale(&server);
    drop(server);
    assert!(sale.run(|_| ()).is_err());
}
