//! An event loop that keeps its connections busy.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Token};

use crate::http::Layout;

use super::alarm::AlarmPoll;
use super::answer::{Meaning, Reader};
use super::connection::{Connection, Link, Phase, Received, Request};
use super::ledger::{Ledger, Win};
use super::pace::{Next, Source};
use super::requests::Requests;
use super::tally::{Fault, Tally};
use super::{Drive, STRETCH, Stretch};

/// How often time limits are looked at, and the longest wait for an event.
const SWEEP: Duration = Duration::from_millis(100);
/// Events taken at once.
const EVENTS_MAX: usize = 1024;
/// With this many busy connections, an event loop that gets less than one in [`TRICKLE`] of them at a time lets
/// others run first. A server on the same machine pays for waking it up; measured with an empty handler and 256
/// connections, fewer and larger helpings save both of them a fifth of their CPU time.
const CROWD: usize = 64;
/// See [`CROWD`].
const TRICKLE: usize = 8;
/// First pause before a connection is opened again, or a request is sent again; it doubles with each failure.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, whatever the server's `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that could not be opened this many times in a row, over some 30 seconds, is given up.
const CONNECT_FAILURES_MAX: u32 = 20;
/// How long opening all connections may take before the run starts without the missing ones.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// What one event loop has given.
pub(super) struct Share {
    pub(super) ledger: Ledger,
    pub(super) elapsed: Duration,
}

pub(super) struct Reactor<'a> {
    drive: &'a Drive,
    /// The requests for each server.
    requests: &'a [Requests],
    poll: AlarmPoll,
    reader: Reader,
    connections: Vec<Connection>,
    /// Connections without a request, waiting for one to be due.
    idle: Vec<usize>,
    /// Connections that have something to do at a given time.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Requests that have no final answer yet.
    under_way: usize,
    /// The source has nothing left.
    over: bool,
    tally: Tally,
    ledger: Ledger,
    last_answer: Instant,
}

impl<'a> Reactor<'a> {
    /// Opens `share` connections for thread number `thread` and waits until they are open, or it has taken too long.
    pub(super) fn connect(
        drive: &'a Drive,
        requests: &'a [Requests],
        (thread, share): (usize, usize),
        coupons: usize,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let servers = drive.addresses.iter().enumerate().cycle().skip(thread).take(share);
        let mut reactor = Self {
            drive,
            requests,
            poll: AlarmPoll::new()?,
            reader: Reader::default(),
            connections: servers.map(|(server, &address)| Connection::new(server, address, now)).collect(),
            idle: Vec::with_capacity(share),
            timers: BinaryHeap::with_capacity(share),
            under_way: 0,
            over: false,
            tally: Tally::default(),
            ledger: Ledger::new(coupons),
            last_answer: now,
        };
        for index in 0..share {
            reactor.open(index, now);
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut now = now;
        let deadline = now + CONNECT_TIME_MAX;
        while now < deadline && reactor.connections.iter().any(|connection| connection.link != Link::Up) {
            let wake = reactor.wake_at();
            reactor.poll.wait(&mut events, now, wake, SWEEP)?;
            now = Instant::now();
            for event in &events {
                if let Some(Link::Connecting(_)) = reactor.link(event) {
                    reactor.establish(event.token().0, now);
                }
            }
            while let Some(index) = reactor.next_timer(now) {
                reactor.open(index, now);
            }
        }
        Ok(reactor)
    }

    /// Runs until the source is exhausted and every request has its final answer.
    pub(super) fn run(
        mut self,
        mut source: Source<'_>,
        start: Instant,
        stretches: &Sender<Stretch>,
    ) -> io::Result<Share> {
        let deadline = self.drive.length.map(|length| start + length + self.drive.drain);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut stretch = 0;
        let mut arrived = usize::MAX;
        let mut next_sweep = start + SWEEP;
        self.last_answer = start;
        for index in 0..self.connections.len() {
            self.advance(index, Instant::now(), &mut source);
        }
        let mut now = Instant::now();
        while !(self.over && self.under_way == 0
            || deadline.is_some_and(|deadline| now >= deadline)
            || self.connections.iter().all(|connection| connection.link == Link::GivenUp))
        {
            let due = self.start_due(now, &mut source);
            let wake = due.into_iter().chain(self.wake_at()).min();
            let crowded = self.idle.is_empty() && self.connections.len() >= CROWD;
            if crowded && arrived < self.connections.len() / TRICKLE {
                thread::yield_now();
            }
            self.poll.wait(&mut events, now, wake, SWEEP)?;
            arrived = events.iter().count();
            now = Instant::now();
            let current = stretch_of(start, now);
            if current > stretch {
                // The receiver lives as long as the run.
                let _ = stretches.send((stretch, std::mem::take(&mut self.tally)));
                stretch = current;
            }
            for event in &events {
                self.handle(event, now, &mut source);
            }
            while let Some(index) = self.next_timer(now) {
                self.advance(index, now, &mut source);
            }
            if now >= next_sweep {
                next_sweep = now + SWEEP;
                self.time_out(now, &mut source);
            }
        }
        // What has no answer by now never gets one.
        for request in self.connections.iter_mut().filter_map(|connection| connection.request.take()) {
            self.ledger.unknown.push(request.ask);
        }
        let _ = stretches.send((stretch, self.tally));
        Ok(Share { ledger: self.ledger, elapsed: self.last_answer - start })
    }

    /// In an open loop, gives idle connections what is due. Tells when the next request is due.
    fn start_due(&mut self, now: Instant, source: &mut Source<'_>) -> Option<Instant> {
        while let Some(&index) = self.idle.last() {
            match source.next(now) {
                Next::Send { serial, ask, due } => {
                    self.idle.pop();
                    self.connections[index].idle = false;
                    self.begin(index, Request::new(ask, serial, due), now);
                }
                Next::Wait(due) => return Some(due),
                Next::Over => {
                    self.over = true;
                    return None;
                }
            }
        }
        None
    }

    fn handle(&mut self, event: &Event, now: Instant, source: &mut Source<'_>) {
        let index = event.token().0;
        match self.link(event) {
            Some(Link::Connecting(_)) => {
                self.establish(index, now);
                self.advance(index, now, source);
            }
            Some(Link::Up) => {
                let connection = &mut self.connections[index];
                let received = connection.write().and_then(|()| connection.read());
                // The end of the stream is announced only once, perhaps together with the last answer.
                let closing = event.is_read_closed();
                match received {
                    Ok(Received::Answer { layout, ended }) => {
                        self.answered(index, &layout, ended || closing, source);
                    }
                    Ok(Received::Partial) => {}
                    Ok(Received::Closed) => {
                        self.take_down(index, now + PAUSE);
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        self.fail(index, Fault::Malformed, now);
                    }
                    Err(_) => self.fail(index, Fault::Broken, now),
                }
            }
            // The alarm, or news of a connection that has been dropped.
            _ => {}
        }
    }

    /// Does what the connection is ready to do: open, send again, or take the next request. A timer that has
    /// become pointless does no harm.
    fn advance(&mut self, index: usize, now: Instant, source: &mut Source<'_>) {
        let connection = &self.connections[index];
        let phase = connection.request.as_ref().map(|request| request.phase);
        match (connection.link, phase) {
            (Link::Down(at), _) if at <= now => self.open(index, now),
            (Link::Up, Some(Phase::Parked(at))) if at <= now => self.send(index, now),
            (Link::Down(at), _) | (Link::Up, Some(Phase::Parked(at))) => {
                self.timers.push(Reverse((at, index)))
            }
            // It is given what is due, by `start_due`.
            (Link::Up, None) if connection.idle => {}
            (Link::Up, None) => match source.next(now) {
                Next::Send { serial, ask, due } => self.begin(index, Request::new(ask, serial, due), now),
                Next::Wait(_) => {
                    self.connections[index].idle = true;
                    self.idle.push(index);
                }
                Next::Over => self.over = true,
            },
            (Link::Up, Some(Phase::Sent(_))) | (Link::Connecting(_) | Link::GivenUp, _) => {}
        }
    }

    fn begin(&mut self, index: usize, request: Request, now: Instant) {
        let connection = &mut self.connections[index];
        debug_assert!(connection.request.is_none(), "one request at a time");
        self.requests[connection.server].write_user(&mut connection.user_id, request.ask.user);
        connection.request = Some(request);
        self.under_way += 1;
        self.send(index, now);
    }

    /// Sends the connection's request, or the question for its outcome.
    fn send(&mut self, index: usize, now: Instant) {
        let connection = &mut self.connections[index];
        let Some(request) = &connection.request else { return };
        let requests = &self.requests[connection.server];
        match &request.follow {
            Some(location) => {
                self.tally.follow_ups += 1;
                requests.write_follow_up(&mut connection.out, location);
            }
            None => requests.write(&mut connection.out, request.ask, request.serial),
        }
        if connection.send(now).is_err() {
            self.fail(index, Fault::Broken, now);
        }
    }

    /// Takes an answer; the connection goes on with whatever is next.
    fn answered(&mut self, index: usize, layout: &Layout, ended: bool, source: &mut Source<'_>) {
        // One look at the clock per answer: it ends this latency and begins the next.
        let now = Instant::now();
        let connection = &mut self.connections[index];
        let response = connection.answer.view(layout);
        let code = self.reader.code(&response);
        self.tally.answers.add(response.status, code);
        let Some(request) = &mut connection.request else { return };
        let mut meaning = self.reader.meaning(&response, code, &connection.user_id);
        let pause = response.retry_after_s.map_or(PAUSE, |s| Duration::from_secs(s.into())).min(PAUSE_MAX);
        let again = match meaning {
            Meaning::Pending => {
                if let Some(location) = response.location {
                    request.follow = Some(String::from_utf8_lossy(location).into_owned());
                }
                if request.follow.is_none() {
                    // Where to ask for the outcome belongs to the answer.
                    meaning = Meaning::Unexpected;
                }
                request.follow.is_some() && now < request.due + self.drive.follow
            }
            Meaning::TryAgain if request.attempts < self.drive.retries => {
                // Even when it was the outcome that could not be told: the same key is safe to send.
                request.follow = None;
                request.attempts += 1;
                self.tally.retries += 1;
                true
            }
            _ => false,
        };
        if again {
            request.phase = Phase::Parked(now + pause);
        }
        if response.close || ended {
            self.take_down(index, now);
        }
        if !again {
            self.conclude(index, meaning, now);
        }
        self.advance(index, now, source);
    }

    /// Writes down what came of a request.
    fn conclude(&mut self, index: usize, meaning: Meaning, now: Instant) {
        let Some(request) = self.connections[index].request.take() else { return };
        let ask = request.ask;
        self.under_way -= 1;
        self.last_answer = now;
        match meaning {
            Meaning::Won { position } => self.ledger.wins.push(Win { ask, position }),
            Meaning::AlreadyClaimed => self.ledger.already_claimed.push(ask),
            Meaning::SoldOut => {
                self.ledger.sold_out[ask.coupon as usize] += 1;
                if self.drive.keeps_refused {
                    self.ledger.refused.push(ask);
                }
            }
            // Not the outcome of a claim: a server is not fast by turning requests away.
            Meaning::Pending | Meaning::TryAgain => return self.ledger.unknown.push(ask),
            Meaning::Unexpected => return self.ledger.unexpected.push(ask),
        }
        self.tally.finish(now - request.due, matches!(meaning, Meaning::Won { .. }));
    }

    /// Counts a fault, drops the connection, and sends its request again or gives it up.
    fn fail(&mut self, index: usize, fault: Fault, now: Instant) {
        self.tally.fault(fault);
        let mut reopen_at = now;
        let connection = &mut self.connections[index];
        if fault == Fault::Connect {
            connection.connect_failures += 1;
            reopen_at += (PAUSE * 2u32.pow(connection.connect_failures.min(6))).min(PAUSE_MAX);
        }
        let given_up = connection.connect_failures >= CONNECT_FAILURES_MAX;
        if let Some(request) = &mut connection.request
            && matches!(request.phase, Phase::Sent(_))
        {
            if fault == Fault::Malformed {
                self.ledger.unexpected.push(request.ask);
            }
            if request.attempts < self.drive.retries {
                let pause = (PAUSE * 2u32.pow(request.attempts.min(6))).min(PAUSE_MAX);
                request.phase = Phase::Parked(now + pause);
                request.attempts += 1;
                self.tally.retries += 1;
            } else {
                self.give_up_request(index);
            }
        }
        self.take_down(index, reopen_at);
        if given_up {
            self.connections[index].link = Link::GivenUp;
            self.give_up_request(index);
        }
    }

    fn give_up_request(&mut self, index: usize) {
        if let Some(request) = self.connections[index].request.take() {
            self.under_way -= 1;
            self.ledger.unknown.push(request.ask);
        }
    }

    /// Drops the TCP connection, to be opened again later.
    fn take_down(&mut self, index: usize, reopen_at: Instant) {
        self.connections[index].close(reopen_at);
        if std::mem::take(&mut self.connections[index].idle) {
            self.idle.retain(|&idle| idle != index);
        }
        self.timers.push(Reverse((reopen_at, index)));
    }

    fn open(&mut self, index: usize, now: Instant) {
        let connection = &mut self.connections[index];
        if connection.open(self.poll.registry(), Token(index), now).is_err() {
            self.fail(index, Fault::Connect, now);
        }
    }

    /// Looks whether a connection that was being opened is open.
    fn establish(&mut self, index: usize, now: Instant) {
        if self.connections[index].established().is_err() {
            self.fail(index, Fault::Connect, now);
        }
    }

    /// Fails the connections that have been waiting for too long.
    fn time_out(&mut self, now: Instant, source: &mut Source<'_>) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let phase = connection.request.as_ref().map(|request| request.phase);
            let fault = match (connection.link, phase) {
                (Link::Connecting(since), _) if now > since + self.drive.timeout => Fault::Connect,
                (Link::Up, Some(Phase::Sent(since))) if now > since + self.drive.timeout => Fault::TimedOut,
                _ => continue,
            };
            self.fail(index, fault, now);
            self.advance(index, now, source);
        }
    }

    fn link(&self, event: &Event) -> Option<Link> {
        self.connections.get(event.token().0).map(|connection| connection.link)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a timer that is due.
    fn next_timer(&mut self, now: Instant) -> Option<usize> {
        let &Reverse((at, index)) = self.timers.peek()?;
        (at <= now).then(|| {
            self.timers.pop();
            index
        })
    }
}

fn stretch_of(start: Instant, now: Instant) -> u64 {
    u64::try_from((now - start).as_nanos() / STRETCH.as_nanos()).unwrap_or(u64::MAX)
}
