//! Waking an event loop at a given moment.
//!
//! `epoll` waits in whole milliseconds, which would delay every request of an open loop by half of one. A
//! timer of the kernel is precise; elsewhere than on Linux the wait has to do.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

/// A poll that can wait until a moment.
#[derive(Debug)]
pub(super) struct AlarmPoll {
    poll: Poll,
    #[cfg(target_os = "linux")]
    timer: std::os::fd::OwnedFd,
    /// What the timer is set to.
    set_for: Option<Instant>,
}

/// Told apart from every connection, whose tokens count from 0.
const ALARM: Token = Token(usize::MAX);

impl AlarmPoll {
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use mio::{Interest, unix::SourceFd};
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), ALARM, Interest::READABLE)?;
        Ok(Self { poll, timer, set_for: None })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, set_for: None })
    }

    pub(super) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Waits for events until `wake`, or for `longest`. The alarm itself is among the events, with a token
    /// that belongs to no connection.
    pub(super) fn wait(
        &mut self,
        events: &mut Events,
        now: Instant,
        wake: Option<Instant>,
        longest: Duration,
    ) -> io::Result<()> {
        let timeout = match wake {
            Some(wake) if wake <= now => Duration::ZERO,
            Some(wake) if wake - now < longest => self.until(wake, now, longest)?,
            _ => longest,
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome,
        }
    }

    #[cfg(target_os = "linux")]
    fn until(&mut self, wake: Instant, now: Instant, longest: Duration) -> io::Result<Duration> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if self.set_for != Some(wake) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let left = Timespec::try_from(wake - now).unwrap_or(zero);
            let once = Itimerspec { it_interval: zero, it_value: left };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            self.set_for = Some(wake);
        }
        Ok(longest)
    }

    #[cfg(not(target_os = "linux"))]
    fn until(&mut self, wake: Instant, now: Instant, _longest: Duration) -> io::Result<Duration> {
        self.set_for = Some(wake);
        Ok(wake - now)
    }
}
