//! Many who claim at once, through one API and through two with three workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::json;
use tokio::sync::Barrier;

use crate::harness::{Client, Load, Reply, Setup, System, assert_first_come_first_served, run};

/// Rounds of each small race.
const ROUNDS: usize = 100;

/// Sends all claims (user and coupon) at once, to the APIs in turn.
async fn at_once(clients: &[Client], claims: Vec<(String, String)>) -> Vec<(String, Reply)> {
    let barrier = Arc::new(Barrier::new(claims.len()));
    let claims = claims.into_iter().zip(clients.iter().cycle().cloned()).map(|((user, coupon), client)| {
        let barrier = barrier.clone();
        tokio::spawn(async move {
            barrier.wait().await;
            let reply = client.claim(&user, &coupon).await;
            (user, reply)
        })
    });
    join_all(claims).await.into_iter().map(Result::unwrap).collect()
}

/// `users` at once for `amount`: exactly the first `amount` win, everyone else is told that nothing is
/// left, and the view shows the winners in the order of the positions that they were told.
async fn sale(clients: &[Client], coupon: &str, users: usize, amount: i32) {
    clients[0].create(coupon, amount).await;
    let claims = (0..users).map(|number| (format!("user-{number}"), coupon.to_owned())).collect();
    let (mut winners, mut refused) = (BTreeMap::new(), 0);
    for (user, reply) in at_once(clients, claims).await {
        if reply.status == 200 {
            let (_, position) = reply.assert_claimed(&user, coupon);
            assert_eq!(winners.insert(position, user), None, "position {position} twice");
        } else {
            reply.assert_problem(400, "sold_out");
            refused += 1;
        }
    }
    let won = users.min(usize::try_from(amount).unwrap());
    assert_eq!((winners.len(), refused), (won, users - won), "{coupon}");
    assert_eq!(winners.keys().copied().collect::<Vec<_>>(), (1..=won as i64).collect::<Vec<_>>());
    let view = json!({
        "name": coupon, "amount": amount, "remaining_amount": amount - i32::try_from(won).unwrap(),
        "claimed_by": winners.into_values().collect::<Vec<_>>()
    });
    for client in clients {
        assert_eq!(client.view(coupon).await, view);
    }
}

/// One user `times` times at once: one claim wins.
async fn greedy_user(clients: &[Client], coupon: &str, times: usize) {
    clients[0].create(coupon, 100).await;
    let replies = at_once(clients, vec![("greedy".to_owned(), coupon.to_owned()); times]).await;
    let (won, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|(_, reply)| reply.status == 200);
    assert_eq!((won.len(), refused.len()), (1, times - 1), "{replies:?}");
    assert_eq!(won[0].1.assert_claimed("greedy", coupon).1, 1);
    refused.iter().for_each(|(_, reply)| reply.assert_problem(409, "already_claimed"));
    let view = clients[0].view(coupon).await;
    assert_eq!((&view["remaining_amount"], &view["claimed_by"]), (&json!(99), &json!(["greedy"])));
}

/// Two users at once for the last one of a coupon.
async fn last_one(clients: &[Client], coupon: &str) {
    clients[0].create(coupon, 2).await;
    clients[0].claim("first", coupon).await.assert_claimed("first", coupon);
    let users = ["left", "right"].map(|user| (user.to_owned(), coupon.to_owned()));
    let mut replies = at_once(clients, users.to_vec()).await;
    replies.sort_by_key(|(_, reply)| reply.status);
    assert_eq!(replies[0].1.assert_claimed(&replies[0].0, coupon).1, 2);
    replies[1].1.assert_problem(400, "sold_out");
    assert_eq!(clients[0].view(coupon).await["claimed_by"], json!(["first", replies[0].0]));
    clients[0].claim(&replies[0].0, coupon).await.assert_problem(409, "already_claimed");
    clients[0].claim(&replies[1].0, coupon).await.assert_problem(400, "sold_out");
}

async fn cluster() -> System {
    // Nothing is purged, so that the order can be checked.
    Setup::new().apis(2).workers(3).env("PURGE_INTERVAL_MS", 0).start().await
}

async fn end(system: System) {
    assert_first_come_first_served(&system).await;
    system.stop().await;
}

#[test]
fn fifty_users_for_five() {
    run(async {
        let system = System::start().await;
        for round in 0..ROUNDS {
            sale(&system.clients(), &format!("round-{round}"), 50, 5).await;
        }
        system.stop().await;
    });
}

#[test]
fn one_user_ten_times() {
    run(async {
        let system = System::start().await;
        for round in 0..ROUNDS {
            greedy_user(&system.clients(), &format!("round-{round}"), 10).await;
        }
        system.stop().await;
    });
}

#[test]
fn two_users_for_the_last_one() {
    run(async {
        let system = System::start().await;
        for round in 0..ROUNDS {
            last_one(&system.clients(), &format!("round-{round}")).await;
        }
        system.stop().await;
    });
}

#[test]
fn sixty_four_users_for_one() {
    run(async {
        let system = System::start().await;
        for round in 0..ROUNDS {
            sale(&system.clients(), &format!("round-{round}"), 64, 1).await;
        }
        system.stop().await;
    });
}

#[test]
fn five_hundred_users_for_fifty() {
    run(async {
        let system = System::start().await;
        for round in 0..3 {
            sale(&system.clients(), &format!("round-{round}"), 500, 50).await;
        }
        // More than there are users.
        sale(&system.clients(), "plenty", 500, 501).await;
        system.stop().await;
    });
}

#[test]
fn a_cluster_sells_as_exactly_as_one_of_each() {
    run(async {
        let system = cluster().await;
        let clients = system.clients();
        for round in 0..ROUNDS / 4 {
            sale(&clients, &format!("sale-{round}"), 50, 5).await;
            sale(&clients, &format!("single-{round}"), 64, 1).await;
            greedy_user(&clients, &format!("greedy-{round}"), 10).await;
            last_one(&clients, &format!("last-{round}")).await;
        }
        sale(&clients, "big", 500, 50).await;
        end(system).await;
    });
}

#[test]
fn many_sales_at_once_do_not_mix() {
    run(async {
        let system = cluster().await;
        let clients = system.clients();
        let names: Vec<_> = (0..16).map(|number| format!("sale-{number}")).collect();
        let sales =
            names.iter().enumerate().map(|(number, name)| sale(&clients, name, 40, 1 + number as i32 * 3));
        join_all(sales).await;
        end(system).await;
    });
}

#[test]
fn the_same_key_many_times_at_once_is_one_claim() {
    run(async {
        let system = cluster().await;
        for round in 0..20 {
            let coupon = format!("round-{round}");
            system.client().create(&coupon, 1).await;
            let clients = system.clients();
            let claims =
                clients.iter().cycle().take(10).map(|client| client.claim_with_key("ann", &coupon, "key"));
            let replies = join_all(claims).await;
            for reply in &replies {
                assert_eq!(reply.assert_claimed("ann", &coupon).1, 1);
                assert_eq!(reply.body, replies[0].body);
            }
        }
        end(system).await;
    });
}

#[test]
fn every_view_is_of_one_moment() {
    run(async {
        let system = cluster().await;
        let coupons: Vec<_> = ["one", "two"].map(str::to_owned).to_vec();
        for coupon in &coupons {
            system.client().create(coupon, 1_000_000).await;
        }
        let load = Load::start(&system.clients(), &coupons, 4);
        let (mut seen, mut views) = (vec![Vec::new(); coupons.len()], 0);
        while views < 100 {
            for (coupon, seen) in coupons.iter().zip(&mut seen) {
                let view = system.client().view(coupon).await;
                let users = view["claimed_by"].as_array().unwrap();
                assert_eq!(view["remaining_amount"], json!(1_000_000 - users.len()), "{coupon}");
                assert!(users.starts_with(seen), "a later view begins as an earlier one");
                seen.clone_from(users);
            }
            views += 1;
        }
        load.goes_on(1).await;
        let answers = load.finish().await;
        assert!(answers.iter().all(|answer| answer.won.is_some() && answer.before.is_empty()));
        end(system).await;
    });
}
