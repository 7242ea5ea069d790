//! The check finds every way in which a server's answers and its state can differ.

use loadtest::drive::Mix;

use crate::fake::{self, Manner, Server};
use crate::{broken, sale};

#[test]
fn an_honest_server_passes() {
    let server = Server::start(Manner::Honest);
    let report = sale(&server).run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.outcome.total.finished, report.outcome.total.won), (400, 50));
    assert_eq!(report.outcome.ledger.sold_out, [350]);
}

#[test]
fn many_coupons_and_repeated_users_pass_on_an_honest_server() {
    let server = Server::start(Manner::Honest);
    let mut sale = sale(&server);
    sale.stock = 3;
    sale.mix =
        Mix { coupons: 40, skew: 1.0, repeat_share: 0.4, users: Some(1000), earlier_users: 50, seed: 3 };
    let report = sale.run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert!(!report.outcome.ledger.already_claimed.is_empty());
    assert!(report.outcome.total.finished > 1600);
}

#[test]
fn several_servers_are_each_asked_in_their_own_way() {
    let server = Server::start(Manner::Pending);
    let mut sale = sale(&server);
    // A fake server of its own knows nothing of this one's coupon.
    let elsewhere = Server::start(Manner::Honest);
    let front = format!("{}/front", server.url().replace("127.0.0.1", "localhost"));
    sale.targets = [server.url(), front].iter().map(|url| url.parse().unwrap()).collect();
    let report = sale.clone().run(|_| ()).unwrap();
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!(report.outcome.total.won, 50);
    sale.targets[1] = format!("{}/front", elsewhere.url()).parse().unwrap();
    assert!(!sale.run(|_| ()).unwrap().passed());
}

#[test]
fn a_coupon_that_exists_already_is_used_as_it_is() {
    let server = Server::start(Manner::Honest);
    for won in [50, 0] {
        let mut sale = sale(&server);
        sale.coupon = Some("the one".to_owned());
        let report = sale.run(|_| ()).unwrap();
        assert_eq!(broken(&report), [""; 0]);
        assert_eq!(report.outcome.total.won, won);
    }
}

#[test]
fn each_cheat_is_found() {
    let same = "the list holds exactly those who were told to have won";
    let cheats = [
        (Manner::Oversells, "the stock and the claims add up, and nothing is oversold"),
        (Manner::WinsTwice, "nobody is told twice to have won"),
        (Manner::WinsTwice, "nobody is in a coupon's list twice"),
        (Manner::WrongPosition, "each winner's position is the place in the list"),
        (Manner::ForgetsWinners, same),
        (Manner::SoldOutEarly, "sold out is said only when all are gone"),
        (Manner::FalseConflict, "claimed already is said only to winners"),
        (Manner::RefusesWinners, "sold out is never said to a winner"),
        (Manner::Fails, "every answer is one that the contract knows"),
        (Manner::PointsNowhere, "every answer is one that the contract knows"),
    ];
    for (manner, promise) in cheats {
        let server = Server::start(manner);
        let mut sale = sale(&server);
        sale.mix.repeat_share = 0.3;
        let report = sale.run(|_| ()).unwrap();
        assert!(broken(&report).contains(&promise), "{manner:?}: {:?}", broken(&report));
        assert!(!report.passed());
    }
}

#[test]
fn what_is_no_http_is_no_answer_of_the_contract() {
    let server = Server::start(Manner::Honest);
    let mut sale = sale(&server);
    sale.targets = vec![format!("http://{}", fake::no_http()).parse().unwrap()];
    sale.mix.users = Some(3);
    sale.retries = 0;
    sale.unknown_max = None;
    let report = sale.run(|_| ()).unwrap();
    assert_eq!(broken(&report), ["every answer is one that the contract knows"]);
}
