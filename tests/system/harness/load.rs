//! Clients that claim without a pause until they are told to stop, and repeat every claim, with its
//! `Idempotency-Key`, until its outcome is definite.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::http::Client;
use super::system::System;
use super::test::LIMIT;

/// Pause before a claim is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(50);

/// Longest wait for a claim's definite outcome, all repetitions together.
const OUTCOME_LIMIT: Duration = Duration::from_secs(40);

/// What became of one user's claim.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) user: String,
    pub(crate) coupon: String,
    /// The claim's id and position, or none when nothing was left.
    pub(crate) won: Option<(Uuid, i64)>,
    /// The codes of the problems before the outcome, `pending` for a 202.
    pub(crate) before: Vec<String>,
}

/// Clients at work.
pub(crate) struct Load {
    stop: CancellationToken,
    answered: watch::Sender<usize>,
    clients: Vec<JoinHandle<Vec<Answer>>>,
}

impl Load {
    /// Lets `count` clients claim `coupons` in turn, each claim by another user.
    pub(crate) fn start(clients: &[Client], coupons: &[String], count: usize) -> Self {
        let (stop, answered, users) =
            (CancellationToken::new(), watch::Sender::new(0), Arc::new(AtomicUsize::new(0)));
        let work = |client: Client| {
            let (stop, answered, users, coupons) =
                (stop.clone(), answered.clone(), users.clone(), coupons.to_vec());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !stop.is_cancelled() {
                    let number = users.fetch_add(1, Ordering::Relaxed);
                    let coupon = &coupons[number % coupons.len()];
                    answers.push(claim(&client, &format!("user-{number}"), coupon).await);
                    answered.send_modify(|answered| *answered += 1);
                }
                answers
            })
        };
        let tasks = clients.iter().cycle().take(count).cloned().map(work).collect();
        Self { stop, answered, clients: tasks }
    }

    /// Waits until that many more claims have got their outcome.
    pub(crate) async fn goes_on(&self, more: usize) {
        let mut answered = self.answered.subscribe();
        let wanted = *answered.borrow() + more;
        let reached = tokio::time::timeout(LIMIT, answered.wait_for(|answered| *answered >= wanted)).await;
        assert!(reached.is_ok(), "the claims do not go on");
    }

    /// Lets every client finish its claim.
    pub(crate) async fn finish(self) -> Vec<Answer> {
        self.stop.cancel();
        let mut answers = Vec::new();
        for client in self.clients {
            answers.extend(client.await.unwrap());
        }
        answers
    }
}

async fn claim(client: &Client, user: &str, coupon: &str) -> Answer {
    let deadline = Instant::now() + OUTCOME_LIMIT;
    let mut before = Vec::new();
    loop {
        let reply = client.claim_with_key(user, coupon, &format!("key of {user}")).await;
        let won = match reply.status {
            200 => Some(reply.assert_claimed(user, coupon)),
            400 => {
                reply.assert_problem(400, "sold_out");
                None
            }
            202 | 503 => {
                match reply.status {
                    202 => {
                        reply.assert_pending(user, coupon);
                        before.push("pending".to_owned());
                    }
                    _ => before.push(reply.code()),
                }
                assert!(Instant::now() < deadline, "no outcome for {user} in time: {before:?}");
                tokio::time::sleep(REPEAT_AFTER).await;
                continue;
            }
            _ => panic!("{user} was told, after {before:?}: {reply:?}"),
        };
        return Answer { user: user.to_owned(), coupon: coupon.to_owned(), won, before };
    }
}

impl Answer {
    /// Asserts that the database holds exactly what the clients were told.
    pub(crate) async fn assert_true(answers: &[Self], system: &System) {
        let rows: Vec<(String, String, Uuid, i64)> =
            sqlx::query_as("SELECT coupon_name, user_id, claim_id, position FROM claims")
                .fetch_all(system.pool())
                .await
                .unwrap();
        let count = rows.len();
        let claims: HashMap<_, _> =
            rows.into_iter().map(|(coupon, user, id, position)| ((coupon, user), (id, position))).collect();
        for answer in answers {
            let claim = claims.get(&(answer.coupon.clone(), answer.user.clone()));
            assert_eq!(claim, answer.won.as_ref(), "{answer:?}");
        }
        assert_eq!(count, answers.iter().filter(|answer| answer.won.is_some()).count());
        // Whoever was refused was refused because nothing was left.
        let left: Vec<String> = sqlx::query_scalar("SELECT name FROM coupons WHERE remaining_amount > 0")
            .fetch_all(system.pool())
            .await
            .unwrap();
        let refused = answers.iter().find(|answer| answer.won.is_none() && left.contains(&answer.coupon));
        assert!(refused.is_none(), "{refused:?}");
    }
}
