//! What Linux's scheduler is asked for. Everything here is a matter of speed only; other systems know none of it.

use crate::config::{ConfigError, Env};

/// How the scheduler treats the threads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_BATCH`: a thread that wakes up displaces nobody, but waits until whoever has the processor lets go
    /// or has used its time slice up. On a busy machine that is faster for all: the one that woke us gets on with
    /// handing out the rest of its work, and we find more of it. Where a processor is idle nothing changes.
    /// Beside programs that never sleep a single claim takes longer (docs/PERFORMANCE.md has figures of both).
    Batch,
    /// `SCHED_OTHER`, or whatever else the process was started with.
    Other,
}

impl Policy {
    /// `SCHED_POLICY`: `batch`, which is the default, or `other`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        match env.get("SCHED_POLICY") {
            None | Some("batch") => Ok(Self::Batch),
            Some("other") => Ok(Self::Other),
            Some(text) => {
                Err(ConfigError::new("SCHED_POLICY", format!("must be \"batch\" or \"other\", not {text:?}")))
            }
        }
    }

    /// Gives the calling thread this policy. One that was started with any but the usual policy keeps it:
    /// somebody has made up their mind.
    pub(crate) fn apply(self) {
        if self == Self::Batch
            && let Err(error) = system::displace_nobody()
        {
            tracing::debug!(%error, "cannot set the scheduler's policy");
        }
    }
}

#[cfg(target_os = "linux")]
pub use system::set_time_slice;

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::time::Duration;

    use nix::libc::{
        SCHED_BATCH, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, c_long, c_uint, pid_t, sched_attr,
        syscall,
    };

    const THIS_THREAD: pid_t = 0;
    const NO_FLAGS: c_uint = 0;
    const SIZE: u32 = size_of::<sched_attr>() as u32;

    pub(super) fn displace_nobody() -> io::Result<()> {
        change(|attr| {
            if attr.sched_policy == SCHED_OTHER.cast_unsigned() {
                attr.sched_policy = SCHED_BATCH.cast_unsigned();
            }
        })
    }

    /// Asks for a time slice for the calling thread, which its children inherit: Linux from 6.12 on keeps to 0.1
    /// to 100 ms, older ones take no notice. Allocates nothing, and so may be called between fork and exec.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_time_slice(slice: Duration) -> io::Result<()> {
        change(|attr| attr.sched_runtime = slice.as_nanos().try_into().unwrap_or(u64::MAX))
    }

    /// Changes how the calling thread is scheduled. All else stays as it is, a niceness for instance that we were
    /// started with.
    #[expect(unsafe_code, reason = "two system calls for which nix has no function")]
    fn change(how: impl FnOnce(&mut sched_attr)) -> io::Result<()> {
        // SAFETY: a `sched_attr` is made of numbers only, for which zero is a value.
        let mut attr: sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most SIZE bytes, which `attr` has, and keeps no pointer.
        succeeded(unsafe { syscall(SYS_sched_getattr, THIS_THREAD, &raw mut attr, SIZE, NO_FLAGS) })?;
        attr.size = SIZE;
        how(&mut attr);
        // SAFETY: the kernel reads `attr.size` bytes, which `attr` has, and keeps no pointer.
        succeeded(unsafe { syscall(SYS_sched_setattr, THIS_THREAD, &raw const attr, NO_FLAGS) })
    }

    fn succeeded(returned: c_long) -> io::Result<()> {
        if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn displace_nobody() -> std::io::Result<()> {
        Ok(())
    }
}
