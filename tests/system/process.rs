//! What the programs `coupon-api` and `coupon-worker` say to a wrong configuration, and how they stop.

mod api;
mod worker;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::program;

/// How long a process may take to end, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(10);

/// How long it may take once it was told to, with nothing in its hands.
const PROMPTLY: Duration = Duration::from_secs(2);

/// Wrong values of variables that both processes know.
const WRONG: [(&str, &str); 15] = [
    ("DB_DEFAULT", "mysql"),
    ("DATABASE_URL", "mysql://localhost/x"),
    ("DATABASE_URL", "postgres://localhost:port/x"),
    ("DATABASE_URL", "localhost"),
    ("DATABASE_URL", "host=localhost port=x"),
    ("DATABASE_URL", "host=localhost sslmode=perhaps"),
    ("DATABASE_URL", "host=localhost color=red"),
    ("DB_PG_PORT", "0"),
    ("DB_PG_PORT", "x"),
    ("NATS_URL", "nats://["),
    ("PARTITIONS", "0"),
    ("PARTITIONS", "257"),
    ("PARTITIONS", "eight"),
    ("SHUTDOWN_TIMEOUT_MS", "-1"),
    ("LOG_FORMAT", "xml"),
];

/// A process under test.
pub(super) struct Process {
    /// Its package.
    pub(super) package: &'static str,
    /// Its program.
    pub(super) program: &'static str,
    /// What is set for it when nothing is being tested.
    pub(super) variables: &'static [(&'static str, &'static str)],
    /// A variable of its own that must be a number.
    pub(super) number: &'static str,
}

impl Process {
    /// The process, in a folder of its own and with nothing else in its environment.
    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(program(self.package, self.program));
        command
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .current_dir(folder)
            .envs(self.variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(super) fn names_a_wrong_value_of_any_variable(&self, own: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        for (variable, value) in WRONG.iter().chain(own) {
            let mut command = self.command(folder.path());
            command.env(variable, value);
            assert_refused(command, variable);
        }
    }

    pub(super) fn takes_no_arguments(&self) {
        let folder = tempfile::tempdir().unwrap();
        let run = |argument: &str| {
            let output = wait(self.command(folder.path()).arg(argument).spawn().unwrap());
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
            (output.status.code(), said)
        };
        for argument in ["serve", "--port", "-v"] {
            let (code, [_, complaint]) = run(argument);
            assert!(code == Some(2) && complaint.contains(argument), "{argument}: {code:?}: {complaint}");
        }
        let (code, [help, _]) = run("--help");
        assert!(code == Some(0) && help.contains("environment variables"), "{code:?}: {help}");
    }

    pub(super) fn wants_credentials_in_pairs(&self) {
        let folder = tempfile::tempdir().unwrap();
        for (set, missing) in [("NATS_USER", "NATS_PASSWORD"), ("NATS_PASSWORD", "NATS_USER")] {
            let mut command = self.command(folder.path());
            command.env(set, "x");
            assert_refused(command, missing);
        }
    }

    pub(super) fn names_a_value_that_is_no_text(&self, own: &str) {
        let folder = tempfile::tempdir().unwrap();
        for variable in [own, "DATABASE_URL", "DB_DEFAULT"] {
            let mut command = self.command(folder.path());
            command.env(variable, OsStr::from_bytes(b"\xff\xfe"));
            assert_refused(command, variable);
        }
    }

    pub(super) fn repeats_no_password(&self) {
        let folder = tempfile::tempdir().unwrap();
        for (variable, value) in [
            ("DATABASE_URL", "postgres://me:geheim@localhost:port/x"),
            ("DATABASE_URL", "host=localhost password=geheim port=x"),
            ("NATS_URL", "nats://me:geheim@["),
        ] {
            let output = wait(self.command(folder.path()).env(variable, value).spawn().unwrap());
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                !output.status.success() && said.contains(variable) && !said.contains("geheim"),
                "{said}"
            );
        }
    }

    pub(super) fn reads_a_file_of_variables_but_never_overrides_the_environment(&self) {
        let folder = tempfile::tempdir().unwrap();
        let number = self.number;
        let wrong = format!("# wrong\nDB_DEFAULT=mysql\n{number}='soon'\n");
        fs::write(folder.path().join(".env"), wrong).unwrap();
        assert_refused(self.command(folder.path()), "DB_DEFAULT");
        let mut overridden = self.command(folder.path());
        overridden.env("DB_DEFAULT", "postgresql");
        assert_refused(overridden, number);
        // One that cannot be read is no excuse for going on without it.
        fs::write(folder.path().join(".env"), "DB_DEFAULT postgresql\n").unwrap();
        assert_refused(self.command(folder.path()), ".env");
    }

    pub(super) fn reads_no_file_of_variables_further_up(&self) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".env"), "DB_DEFAULT=mysql\n").unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let mut command = self.command(&inner);
        command.env(self.number, "soon");
        assert_refused(command, self.number);
    }

    pub(super) fn stops_promptly_while_it_waits_for_its_servers(&self) {
        let folder = tempfile::tempdir().unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let child = without_postgres(self.command(folder.path()));
            let started = Instant::now();
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            let status = wait(child).status;
            assert!(started.elapsed() < PROMPTLY, "{signal}: {:?}", started.elapsed());
            assert_eq!(status.code(), Some(0), "{signal}: {status}");
        }
    }
}

/// A port on which nobody listens: bound and closed again.
pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Starts the process where there is no Postgres, and returns once it waits for one.
pub(super) fn without_postgres(mut command: Command) -> Child {
    let port = free_port().to_string();
    let mut child = command.env("DB_PG_HOST", "127.0.0.1").env("DB_PG_PORT", &port).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = lines.any(|line| {
        let line = line.unwrap();
        line.contains("waiting for Postgres") && line.contains(&port)
    });
    assert!(waits, "it does not say what it waits for");
    // What it says meanwhile must not fill the pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    child
}

/// Waits for the end; kills what does not end.
pub(super) fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still runs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Asserts that the process ends with an error of one line that begins by naming the variable.
pub(super) fn assert_refused(mut command: Command, variable: &str) {
    let output = wait(command.spawn().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code().is_some_and(|code| code != 0), "{variable}: {}: {said}", output.status);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{variable}: {said}");
    assert!(lines[0].starts_with(&format!("Error: {variable}: ")), "{variable}: {said}");
}
