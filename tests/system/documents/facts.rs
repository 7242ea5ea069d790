//! Facts of a page and of the code, to be compared.

use std::collections::BTreeMap;

/// Names with their values. `None` where the value is not compared.
pub(super) type Facts = BTreeMap<String, Option<String>>;

/// What stands in one of the two only, or differs.
pub(super) fn differences(documented: &Facts, actual: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in documented {
        match actual.get(name) {
            None => found.push(format!("{name}: documented, but not in the code")),
            Some(actual) => {
                if let (Some(value), Some(actual)) = (value, actual)
                    && value != actual
                {
                    found.push(format!("{name}: documented as {value}, but is {actual}"));
                }
            }
        }
    }
    let missing = actual.iter().filter(|(name, _)| !documented.contains_key(*name));
    found.extend(missing.map(|(name, value)| match value {
        Some(value) => format!("{name}: not documented; it is {value}"),
        None => format!("{name}: not documented"),
    }));
    found
}

pub(super) fn assert_same(what: &str, documented: &Facts, actual: &Facts) {
    assert!(!documented.is_empty() && !actual.is_empty(), "{what}: nothing was found");
    let found = differences(documented, actual);
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn planted_differences_are_found() {
    let facts = |pairs: &[(&str, Option<&str>)]| -> Facts {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    };
    let code = facts(&[("A", Some("1")), ("B", Some("2")), ("C", None)]);
    assert_eq!(differences(&code, &code), [""; 0]);
    let page = facts(&[("A", Some("1")), ("B", Some("3")), ("D", None)]);
    assert_eq!(
        differences(&page, &code),
        ["B: documented as 3, but is 2", "D: documented, but not in the code", "C: not documented"]
    );
}
