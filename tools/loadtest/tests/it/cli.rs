//! The command as a person or a script calls it.

use std::path::Path;
use std::process::{Command, Output};

use crate::fake::{self, Manner, Server};

fn run(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--url", &server.url(), "--users", "300", "--stock", "20", "--connections", "8"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_good_sale_gives_a_table_a_json_file_and_plots() {
    let server = Server::start(Manner::Honest);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("good-sale");
    let json = folder.join("out.json");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let (plots, file) = (folder.to_str().unwrap(), json.to_str().unwrap());
    let output = run(&server, &["--json", file, "--plots", plots]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}");
    assert!(table.contains("sold_out") && table.contains("p99.9"), "{table}");

    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&figures["won"], &figures["passed"]), (&20.into(), &true.into()));
    for plot in ["throughput.svg", "latency.svg"] {
        let svg = std::fs::read_to_string(folder.join(plot)).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{plot}");
    }
}

#[test]
fn a_server_cannot_command_the_terminal() {
    let server = Server::start(Manner::Commands);
    let by_codes = run(&server, &[]);
    let by_bodies = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--url", &format!("http://{}", fake::commanding()), "--users", "9", "--stock", "2"])
        .output()
        .unwrap();
    for (output, escaped) in [(by_codes, "\\u{1b}[2Jinternal"), (by_bodies, "\\u{1b}[2Jinternal")] {
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(said.contains(escaped), "{said:?}");
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
    }
}

#[test]
fn a_failed_check_is_exit_code_1() {
    let server = Server::start(Manner::Oversells);
    let output = run(&server, &[]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("FAILED  the stock and the claims add up"), "{table}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let server = Server::start(Manner::Honest);
    for arguments in [
        &["--repeat-share", "1"][..],
        &["--rate", "0"],
        &["--rate", "1e-20"],
        &["--coupons", "0"],
        &["--skew", "-1"],
        &["--duration", "0"],
        &["--duration", "1e19s"],
        &["--threads", "0"],
    ] {
        let status = run(&server, arguments).status;
        // 101 would be a panic.
        assert!(matches!(status.code(), Some(1 | 2)), "{arguments:?}: {status}");
    }
}
