//! The options of the programs, as their `--help` shows them.

use std::collections::BTreeSet;
use std::process::Command;

use super::facts::{Facts, assert_same};
use super::files::{pages, read};
use super::page::{self, Page};
use crate::harness::program;

/// Options that each program has, and no table lists.
const OF_ALL: [&str; 2] = ["--help", "--version"];

/// Heading of the options' table, package, and arguments before `--help`.
const PROGRAMS: [(&str, &str, &[&str]); 6] = [
    ("`standalone`", "standalone", &[]),
    ("`loadtest run`", "loadtest", &["run"]),
    ("`loadtest bench`", "loadtest", &["bench"]),
    ("`chaos` (", "chaos", &[]),
    ("`chaos drills`", "chaos", &["drills"]),
    ("`chaos skew`", "chaos", &["skew"]),
];

fn output(package: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(package, package)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{package} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn options(package: &str, arguments: &[&str]) -> Facts {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--help"]).collect();
    understood(&output(package, &arguments))
}

/// The options of a help text, with the defaults that are one word.
fn understood(help: &str) -> Facts {
    let mut found = Facts::new();
    let mut latest = None;
    for line in help.lines() {
        let trimmed = line.trim_start();
        // Wrapped text may begin with an option's name: an option stands further left.
        let is_option = trimmed.starts_with('-') && line.len() - trimmed.len() <= 6;
        if let Some((_, rest)) = trimmed.split_once("--").filter(|_| is_option) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let name = format!("--{name}");
            if !OF_ALL.contains(&name.as_str()) {
                found.insert(name.clone(), None);
            }
            latest = Some(name);
        }
        if let (Some(name), Some((_, rest))) = (&latest, line.split_once("[default: ")) {
            let default = rest.split(']').next().unwrap();
            if rest.contains(']') && !default.contains(' ') {
                found.insert(name.clone(), Some(default.to_owned()));
            }
        }
    }
    found
}

#[test]
fn a_help_text_is_understood() {
    let help = "Options:\n      --url <URL>  The server [default: http://x]\n      --rate <N>\n          Open, unlike --url\n  \
                -h, --help  Print help\n";
    let wanted: Facts =
        [("--rate".to_owned(), None), ("--url".to_owned(), Some("http://x".to_owned()))].into();
    assert_eq!(understood(help), wanted);
}

#[test]
fn options_are_documented() {
    let page = Page::new("docs/configuration.md", read("docs/configuration.md"));
    for (heading, package, arguments) in PROGRAMS {
        let tables = page.tables_under(heading);
        let rows = tables.into_iter().flat_map(|table| table.rows);
        let documented = rows.map(|row| (page::name(&row[0]), Some(row[1].replace('`', ""))));
        assert_same(heading, &documented.collect(), &options(package, arguments));
    }
}

/// Command lines in the documents use options that exist.
#[test]
fn commands_have_the_options_that_are_used() {
    for (start, package) in [
        ("-p loadtest -- ", "loadtest"),
        ("-p chaos -- ", "chaos"),
        ("cargo run --release -- ", "standalone"),
    ] {
        let of_package = PROGRAMS.iter().filter(|(_, other, _)| *other == package);
        let known: BTreeSet<String> =
            of_package.flat_map(|(_, package, arguments)| options(package, arguments).into_keys()).collect();
        for page in pages() {
            for line in page.lines_with(start) {
                let used = line.split_once(start).unwrap().1.split([' ', '`', '=']);
                let is_option =
                    |word: &&str| word.starts_with("--") && !OF_ALL.contains(word) && *word != "-->";
                for option in used.filter(is_option) {
                    assert!(known.contains(option), "{}: {line}: {package} has no {option}", page.path);
                }
            }
        }
    }
}

#[test]
fn faults_are_documented() {
    let list = output("chaos", &["--list"]);
    let names = list.lines().filter(|line| !line.is_empty() && !line.contains(' '));
    let actual: Facts = names.map(|name| (name.to_owned(), None)).collect();
    let page = Page::new("docs/reliability.md", read("docs/reliability.md"));
    let cells =
        page.tables_under("The faults").into_iter().flat_map(|table| table.rows).map(|row| row[1].clone());
    let named = cells.flat_map(|cell| {
        let quoted = cell.split('`').skip(1).step_by(2).filter(|name| !name.starts_with('-'));
        quoted.map(|name| (name.to_owned(), None)).collect::<Vec<_>>()
    });
    assert_same("faults", &named.collect(), &actual);
}
