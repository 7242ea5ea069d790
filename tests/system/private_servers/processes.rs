//! Any program as a child process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use servers::process::Program;
use servers::{Nats, Postgres, nats};
use sqlx::{Connection as _, PgConnection};

use super::checks::{LIMIT, SILENCE, is_alive, quick};
use crate::harness::open_folder;

async fn gone(pid: u32) -> bool {
    let deadline = Instant::now() + LIMIT;
    while is_alive(pid) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !is_alive(pid)
}

#[tokio::test]
async fn any_program_can_be_run_frozen_and_ended_with_its_descendants() {
    let folder = open_folder();
    let log = folder.path().join("log");
    let script = "echo $GREETING; sleep 60 & echo $!; wait";
    let child =
        Program::new("/bin/sh", &log).args(["-c", script]).env("GREETING", "hello").spawn().await.unwrap();
    let deadline = Instant::now() + LIMIT;
    let grandchild: u32 = loop {
        let tail = child.log_tail();
        if let Some(("hello", pid)) = tail.split_once('\n') {
            break pid.trim().parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{tail}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(child.pause().await);
    assert!(fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap().contains(") T "));
    assert!(child.resume());
    assert!(child.wait(SILENCE).await.is_none());
    child.kill().await.unwrap();
    assert!(!child.is_running() && !child.pause().await);
    assert!(gone(grandchild).await);

    let polite = Program::new("/bin/sleep", &log).arg("60").spawn().await.unwrap();
    let status = polite.terminate(LIMIT).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));

    let failing = Program::new("/bin/sh", &log).args(["-c", "echo reason; exit 3"]);
    let error = failing.run(LIMIT).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("reason"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_has_a_session_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    Program::new("/bin/cat", &log).arg("/proc/self/stat").run(LIMIT).await.unwrap();
    let stat = fs::read_to_string(log).unwrap();
    let fields: Vec<&str> = stat.split(' ').collect();
    let [pid, _name, _state, parent, group, session, ..] = fields[..] else { panic!("{stat}") };
    assert_eq!(parent, std::process::id().to_string());
    assert_eq!((group, session), (pid, pid));
}

/// Set for the copy of this test program that plays the parent in the next test.
const PARENT_VARIABLE: &str = "PRIVATE_SERVERS_TEST_PARENT";

#[tokio::test]
async fn children_die_with_a_parent_that_is_killed() {
    if let Some(folder) = std::env::var_os(PARENT_VARIABLE) {
        return be_the_parent(Path::new(&folder)).await;
    }
    let folder = open_folder();
    // Tests are named without the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::children_die_with_a_parent_that_is_killed"), "--nocapture"])
        .env(PARENT_VARIABLE, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pids = lines.find_map(|line| Some(line.unwrap().split_once("children: ")?.1.to_owned())).unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 3 && pids.iter().all(|&pid| is_alive(pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    for pid in pids {
        assert!(gone(pid).await);
    }
    // What the killed one left is no obstacle.
    Postgres::start(quick(folder.path())).await.unwrap().stop().await.unwrap();
}

async fn be_the_parent(folder: &Path) {
    let postgres = Postgres::start(quick(folder)).await.unwrap();
    let nats = Nats::start(nats::Options::new(folder.join("nats"))).await.unwrap();
    let sleep = Program::new("/bin/sleep", folder.join("log")).arg("60").spawn().await.unwrap();
    // Frozen ones must go as well: a frozen backend cannot notice that its postmaster died.
    let _connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    assert!(postgres.pause().await);
    println!("children: {} {} {}", postgres.pid(), nats.pid(), sleep.pid());
    tokio::time::sleep(LIMIT).await;
}
