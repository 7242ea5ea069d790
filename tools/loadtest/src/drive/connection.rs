//! A connection that is kept busy: it takes a request, follows it to its final answer, and takes the next.

use std::io;
use std::time::{Duration, Instant};

use client::header::{HeaderName, LOCATION, RETRY_AFTER};
use client::{Bytes, Error, Limits, Response, Uri};
use tokio::time::{sleep, timeout_at};

use super::answer::{Answer, Meaning};
use super::pace::Due;
use super::requests::Requests;
use super::shared::Shared;
use super::tally::Fault;

/// A claim is answered in a few hundred bytes; anything much larger is a fault.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// First pause before a connection is opened again, or a request is sent again; it doubles with each failure.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, whatever the server's `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that could not be opened this many times in a row, over some 30 seconds, is given up.
const CONNECT_FAILURES_MAX: u32 = 20;

/// A claim on its way to a final answer.
#[derive(Debug)]
struct Claim {
    due: Due,
    user_id: String,
    attempts: u32,
    /// Where to ask for the outcome, once the claim was answered with "pending".
    follow: Option<Uri>,
}

/// One keep-alive connection and the claim it is busy with.
#[derive(Debug)]
pub(super) struct Connection<'a, 'b> {
    shared: &'a Shared<'b>,
    requests: &'a Requests,
    connection: client::Connection,
    claim: Option<Claim>,
}

impl<'a, 'b> Connection<'a, 'b> {
    /// The connection number `number`; the servers take turns.
    pub(super) fn new(shared: &'a Shared<'b>, requests: &'a [Requests], number: usize) -> Self {
        let server = number % shared.drive.addresses.len();
        let limits = Limits { connect: shared.drive.timeout, body_bytes_max: ANSWER_BYTES_MAX };
        let connection = client::Connection::new(shared.drive.addresses[server], limits);
        Self { shared, requests: &requests[server], connection, claim: None }
    }

    /// Opens the connection unless it is open; tries again after failures. Tells whether there is any use in going on.
    pub(super) async fn connected(&mut self) -> bool {
        for failures in 1..=CONNECT_FAILURES_MAX {
            match self.connection.open().await {
                Ok(()) => return true,
                Err(_) => self.shared.counts.borrow_mut().tally.fault(Fault::Connect),
            }
            sleep(pause_after(failures)).await;
            if self.claim.is_none() && self.shared.turns.over() {
                return false;
            }
        }
        false
    }

    /// Sends requests until none is left, the server has been away for too long, or `deadline` has passed. What has
    /// no answer by then never gets one.
    pub(super) async fn run(mut self, deadline: Option<Instant>) -> io::Result<()> {
        let ended = match deadline {
            Some(deadline) => timeout_at(deadline.into(), self.work()).await.unwrap_or(Ok(())),
            None => self.work().await,
        };
        if let Some(claim) = self.claim {
            self.shared.counts.borrow_mut().ledger.unknown.push(claim.due.ask);
        }
        ended
    }

    async fn work(&mut self) -> io::Result<()> {
        while self.connected().await {
            if self.claim.is_none() {
                let Some(due) = self.shared.turns.next().await? else { break };
                let user_id = self.requests.user_id(due.ask.user);
                self.claim = Some(Claim { due, user_id, attempts: 0, follow: None });
            }
            if let Some(pause) = self.attempt().await {
                sleep(pause).await;
            }
        }
        Ok(())
    }

    /// Sends the claim, or the question for its outcome. Returns how long to wait before it is sent again.
    async fn attempt(&mut self) -> Option<Duration> {
        let claim = self.claim.as_ref()?;
        let request = match &claim.follow {
            Some(uri) => {
                self.shared.counts.borrow_mut().tally.follow_ups += 1;
                self.requests.follow_up(uri)
            }
            None => self.requests.claim(&claim.user_id, claim.due.ask.coupon, claim.due.serial),
        };
        match self.connection.send(request, self.shared.drive.timeout).await {
            Ok(response) => self.answered(&response),
            Err(error) => self.failed(&error),
        }
    }

    fn answered(&mut self, response: &Response<Bytes>) -> Option<Duration> {
        let (now, drive) = (Instant::now(), self.shared.drive);
        let mut counts = self.shared.counts.borrow_mut();
        let answer = Answer::read(response);
        counts.tally.answer(answer.status, answer.code());
        let claim = self.claim.as_mut()?;
        let mut meaning = answer.meaning(&claim.user_id);
        let again = match meaning {
            Meaning::Pending => {
                if let Some(location) = text(response, LOCATION) {
                    claim.follow = self.requests.follow_up_at(location);
                }
                if claim.follow.is_none() {
                    // Where to ask for the outcome belongs to the answer.
                    meaning = Meaning::Unexpected;
                }
                claim.follow.is_some() && now < claim.due.at + drive.follow
            }
            Meaning::TryAgain if claim.attempts < drive.retries => {
                // Even when it was the outcome that could not be told: the same key is safe to send.
                claim.follow = None;
                claim.attempts += 1;
                counts.tally.retries += 1;
                true
            }
            _ => false,
        };
        if again {
            let seconds = text(response, RETRY_AFTER).and_then(|text| text.parse::<u32>().ok());
            return Some(seconds.map_or(PAUSE, |s| Duration::from_secs(s.into())).min(PAUSE_MAX));
        }
        let Due { ask, at, .. } = self.claim.take()?.due;
        counts.conclude(ask, meaning, (at, now), drive.keeps_refused);
        None
    }

    /// Counts a fault, and lets the claim be sent again or gives it up.
    fn failed(&mut self, error: &Error) -> Option<Duration> {
        let mut counts = self.shared.counts.borrow_mut();
        let fault = match error {
            Error::NotConnected(_) => Fault::Connect,
            Error::Broken(_) => Fault::Broken,
            Error::TimedOut(_) => Fault::TimedOut,
            Error::Malformed(_) => Fault::Malformed,
        };
        counts.tally.fault(fault);
        let claim = self.claim.as_mut()?;
        if fault == Fault::Malformed {
            counts.ledger.unexpected.push(claim.due.ask);
        }
        if fault == Fault::Connect {
            // Nothing was sent.
            return Some(PAUSE);
        }
        if claim.attempts < self.shared.drive.retries {
            counts.tally.retries += 1;
            claim.attempts += 1;
            return Some(pause_after(claim.attempts - 1));
        }
        counts.ledger.unknown.push(self.claim.take()?.due.ask);
        None
    }
}

fn pause_after(failures: u32) -> Duration {
    (PAUSE * 2u32.pow(failures.min(6))).min(PAUSE_MAX)
}

fn text(response: &Response<Bytes>, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}
