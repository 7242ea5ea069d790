//! The documents agree with the code: variables, limits, codes, routes and options stand in both, links lead
//! somewhere, SQL runs, and the examples print what they should.

mod code;
mod compose;
mod examples;
mod facts;
mod files;
mod page;
mod programs;
mod sql;
mod value;

use code::Constant;
use facts::{Facts, assert_same, differences};
use files::{pages, read, root};
use page::Page;

/// Most lines that a page may have.
const LINES_MAX: [(&str, usize); 3] =
    [("README.md", 150), ("docs/architecture.md", 250), ("docs/performance.md", 200)];

/// The rows of all tables of a page whose first column has this title: the names in it, and another column.
fn documented(path: &str, first: &str, column: Option<&str>) -> Facts {
    let page = Page::new(path, read(path));
    let rows = page.tables().into_iter().filter(|table| table.titles[0] == first).flat_map(|table| {
        let place = column.and_then(|column| table.titles.iter().position(|title| title == column));
        table.rows.into_iter().map(move |row| (page::name(&row[0]), place.map(|place| row[place].clone())))
    });
    rows.collect()
}

#[test]
fn variables() {
    let names = |facts: Facts| -> Facts { facts.into_keys().map(|name| (name, None)).collect() };
    let mut documented = names(documented("docs/configuration.md", "variable", None));
    // Those that only docker-compose.yml knows have tests of their own.
    let mut actual = names(code::variables());
    for name in compose::variables() {
        documented.remove(&name);
        actual.remove(&name);
    }
    assert_same("variables", &documented, &actual);
}

#[test]
fn defaults_and_ranges() {
    let page = "docs/configuration.md";
    let code = code::variables();
    let of = |at: usize| -> Facts {
        let parts = code.iter().map(|(name, value)| {
            let value = value.as_ref().and_then(|value| value.split(';').nth(at)).map(str::to_owned);
            (name.clone(), value.filter(|value| !value.is_empty()))
        });
        parts.collect()
    };
    for (column, at) in [("default", 0), ("range", 1)] {
        let mut written = documented(page, "variable", Some(column));
        written.retain(|name, _| code.contains_key(name));
        for value in written.values_mut() {
            *value = value.as_deref().and_then(value::written);
        }
        assert_same(column, &written, &of(at));
    }
}

#[test]
fn fixed_limits() {
    let page = Page::new("docs/configuration.md", read("docs/configuration.md"));
    let mut found = Vec::new();
    for (krate, heading) in
        [("api", "Limits of the API"), ("worker", "Limits of the worker"), ("common", "Limits of both")]
    {
        let constants = code::constants(&[krate]);
        let mut written = Facts::new();
        for row in page.tables_under(heading).into_iter().flat_map(|table| table.rows) {
            let value =
                value::written(&row[1]).unwrap_or_else(|| panic!("{}: what is {:?}?", row[0], row[1]));
            written.insert(format!("{} = {value}", page::name(&row[0])), None);
        }
        assert!(!written.is_empty(), "{heading}: nothing was found");
        // Numbers that are no limits may be documented, and need not be.
        let is_wanted =
            |fact: &String, constant: &Constant| constant.is_limit() || written.contains_key(fact);
        let facts = constants.iter().map(|constant| (constant.fact(), constant));
        let actual = facts.filter(|(fact, constant)| is_wanted(fact, constant)).map(|(fact, _)| (fact, None));
        let differences = differences(&written, &actual.collect());
        found.extend(differences.into_iter().map(|difference| format!("{heading}: {difference}")));
    }
    assert!(found.is_empty(), "  {}", found.join("\n  "));
}

#[test]
fn problem_codes() {
    let actual =
        code::problems(&[read("api/src/http/problem.rs"), read("api/src/claims/answer.rs")].concat());
    let page = Page::new("docs/api.md", read("docs/api.md"));
    let mut written = Facts::new();
    for table in
        page.tables().iter().filter(|table| table.titles.get(1).is_some_and(|title| title == "`code`"))
    {
        for row in &table.rows {
            written.insert(page::name(&row[1]), Some(row[0].clone()));
        }
    }
    assert_same("problem codes", &written, &actual);
    let gateway = read("deploy/gateway/haproxy.cfg");
    for (_, rest) in
        gateway.match_indices("\"code\":\"").map(|(at, found)| gateway.split_at(at + found.len()))
    {
        let code = rest.split('"').next().unwrap();
        assert!(written.contains_key(code), "the gateway's {code} is not documented");
    }
}

#[test]
fn routes() {
    let actual = code::routes(&[read("api/src/http/router.rs"), read("api/src/http/health.rs")].concat());
    assert_same("routes", &documented("docs/api.md", "route", None), &actual);
    let readme = documented("README.md", "request", None);
    let short: Facts = readme.into_keys().map(|request| (request, None)).collect();
    assert_same("routes of the README", &short, &actual);
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let wrong: Vec<String> = pages.iter().flat_map(|page| page.broken_links(&root(), &pages)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_are_named_exist() {
    let files = code::files(&root());
    let is_there = |name: &str| {
        let suffix = format!("/{name}");
        files.iter().any(|file| file == name || file.ends_with(&suffix))
    };
    let named = pages()
        .into_iter()
        .flat_map(|page| page.file_names().into_iter().map(move |name| format!("{name} in {}", page.path)));
    let missing: Vec<String> = named.filter(|named| !is_there(named.split(' ').next().unwrap())).collect();
    assert!(missing.is_empty(), "there is no {}", missing.join(", "));
}

#[test]
fn pages_stay_short() {
    for (path, lines_max) in LINES_MAX {
        let lines = read(path).lines().count();
        assert!(lines <= lines_max, "{path} has {lines} lines, and may have {lines_max}");
    }
}
