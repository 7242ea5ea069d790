//! Reads requests' bodies, each within its limits, and all of them together within `BODIES_BYTES_MAX`.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::problem::Problem;
use crate::claims::answer::Unavailable;
use crate::config::Limits;

/// Bytes of a body that are not counted: about as many as a connection's own buffer has. So claims, whose bodies are
/// small, are not refused because of others' large ones.
const UNCOUNTED_BYTES: usize = 4 << 10;

/// What all bodies under way share.
pub(super) struct Bodies {
    /// `BODIES_BYTES_MAX`, less what bodies under way take.
    bytes: Semaphore,
    body_bytes_max: usize,
    timeout: Duration,
}

impl Bodies {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            bytes: Semaphore::new(limits.bodies_bytes_max),
            body_bytes_max: limits.body_bytes_max,
            timeout: limits.body_timeout,
        }
    }

    /// Reads a body into memory.
    ///
    /// # Errors
    /// When it is too large, too slow or incomplete, or there is no room for it. The rest of it is not read.
    pub(super) async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Problem>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: usize| length > self.body_bytes_max) {
            return Err(Problem::BodyTooLarge);
        }
        let mut whole = pin!(self.collect(body));
        // Mostly the body came with the head, and no timer is needed.
        match futures::poll!(&mut whole) {
            Poll::Ready(whole) => whole,
            Poll::Pending => {
                tokio::time::timeout(self.timeout, whole).await.unwrap_or(Err(Problem::BodyTimeout))
            }
        }
    }

    /// Joins the parts of a body. One that came in one part is handed on as it is.
    async fn collect<B>(&self, mut body: B) -> Result<Bytes, Problem>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let Some(first) = next_part(&mut body).await? else { return Ok(Bytes::new()) };
        if body.is_end_stream() && first.len() <= self.body_bytes_max {
            return Ok(first);
        }
        // Copied, so that the connection can use the buffer again that it came in.
        let (mut whole, mut permit) = (Vec::new(), None);
        self.append(&mut whole, &mut permit, &first)?;
        drop(first);
        while let Some(part) = next_part(&mut body).await? {
            self.append(&mut whole, &mut permit, &part)?;
        }
        Ok(whole.into())
    }

    /// Appends `part`, and makes room for it as it comes: what was declared may never come.
    fn append<'s>(
        &'s self,
        whole: &mut Vec<u8>,
        permit: &mut Option<SemaphorePermit<'s>>,
        part: &[u8],
    ) -> Result<(), Problem> {
        let needed = whole.len() + part.len();
        if needed > self.body_bytes_max {
            return Err(Problem::BodyTooLarge);
        }
        if needed > whole.capacity() {
            let room = needed.max(2 * whole.capacity()).min(self.body_bytes_max);
            let held = permit.as_ref().map_or(0, SemaphorePermit::num_permits);
            let more = room.saturating_sub(UNCOUNTED_BYTES).saturating_sub(held);
            let more = u32::try_from(more).map_err(|_| Problem::BodyTooLarge)?;
            let more = self.bytes.try_acquire_many(more).map_err(|_| Unavailable::Overloaded)?;
            match permit {
                Some(permit) => permit.merge(more),
                None => *permit = Some(more),
            }
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(part);
        Ok(())
    }
}

/// The next part of a body, which is known to have ended once as much came as was declared.
async fn next_part<B>(body: &mut B) -> Result<Option<Bytes>, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|_| Problem::InvalidRequest("the body is incomplete".into()))?;
        // Trailers mean nothing here.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const BODY_BYTES_MAX: usize = 16 << 10;

    fn bodies(bodies_bytes_max: usize) -> Bodies {
        let timeout = Duration::from_secs(1);
        Bodies { bytes: Semaphore::new(bodies_bytes_max), body_bytes_max: BODY_BYTES_MAX, timeout }
    }

    /// A body that comes in parts of these lengths, and then ends or not.
    fn parts(
        lengths: &[usize],
        ends: bool,
    ) -> impl HttpBody<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let parts: Vec<_> = lengths.iter().map(|length| Bytes::from(vec![b'x'; *length])).collect();
        let parts = stream::iter(parts.into_iter().map(|part| Ok(Frame::data(part))));
        let rest = if ends { stream::empty().left_stream() } else { stream::pending().right_stream() };
        use futures::StreamExt as _;
        Box::pin(StreamBody::new(parts.chain(rest)))
    }

    #[tokio::test]
    async fn parts_are_joined_up_to_the_limit() {
        let bodies = bodies(BODY_BYTES_MAX);
        for lengths in [&[][..], &[0], &[1], &[0, 1, 0, 2], &[8_000, 8_000, 384], &[BODY_BYTES_MAX]] {
            let whole = bodies.read(&HeaderMap::new(), parts(lengths, true)).await.unwrap();
            assert_eq!(whole.len(), lengths.iter().sum::<usize>());
        }
        for lengths in [&[BODY_BYTES_MAX + 1][..], &[BODY_BYTES_MAX, 1]] {
            let read = bodies.read(&HeaderMap::new(), parts(lengths, false)).await;
            assert_eq!(read, Err(Problem::BodyTooLarge));
        }
        assert_eq!(bodies.bytes.available_permits(), BODY_BYTES_MAX, "all are given back");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_under_way_share_their_bytes_and_small_ones_need_none() {
        let (bodies, headers) = (bodies(10_000), HeaderMap::new());
        let slow = bodies.read(&headers, parts(&[4_000, 8_000], false));
        let others = async {
            let large = bodies.read(&headers, parts(&[6_000, 1_000], false)).await;
            assert_eq!(large, Err(Unavailable::Overloaded.into()));
            let small = bodies.read(&headers, parts(&[1_000, 1_000], true)).await;
            assert_eq!(small.unwrap().len(), 2_000);
            // One that comes at once is not under way.
            let whole = bodies.read(&headers, Full::from(vec![b'x'; 16_000])).await;
            assert_eq!(whole.unwrap().len(), 16_000);
        };
        let (slow, ()) = tokio::join!(slow, others);
        assert_eq!(slow, Err(Problem::BodyTimeout));
        assert_eq!(bodies.bytes.available_permits(), 10_000);
    }
}
