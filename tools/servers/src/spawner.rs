//! The thread from which all children are started.
//!
//! Linux ties "signal me when my parent dies" to the *thread* that forked, not to its process. A child
//! started from a runtime's worker thread would be killed as soon as that thread ends, for instance when
//! one test's runtime is dropped. Hence one thread that lives as long as the process; it is the only
//! global of this crate.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();

/// Starts a command from the spawner thread, in a session of its own. On Linux the child is killed when this
/// process ends, however it ends.
pub(super) async fn spawn(mut command: Command) -> io::Result<Child> {
    before_exec(&mut command);
    let (reply, answer) = oneshot::channel();
    let spawner = SPAWNER.get_or_init(start);
    spawner.send(Job { command, reply }).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn start() -> Sender<Job> {
    let (sender, jobs) = channel::<Job>();
    let thread = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for mut job in jobs {
            let child = job.command.spawn();
            if let Err(Ok(mut unwanted)) = job.reply.send(child) {
                // Whoever asked has gone: a child without a handle would never be stopped.
                let _ = unwanted.kill();
                let _ = unwanted.wait();
            }
        }
    });
    if let Err(error) = thread {
        tracing::error!(%error, "cannot start the thread that starts programs");
    }
    sender
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts programs is gone")
}

#[expect(
    unsafe_code,
    reason = "code between fork and exec; this one makes a few system calls and allocates nothing"
)]
fn before_exec(command: &mut Command) {
    let parent = std::process::id();
    let arm = move || {
        nix::unistd::setsid()?;
        die_with(parent)
    };
    // SAFETY: only plain system calls (setsid, prctl, getppid) and no allocation, as required after a fork.
    unsafe { command.pre_exec(arm) };
}

/// Lets the kernel kill this process when its parent ends. Runs after std has changed user and group, which would
/// otherwise clear the setting.
#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if nix::unistd::getppid().as_raw().cast_unsigned() == parent {
        return Ok(());
    }
    // The parent died before the setting took hold: nobody would signal us any more.
    Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32))
}

/// Other systems have no such setting: children are stopped by their handles, and what a crash leaves behind is
/// stopped by the next start.
#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> io::Result<()> {
    Ok(())
}
