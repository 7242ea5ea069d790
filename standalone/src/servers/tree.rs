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
    processes().get(&pid).is_some_and(|process| process.alive)
}

/// All living descendants of a process, the process itself excluded.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    let processes = processes();
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&pid, process) in processes.iter().filter(|(_, process)| process.alive) {
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

/// Processes whose working directory is `folder`. Postgres and all its backends work in the data folder,
/// so this finds those whose parent died. Empty on systems without `/proc`.
pub(super) fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let own = std::process::id();
    numbered_entries()
        .filter(|&pid| pid != own)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .collect()
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
    alive: bool,
}

fn processes() -> HashMap<u32, Process> {
    let from_proc: HashMap<u32, Process> = numbered_entries()
        .filter_map(|pid| Some((pid, from_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    if !from_proc.is_empty() {
        return from_proc;
    }
    let listing = ps(&["-A", "-o", "pid=,ppid=,stat="]);
    listing.lines().filter_map(from_ps).collect()
}

fn numbered_entries() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
}

/// Reads `/proc/<pid>/stat`. The name in parentheses may itself hold spaces and parentheses.
fn from_stat(stat: &str) -> Option<Process> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    Some(Process { parent: fields.next()?.parse().ok()?, alive })
}

fn from_ps(line: &str) -> Option<(u32, Process)> {
    let mut fields = line.split_whitespace();
    let pid = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    Some((pid, Process { parent, alive: !fields.next()?.starts_with('Z') }))
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
        assert_eq!((process.parent, process.alive), (7, true));
        assert!(!from_stat("42 (gone) Z 7 42").unwrap().alive);
    }

    #[test]
    fn reads_ps_lines() {
        let (pid, process) = from_ps("   42     7 Ss+").unwrap();
        assert_eq!((pid, process.parent, process.alive), (42, 7, true));
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
    }
}
