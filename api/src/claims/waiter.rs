//! A claim on its way, and the request that waits for its answer.

use std::sync::Arc;
use std::time::Instant;

use common::message::Claim;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::claims::answer::Answer;

/// A claim on its way, and the request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) claim: Arc<Claim>,
    /// When the request has to be answered.
    pub(crate) deadline: Instant,
    answer: oneshot::Sender<Answer>,
    /// Held until the answer, because it counts the claims in flight (`IN_FLIGHT_CLAIMS_MAX`).
    _claim_permit: OwnedSemaphorePermit,
}

impl Waiter {
    /// A waiter, and where its answer arrives.
    pub(crate) fn new(
        claim: Arc<Claim>,
        deadline: Instant,
        claim_permit: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        (Self { claim, deadline, answer, _claim_permit: claim_permit }, receiver)
    }

    /// Answers the request. A client that has gone away is not told.
    pub(crate) fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// Gives all the same answer.
pub(crate) fn answer_all(waiters: impl IntoIterator<Item = Waiter>, answer: Answer) {
    for waiter in waiters {
        waiter.answer(answer);
    }
}
