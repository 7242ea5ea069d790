//! What the sources say, read from their text.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::facts::Facts;
use super::files::{read, root};
use super::value;

/// Where variables are read.
const READERS: [&str; 5] = ["api", "worker", "common", "standalone", "tools/servers"];

/// Variables of other programs, which are read and not ours to document.
const NOT_OURS: [&str; 1] = ["HOME"];

/// A constant of a crate.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    name: String,
    kind: String,
    value: String,
}

impl Constant {
    /// How a table would name it.
    pub(super) fn fact(&self) -> String {
        format!("{} = {}", self.name, self.value)
    }

    /// Whether it has to be documented: times, and numbers that are said to be limits.
    pub(super) fn is_limit(&self) -> bool {
        let is_default = self.name.ends_with("_DEFAULT");
        !is_default
            && (self.kind.contains("Duration") || self.name.ends_with("_MAX") || self.name.ends_with("_MIN"))
    }
}

/// All files of the project's folders, relative to its own.
pub(super) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if !path.is_dir() {
                found.push(name);
            } else if !["target", "data", ".git"].contains(&name.as_str()) {
                folders.push(path);
            }
        }
    }
    found
}

/// The sources of a crate without their tests.
fn sources(krate: &str) -> Vec<String> {
    let inside = format!("{krate}/src/");
    let files = files(&root()).into_iter().filter(|file| file.starts_with(&inside) && file.ends_with(".rs"));
    let product = |file: String| read(&file).split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    files.map(product).collect()
}

/// Source text without comments and white space: how it is wrapped means nothing.
fn dense(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
}

/// The constants of these crates that are numbers or times.
pub(super) fn constants(crates: &[&str]) -> Vec<Constant> {
    let texts: Vec<String> = crates.iter().flat_map(|krate| sources(krate)).collect();
    let mut declared = Vec::new();
    for text in &texts {
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for part in code.split("const ").skip(1) {
            let declaration = dense(part.split(';').next().unwrap());
            let Some((name, rest)) = declaration.split_once(':') else { continue };
            let Some((kind, expression)) = rest.split_once('=') else { continue };
            if is_variable(name) {
                declared.push((name.to_owned(), kind.to_owned(), expression.to_owned()));
            }
        }
    }
    let mut values = BTreeMap::new();
    // Twice: some are made of others.
    for _ in 0..2 {
        for (name, _, expression) in &declared {
            if let Some(value) = value::of_rust(expression, &values) {
                values.insert(name.clone(), value);
            }
        }
    }
    let known = declared.into_iter().filter_map(|(name, kind, expression)| {
        let value = value::of_rust(&expression, &values)?;
        Some(Constant { name, kind, value })
    });
    known.collect()
}

/// Every variable that is read; with default and range, `default;range`, where it has to be a number.
pub(super) fn variables() -> Facts {
    let constants: BTreeMap<_, _> =
        constants(&READERS).into_iter().map(|constant| (constant.name, constant.value)).collect();
    let mut found = Facts::new();
    for text in READERS.iter().flat_map(|krate| sources(krate)).map(|text| dense(&text)) {
        for call in [".get(\"", ".address(\"", "set(\"", "_VARIABLE:&str=\"", "variable:\""] {
            for name in names_after(&text, call) {
                found.entry(name).or_insert(None);
            }
        }
        for call in [".number(\"", ".millis(\""] {
            for (at, _) in text.match_indices(call) {
                let rest = &text[at + call.len()..];
                let (name, arguments) = rest.split_once('"').unwrap();
                let arguments = arguments.replace("()", "");
                let mut arguments = arguments[1..].split([',', ')']);
                let default = value::of_rust(arguments.next().unwrap(), &constants);
                let range = value::of_rust(arguments.next().unwrap(), &constants);
                let both = format!("{};{}", default.unwrap_or_default(), range.unwrap_or_default());
                found.insert(name.to_owned(), Some(both));
            }
        }
    }
    // Its default stands elsewhere.
    if let Some(partitions) = found.get_mut("PARTITIONS") {
        *partitions = partitions.take().map(|value| value.trim_start_matches(|c: char| c != ';').to_owned());
    }
    found.retain(|name, _| !NOT_OURS.contains(&name.as_str()));
    found
}

/// The names in capitals that follow `start`, up to a quotation mark.
fn names_after(text: &str, start: &str) -> Vec<String> {
    let rests = text.match_indices(start).map(|(at, _)| &text[at + start.len()..]);
    rests
        .filter_map(|rest| rest.split('"').next())
        .filter(|name| is_variable(name))
        .map(str::to_owned)
        .collect()
}

/// Whether it is a name in capitals.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The variables of a `.env` file, those that are commented out included.
pub(super) fn env_file(text: &str) -> Facts {
    let names = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    names.map(|(name, _)| name).filter(|name| is_variable(name)).map(|name| (name.to_owned(), None)).collect()
}

/// The codes of all problems, with their statuses.
pub(super) fn problems(text: &str) -> Facts {
    let text = dense(text.split("#[cfg(test)]").next().unwrap());
    let mut found = Facts::new();
    for rest in text.split("(StatusCode::").skip(1) {
        let Some((status, rest)) = rest.split_once(",\"") else { continue };
        if let (Some(status), Some(code)) = (number_of(status), rest.split('"').next()) {
            found.insert(code.to_owned(), Some(status.to_owned()));
        }
    }
    let is_code = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    for code in text.split("=>\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(is_code) {
        found.insert(code.to_owned(), Some("503".to_owned()));
    }
    found
}

fn number_of(status: &str) -> Option<&'static str> {
    Some(match status {
        "BAD_REQUEST" => "400",
        "NOT_FOUND" => "404",
        "METHOD_NOT_ALLOWED" => "405",
        "REQUEST_TIMEOUT" => "408",
        "CONFLICT" => "409",
        "PAYLOAD_TOO_LARGE" => "413",
        "UNSUPPORTED_MEDIA_TYPE" => "415",
        "INTERNAL_SERVER_ERROR" => "500",
        _ => return None,
    })
}

/// All routes, as `METHOD path`. A coupon's view at the path of claims is one of `/api/coupons/{name}`.
pub(super) fn routes(text: &str) -> Facts {
    let text = dense(text);
    let mut found = Facts::new();
    for rest in text.split(".route(").skip(1) {
        let (path, rest) = rest.split_once(',').unwrap();
        let path = match path.strip_prefix('"') {
            Some(path) => path.trim_end_matches('"').to_owned(),
            None => {
                let name = path.rsplit("::").next().unwrap();
                let declared = format!("const{name}:&str=\"");
                text.split(&declared).nth(1).unwrap().split('"').next().unwrap().to_owned()
            }
        };
        let handlers = rest.split(".route(").next().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            let called =
                handlers.starts_with(&format!("{method}(")) || handlers.contains(&format!(".{method}("));
            if called && !(method == "get" && path.ends_with("/claim")) {
                found.insert(format!("{} {path}", method.to_uppercase()), None);
            }
        }
    }
    found
}

#[test]
fn sources_are_understood() {
    let facts = |pairs: &[(&str, Option<&str>)]| -> Facts {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    };
    let router = "const X: &str = \"/x/claim\";\nRouter::new().route(here::X, post(a).get(b)).route(\"/y/{n}\", get(c))";
    assert_eq!(routes(router), facts(&[("POST /x/claim", None), ("GET /y/{n}", None)]));
    let problem = "A => (StatusCode::CONFLICT, \"a_b\"),\n B => \"c_d\",\n C => \"Some title\"";
    assert_eq!(problems(problem), facts(&[("a_b", Some("409")), ("c_d", Some("503"))]));
    assert_eq!(env_file("A=1\n#B=2\n# text = more\n"), facts(&[("A", None), ("B", None)]));
    let known = variables();
    assert_eq!(known["PORT"].as_deref(), Some("8080;0–65535"));
    assert!(known.contains_key("NATS_SERVER") && known.contains_key("DATABASE_URL"), "{known:?}");
}
