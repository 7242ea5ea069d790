//! Numbers and times, as people and as Rust write them.

use std::collections::BTreeMap;

/// `a–b`, with the dash that the tables have.
fn range(least: &str, most: &str) -> String {
    format!("{least}–{most}")
}

/// What a table says, in one form: `64 KiB` as bytes, times as `2 s` or `250 ms`, ranges with a dash.
pub(super) fn written(cell: &str) -> Option<String> {
    let cell = cell.replace(['`', ','], "");
    if let Some((least, most)) = cell.split_once('–') {
        return Some(range(&written(least)?, &written(most)?));
    }
    let (number, unit) = cell.split_once(' ').unwrap_or((&cell, ""));
    let number: u64 = number.parse().ok()?;
    match unit {
        "" => Some(number.to_string()),
        "KiB" => Some((number << 10).to_string()),
        "MiB" => Some((number << 20).to_string()),
        "s" => Some(time(number * 1_000)),
        "ms" => Some(time(number)),
        _ => None,
    }
}

fn time(millis: u64) -> String {
    if millis.is_multiple_of(1_000) { format!("{} s", millis / 1_000) } else { format!("{millis} ms") }
}

/// What an expression of Rust, without white space, is worth. `constants` are known by their names.
pub(super) fn of_rust(expression: &str, constants: &BTreeMap<String, String>) -> Option<String> {
    if let Some((least, most)) = expression.split_once("..=") {
        return Some(range(&of_rust(least, constants)?, &of_rust(most, constants)?));
    }
    let expression = expression.strip_prefix("std::time::").unwrap_or(expression);
    for (prefix, factor) in [("Duration::from_secs(", 1_000), ("Duration::from_millis(", 1)] {
        if let Some(number) = expression.strip_prefix(prefix) {
            let number: u64 = of_rust(number.strip_suffix(')')?, constants)?.parse().ok()?;
            return Some(time(number * factor));
        }
    }
    for (operator, apply) in [("<<", shift as fn(u64, u64) -> Option<u64>), ("*", u64::checked_mul)] {
        if let Some((left, right)) = expression.split_once(operator) {
            let of = |side| of_rust(side, constants)?.parse().ok();
            return apply(of(left)?, of(right)?).map(|value| value.to_string());
        }
    }
    match expression {
        "u16::MAX" => return Some(u16::MAX.to_string()),
        "i64::MAX" => return None,
        _ => {}
    }
    let plain = expression.replace('_', "");
    if plain.parse::<u64>().is_ok() {
        return Some(plain);
    }
    let name = expression.strip_suffix(".cast_signed()").unwrap_or(expression).rsplit("::").next()?;
    constants.get(name).cloned()
}

fn shift(left: u64, right: u64) -> Option<u64> {
    left.checked_shl(u32::try_from(right).ok()?)
}

#[test]
fn people_and_rust_mean_the_same() {
    let constants = BTreeMap::from([("LEASE_MS_MAX".to_owned(), "60000".to_owned())]);
    for (cell, rust) in [
        ("64 KiB", "64<<10"),
        ("1,000", "1_000"),
        ("2 s", "Duration::from_secs(2)"),
        ("250 ms", "std::time::Duration::from_millis(250)"),
        ("1 s–3 s", "Duration::from_secs(1)..=Duration::from_secs(3)"),
        ("200–60000", "200..=LEASE_MS_MAX"),
        ("120000", "2*LEASE_MS_MAX.cast_signed()"),
        ("`0`–65535", "0..=u16::MAX"),
    ] {
        assert_eq!(written(cell), of_rust(rust, &constants), "{cell} {rust}");
        assert!(written(cell).is_some(), "{cell}");
    }
    assert_eq!((written("many"), of_rust("UNKNOWN", &constants)), (None, None));
}
