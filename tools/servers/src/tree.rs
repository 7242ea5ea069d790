//! What the system says about running processes: who descends from whom, and who works in a folder.
//!
//! Reads `/proc` where there is one, and asks `ps` elsewhere.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, str};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to a process that is not necessarily our child. False when it is gone.
pub(super) fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), signal).is_ok())
}

/// True while the process exists and has not ended (a zombie has).
pub(super) fn is_alive(pid: u32) -> bool {
    processes().get(&pid).is_some_and(|process| process.state != State::Ended)
}

/// All living descendants of a process, the process itself excluded.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    below(root, &processes())
}

fn below(root: u32, processes: &HashMap<u32, Process>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&pid, process) in processes.iter().filter(|(_, process)| process.state != State::Ended) {
        children.entry(process.parent).or_default().push(pid);
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

/// True when a process and all its descendants stand still (SIGSTOP), every thread of them, or have ended.
///
/// A signal is only noted when it is sent: each thread stops when it next leaves the kernel, and threads of
/// other processors go on for a moment.
pub(super) fn is_stopped(root: u32) -> bool {
    let processes = processes();
    let is_stopped = |pid: u32| match thread_states(pid) {
        Some(states) => states.iter().all(|state| matches!(state, State::Stopped | State::Ended)),
        None => processes.get(&pid).is_none_or(|process| process.state != State::Running),
    };
    is_stopped(root) && below(root, &processes).into_iter().all(is_stopped)
}

/// Processes whose working directory is `folder`. Postgres and all its backends work in the data folder,
/// so this finds those whose parent died. Empty on systems without `/proc`.
pub(super) fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let own = std::process::id();
    numbered_entries(Path::new("/proc"))
        .filter(|&pid| pid != own)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .collect()
}

/// The first argument of a process: the path or the name of its program, or the title it gave itself. None
/// without `/proc`, and when it is gone.
pub(super) fn first_argument(pid: u32) -> Option<String> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = arguments.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(first).into_owned())
}

/// The command line of a process, arguments separated by spaces; empty when it is gone.
pub(super) fn command_line(pid: u32) -> String {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).replace('\0', " "),
        Err(_) => ps(&["-o", "command=", "-p", &pid.to_string()]),
    }
}

struct Process {
    parent: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At work, or asleep until there is some.
    Running,
    Stopped,
    /// Gone, or a zombie.
    Ended,
}

impl State {
    /// By the letter that `/proc` and `ps` use.
    fn from_letter(letter: char) -> Self {
        match letter {
            'T' | 't' => Self::Stopped,
            'Z' | 'X' | 'x' => Self::Ended,
            _ => Self::Running,
        }
    }
}

fn processes() -> HashMap<u32, Process> {
    let from_proc: HashMap<u32, Process> = numbered_entries(Path::new("/proc"))
        .filter_map(|pid| Some((pid, from_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    if !from_proc.is_empty() {
        return from_proc;
    }
    let listing = ps(&["-A", "-o", "pid=,ppid=,stat="]);
    listing.lines().filter_map(from_ps).collect()
}

/// The state of every thread of a process; nothing where there is no `/proc`.
fn thread_states(pid: u32) -> Option<Vec<State>> {
    let folder = Path::new("/proc").join(pid.to_string()).join("task");
    let threads = numbered_entries(&folder)
        .filter_map(|thread| fs::read_to_string(folder.join(thread.to_string()).join("stat")).ok());
    let states: Vec<State> = threads.filter_map(|stat| Some(from_stat(&stat)?.state)).collect();
    (!states.is_empty()).then_some(states)
}

fn numbered_entries(folder: &Path) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
}

/// Reads `/proc/<pid>/stat`, of a process or of a thread. The name in parentheses may itself hold spaces
/// and parentheses.
fn from_stat(stat: &str) -> Option<Process> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = State::from_letter(fields.next()?.chars().next()?);
    Some(Process { parent: fields.next()?.parse().ok()?, state })
}

fn from_ps(line: &str) -> Option<(u32, Process)> {
    let mut fields = line.split_whitespace();
    let pid = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    Some((pid, Process { parent, state: State::from_letter(fields.next()?.chars().next()?) }))
}

fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_lines_whatever_the_name() {
        let process = from_stat("42 (a) b (c) S 7 42 42 0 -1").unwrap();
        assert_eq!((process.parent, process.state), (7, State::Running));
        assert_eq!(from_stat("42 (gone) Z 7 42").unwrap().state, State::Ended);
        assert_eq!(from_stat("42 (still) T 7 42").unwrap().state, State::Stopped);
    }

    #[test]
    fn reads_ps_lines() {
        let (pid, process) = from_ps("   42     7 Ss+").unwrap();
        assert_eq!((pid, process.parent, process.state), (42, 7, State::Running));
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
    }
}
