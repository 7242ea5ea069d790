//! The system's table of processes: who descends from whom, and who works in a folder.

use std::collections::HashMap;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

/// Sends a signal to a process that is not necessarily our child. False when it is gone.
pub(super) fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(nix::unistd::Pid::from_raw(pid), signal).is_ok())
}

/// True while the process exists and has not ended (a zombie has).
pub(super) fn is_alive(pid: u32) -> bool {
    let pid = Pid::from_u32(pid);
    let table = read(ProcessesToUpdate::Some(&[pid]), ProcessRefreshKind::nothing());
    table.process(pid).is_some_and(|process| !has_ended(process))
}

/// All living descendants of a process, the process itself excluded.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    let table = read(ProcessesToUpdate::All, ProcessRefreshKind::nothing());
    below(Pid::from_u32(root), &table).into_iter().map(Pid::as_u32).collect()
}

/// True when a process and all its descendants stand still (SIGSTOP), every thread of them, or have ended.
///
/// A signal is only noted when it is sent: each thread stops when it next leaves the kernel, and threads on
/// other processors go on for a moment.
pub(super) fn is_stopped(root: u32) -> bool {
    // Threads are listed as children of their process.
    let table = read(ProcessesToUpdate::All, ProcessRefreshKind::nothing().with_tasks());
    let root = Pid::from_u32(root);
    let mut family = below(root, &table);
    family.push(root);
    let stands_still = |process: &Process| {
        has_ended(process) || matches!(process.status(), ProcessStatus::Stop | ProcessStatus::Tracing)
    };
    family.into_iter().all(|pid| table.process(pid).is_none_or(stands_still))
}

/// Processes whose working directory is `folder`. Postgres and all its backends work in the data folder,
/// so this finds those whose parent died.
pub(super) fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let own = std::process::id();
    let table = read(ProcessesToUpdate::All, ProcessRefreshKind::nothing().with_cwd(UpdateKind::Always));
    let processes = table.processes().values().filter(|process| process.cwd() == Some(&*folder));
    processes.map(|process| process.pid().as_u32()).filter(|&pid| pid != own).collect()
}

/// The command line of a process. The first word is the path or the name of its program, or the title it gave
/// itself. Empty when the process is gone.
pub(super) fn arguments(pid: u32) -> Vec<String> {
    let pid = Pid::from_u32(pid);
    let table =
        read(ProcessesToUpdate::Some(&[pid]), ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always));
    let words = table.process(pid).map_or(&[][..], Process::cmd);
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn read(which: ProcessesToUpdate<'_>, what: ProcessRefreshKind) -> System {
    let mut table = System::new();
    table.refresh_processes_specifics(which, true, what);
    table
}

fn has_ended(process: &Process) -> bool {
    matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead)
}

fn below(root: Pid, table: &System) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for process in table.processes().values().filter(|process| !has_ended(process)) {
        if let Some(parent) = process.parent() {
            children.entry(parent).or_default().push(process.pid());
        }
    }
    let mut found = Vec::new();
    let mut unseen = vec![root];
    while let Some(pid) = unseen.pop() {
        // Removing makes a loop impossible, whatever a changing process table looks like.
        let next = children.remove(&pid).unwrap_or_default();
        found.extend(&next);
        unseen.extend(next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_until_it_ends() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        assert!(is_alive(child.id()) && !is_stopped(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }
}
