//! Reads one direction of a connection, and applies the rules that look at frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, End, Parcel};
use super::frame::{Frame, Framer, Kind, Piece};
use super::rule::Way;
use super::tap::Tap;
use super::writer::pass_holes;

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;

/// Frames that are held at a time. Past it the oldest is let go early.
const FRAMES_HELD_MAX: usize = 1024;

struct Held {
    until: Instant,
    frame: Frame,
}

struct Reader<'a, 'c> {
    connection: &'a Connection<'c>,
    way: Way,
    framer: Framer,
    held: VecDeque<Held>,
    /// What has passed the rules and is not yet handed to the writer.
    passed: BytesMut,
    queue: Sender<Parcel>,
    last_due: Instant,
}

/// Reads until the end of the stream. Everything read goes to the writer's queue, except what a rule takes.
pub(super) async fn read(
    connection: &Connection<'_>,
    way: Way,
    mut source: ReadHalf<'_>,
    queue: Sender<Parcel>,
) -> Result<(), End> {
    let shared = connection.shared;
    let framer = Framer::new(shared.protocol, way, Arc::clone(&connection.encryption_answers));
    let mut reader = Reader {
        connection,
        way,
        framer,
        held: VecDeque::new(),
        passed: BytesMut::new(),
        queue,
        last_due: Instant::now(),
    };
    let mut rules = shared.board.changes();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        let release = reader.held.front().map(|held| held.until);
        buffer.reserve(READ_BYTES);
        tokio::select! {
            read = source.read_buf(&mut buffer) => match read {
                Ok(0) => break,
                Ok(_) => {
                    reader.take(&buffer)?;
                    buffer.clear();
                }
                Err(_) => {
                    // News of a side that is gone does not pass a hole either.
                    pass_holes(connection, way, 0).await?;
                    return Err(End::Gone);
                }
            },
            () = sleep_until(release.unwrap_or_else(Instant::now)), if release.is_some() => {
                reader.release(Instant::now());
            }
            // The rule that holds frames may be over.
            changed = rules.changed(), if release.is_some() => {
                if changed.is_ok() && !shared.board.holds_any(way) {
                    reader.release_all();
                }
            }
        }
        reader.hand_over().await?;
    }
    reader.release_all();
    if let Some(rest) = reader.framer.rest() {
        reader.passed.extend_from_slice(&rest);
    }
    reader.hand_over().await
}

impl Reader<'_, '_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        let followed = self.framer.follows();
        self.framer.push(bytes);
        while let Some(piece) = self.framer.next() {
            match piece {
                Piece::Frame(frame) => self.judge(frame)?,
                Piece::Opaque(bytes) => {
                    self.stop_at_lost_answer()?;
                    self.passed.extend_from_slice(&bytes);
                }
            }
        }
        if followed && !self.framer.follows() {
            self.connection.shared.stats.framing_lost();
            if let Some(tap) = self.tap() {
                tap.miss();
            }
        }
        Ok(())
    }

    fn judge(&mut self, frame: Frame) -> Result<(), End> {
        let shared = self.connection.shared;
        match frame.kind {
            Kind::Commit => {
                if shared.board.loses_commit_answer() {
                    self.connection.commit_answer_lost.store(true, Ordering::Release);
                }
            }
            Kind::Completed => self.stop_at_lost_answer()?,
            // Nothing was committed, so there is no answer to lose: the rule waits for another.
            Kind::Failed => {
                if self.connection.commit_answer_lost.swap(false, Ordering::AcqRel) {
                    shared.board.spares_commit_answer();
                }
            }
            Kind::Message { .. } => {
                if let Some(tap) = self.tap() {
                    tap.take(&frame);
                }
                if shared.board.loses(self.way, &frame) {
                    shared.stats.frame_lost();
                    return Ok(());
                }
                let Some(frame) = self.hold(frame) else { return Ok(()) };
                self.passed.extend_from_slice(&frame.bytes);
                return Ok(());
            }
            // The rest of an answer whose end must not arrive.
            Kind::Other if self.loses_answer() => return Ok(()),
            Kind::Encryption | Kind::Other => {}
        }
        self.passed.extend_from_slice(&frame.bytes);
        Ok(())
    }

    /// Where copies of this direction's messages go.
    fn tap(&self) -> Option<&Tap> {
        self.connection.shared.tap.as_ref().filter(|_| self.way == Way::ToClient)
    }

    /// Ends the connection if this is the answer that must not arrive. The server has committed by now.
    fn stop_at_lost_answer(&self) -> Result<(), End> {
        if self.loses_answer() {
            self.connection.shared.stats.commit_answer_lost();
            return Err(End::Cut { reset: true });
        }
        Ok(())
    }

    fn loses_answer(&self) -> bool {
        self.way == Way::ToClient && self.connection.commit_answer_lost.load(Ordering::Acquire)
    }

    /// Gives the frame back unless it is held.
    fn hold(&mut self, frame: Frame) -> Option<Frame> {
        let shared = self.connection.shared;
        let until = match shared.board.holds(self.way, &frame) {
            Some(hold) => Instant::now() + hold,
            // Must not overtake a held frame of its own subscription.
            None => match self.held_before(&frame) {
                Some(until) => until,
                None => return Some(frame),
            },
        };
        shared.stats.frame_held();
        if self.held.len() >= FRAMES_HELD_MAX
            && let Some(oldest) = self.held.pop_front()
        {
            self.passed.extend_from_slice(&oldest.frame.bytes);
        }
        // In the order of their times. Frames of one subscription have times in their order, unless a shorter
        // hold was imposed meanwhile.
        let until = self.held_before(&frame).map_or(until, |before| until.max(before));
        let place = self.held.partition_point(|held| held.until <= until);
        self.held.insert(place, Held { until, frame });
        None
    }

    /// Until when the last held frame of the same subscription is held.
    fn held_before(&self, frame: &Frame) -> Option<Instant> {
        let subscription = frame.subscription()?;
        let mut same = self.held.iter().filter(|held| held.frame.subscription() == Some(subscription));
        same.next_back().map(|held| held.until)
    }

    fn release(&mut self, now: Instant) {
        while self.held.front().is_some_and(|held| held.until <= now) {
            if let Some(held) = self.held.pop_front() {
                self.passed.extend_from_slice(&held.frame.bytes);
            }
        }
    }

    fn release_all(&mut self) {
        for held in std::mem::take(&mut self.held) {
            self.passed.extend_from_slice(&held.frame.bytes);
        }
    }

    /// Hands over what has passed, with the moment from which it may be written.
    async fn hand_over(&mut self) -> Result<(), End> {
        if self.passed.is_empty() {
            return Ok(());
        }
        let bytes: Bytes = self.passed.split().freeze();
        let shared = self.connection.shared;
        let mut due = Instant::now();
        if let Some(delay) = shared.board.delay() {
            shared.stats.delayed(bytes.len());
            due += delay;
        }
        // A short delay after a long one must not overtake it.
        self.last_due = self.last_due.max(due);
        self.queue.send(Parcel { bytes, due: self.last_due }).await.map_err(|_| End::Gone)
    }
}
