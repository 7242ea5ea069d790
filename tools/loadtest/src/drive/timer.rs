//! Waiting until a given moment.
//!
//! Tokio's timers count whole milliseconds, which would delay every request of an open loop by half of one. A timer
//! of the kernel is precise, and costs half of what a thread that sleeps does; elsewhere than on Linux Tokio's has to
//! do.

use std::io;
use std::time::Instant;

/// A timer for one task at a time.
#[derive(Debug)]
pub(super) struct Timer {
    #[cfg(target_os = "linux")]
    descriptor: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// To be called within a runtime.
    #[expect(unsafe_code, reason = "Tokio cannot see that a descriptor of any kind stays open")]
    pub(super) fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an OwnedFd is open, and always the same descriptor, until it is dropped.
        let descriptor = unsafe { tokio::io::unix::AsyncFd::register(timer) }?;
        Ok(Self { descriptor })
    }

    /// Waits until `moment`.
    pub(super) async fn until(&self, moment: Instant) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.descriptor.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(expirations) = read {
                return expirations.map(drop);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(super) async fn until(&self, moment: Instant) -> io::Result<()> {
        tokio::time::sleep_until(moment.into()).await;
        Ok(())
    }
}
