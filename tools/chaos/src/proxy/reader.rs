//! Reads one direction of a connection, and applies the rules that look at frames.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::frame::{Frame, Kind};
use super::framer::{Framer, Piece};
use super::link::{Chunk, Connection, End, Link};
use super::rule::Direction;
use super::tap::Tap;

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;

/// Frames that are held at a time. Above it the oldest is released early.
const FRAMES_HELD_MAX: usize = 1024;

struct Held {
    until: Instant,
    frame: Frame,
}

struct Reader<'a, 'c> {
    connection: &'a Connection<'c>,
    link: &'c Link,
    direction: Direction,
    framer: Framer,
    held: VecDeque<Held>,
    /// What has passed the rules and is not yet handed to the writer.
    passed: BytesMut,
    queue: Sender<Chunk>,
    last_due: Instant,
}

/// Reads until the end of the stream. Everything read goes to the writer's queue, except what a rule discards.
pub(super) async fn read(
    connection: &Connection<'_>,
    direction: Direction,
    mut source: ReadHalf<'_>,
    queue: Sender<Chunk>,
) -> Result<(), End> {
    let link = connection.link;
    let mut reader = Reader {
        connection,
        link,
        direction,
        framer: Framer::new(link.protocol, direction),
        held: VecDeque::new(),
        passed: BytesMut::new(),
        queue,
        last_due: Instant::now(),
    };
    let mut rules = link.rules.changes();
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
                    // A black hole also holds the news that a side is gone.
                    connection.pass_black_holes(direction, 0).await?;
                    return Err(End::Gone);
                }
            },
            () = sleep_until(release.unwrap_or_else(Instant::now)), if release.is_some() => {
                reader.release(Some(Instant::now()));
            }
            // The rule that holds frames may be over.
            changed = rules.changed(), if release.is_some() => {
                if changed.is_ok() && !link.rules.holds_any(direction) {
                    reader.release(None);
                }
            }
        }
        reader.hand_over().await?;
    }
    reader.release(None);
    reader.passed.extend(reader.framer.rest());
    reader.hand_over().await
}

impl Reader<'_, '_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        let followed = self.framer.follows();
        self.framer.push(bytes);
        while let Some(piece) = self.framer.next() {
            match piece {
                Piece::Frame(frame) => self.apply_rules(frame)?,
                Piece::Opaque(bytes) => {
                    self.stop_at_lost_answer()?;
                    self.passed.extend_from_slice(&bytes);
                }
            }
        }
        if followed && !self.framer.follows() {
            self.link.stats.framing_lost.add(1);
            if let Some(tap) = self.tap() {
                tap.miss();
            }
        }
        Ok(())
    }

    fn apply_rules(&mut self, frame: Frame) -> Result<(), End> {
        let (link, lost) = (self.link, &self.connection.commit_answer_lost);
        match frame.kind {
            Kind::Commit if link.rules.loses_commit_answer() => lost.store(true, Ordering::Release),
            Kind::Completed => self.stop_at_lost_answer()?,
            // Nothing was committed, so there is no answer to lose: the rule waits for another.
            Kind::Failed if lost.swap(false, Ordering::AcqRel) => link.rules.restore_commit_answer(),
            Kind::Message { .. } => {
                let is_lost = link.rules.loses(self.direction, &frame);
                if let Some(tap) = self.tap() {
                    tap.take(&frame, is_lost);
                }
                if is_lost {
                    link.stats.frames_lost.add(1);
                } else if let Some(until) = self.held_until(&frame) {
                    self.hold(frame, until);
                } else {
                    self.passed.extend_from_slice(&frame.bytes);
                }
                return Ok(());
            }
            // The rest of an answer whose end must not arrive.
            Kind::Other if self.loses_answer() => return Ok(()),
            Kind::Commit | Kind::Failed | Kind::Other => {}
        }
        self.passed.extend_from_slice(&frame.bytes);
        Ok(())
    }

    /// Where copies of this direction's messages go.
    fn tap(&self) -> Option<&Tap> {
        self.link.tap.as_ref().filter(|_| self.direction == Direction::ToClient)
    }

    /// Ends the connection if this is the answer that must not arrive. The server has committed by now.
    fn stop_at_lost_answer(&self) -> Result<(), End> {
        if self.loses_answer() {
            self.link.stats.commit_answers_lost.add(1);
            return Err(End::Cut { reset: true });
        }
        Ok(())
    }

    fn loses_answer(&self) -> bool {
        self.direction == Direction::ToClient && self.connection.commit_answer_lost.load(Ordering::Acquire)
    }

    /// Until when a frame has to be held: as long as a rule says, and not to overtake a held frame of its own
    /// subscription.
    fn held_until(&self, frame: &Frame) -> Option<Instant> {
        let ruled = self.link.rules.holds(self.direction, frame).map(|hold| Instant::now() + hold);
        let subscription = frame.subscription();
        let same = |held: &&Held| subscription.is_some() && held.frame.subscription() == subscription;
        ruled.max(self.held.iter().rfind(same).map(|held| held.until))
    }

    fn hold(&mut self, frame: Frame, until: Instant) {
        self.link.stats.frames_held.add(1);
        if self.held.len() >= FRAMES_HELD_MAX
            && let Some(oldest) = self.held.pop_front()
        {
            self.passed.extend_from_slice(&oldest.frame.bytes);
        }
        let place = self.held.partition_point(|held| held.until <= until);
        self.held.insert(place, Held { until, frame });
    }

    /// Releases the frames that were held until `now`, or all.
    fn release(&mut self, now: Option<Instant>) {
        while let Some(held) = self.held.pop_front_if(|held| now.is_none_or(|now| held.until <= now)) {
            self.passed.extend_from_slice(&held.frame.bytes);
        }
    }

    /// Hands over what has passed, with the moment from which it may be written.
    async fn hand_over(&mut self) -> Result<(), End> {
        if self.passed.is_empty() {
            return Ok(());
        }
        let due = Instant::now() + self.link.rules.delay().unwrap_or_default();
        // A short delay after a long one must not overtake it.
        self.last_due = self.last_due.max(due);
        let chunk = Chunk { bytes: self.passed.split().freeze(), due: self.last_due };
        self.queue.send(chunk).await.map_err(|_| End::Gone)
    }
}
