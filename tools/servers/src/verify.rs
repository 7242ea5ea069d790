//! Whether an unpacked wheel is still what was fetched.
//!
//! A wheel lists the hash of each of its files in its file RECORD. The hash of RECORD itself is in this source, as the
//! hash of the whole wheel is, so nothing in the cache has to be believed: whoever can write there could change a
//! program, and a list beside it as well. Whoever can write there between the check and the start can also do more.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::files;

/// Checks all files below `place`, and that there are no others.
///
/// # Errors
/// When one is missing, changed or new, or RECORD is none of `records`; says which.
pub(super) fn check(place: &Path, records: &[&str]) -> io::Result<()> {
    let wrong = |name: &str, how: &str| io::Error::other(format!("{}: {how}", place.join(name).display()));
    let folders = fs::read_dir(place)?.collect::<io::Result<Vec<_>>>()?;
    let record = folders.iter().map(|entry| entry.path().join("RECORD"));
    let record = record.into_iter().find(|path| path.parent().is_some_and(is_dist_info) && path.is_file());
    let record = record.ok_or_else(|| wrong("RECORD", "is missing"))?;
    let text = fs::read_to_string(&record)?;
    let own_name = relative(place, &record)?;
    if !records.contains(&files::sha256(text.as_bytes()).as_str()) {
        return Err(wrong(&own_name, "has an unknown hash"));
    }
    // Names with commas would be in quotes; there are none.
    let mut listed: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(",sha256="))
        .filter_map(|(name, rest)| Some((name, rest.split(',').next()?)))
        .collect();
    for entry in WalkDir::new(place) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            continue;
        }
        let name = relative(place, entry.path())?;
        if name == own_name {
            continue;
        }
        let Some(hash) = listed.remove(name.as_str()) else { return Err(wrong(&name, "was not fetched")) };
        if !entry.file_type().is_file()
            || URL_SAFE_NO_PAD.encode(Sha256::digest(fs::read(entry.path())?)) != hash
        {
            return Err(wrong(&name, "is not as it was fetched"));
        }
    }
    match listed.keys().next() {
        Some(name) => Err(wrong(name, "is missing")),
        None => Ok(()),
    }
}

fn is_dist_info(folder: &Path) -> bool {
    folder.extension().is_some_and(|extension| extension == "dist-info")
}

fn relative(place: &Path, path: &Path) -> io::Result<String> {
    Ok(path.strip_prefix(place).map_err(io::Error::other)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_changed_added_or_removed_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let program = place.join("bin/program");
        fs::create_dir_all(place.join("bin")).unwrap();
        fs::create_dir_all(place.join("a.dist-info")).unwrap();
        fs::write(&program, "right").unwrap();
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest("right"));
        let record = format!("bin/program,sha256={hash},5\na.dist-info/RECORD,,\n");
        let record_file = place.join("a.dist-info/RECORD");
        fs::write(&record_file, &record).unwrap();
        let known = files::sha256(record.as_bytes());
        let said = || check(place, &[&known]).map_err(|error| error.to_string());
        assert_eq!(said(), Ok(()));

        fs::write(&program, "wrong").unwrap();
        assert!(said().unwrap_err().ends_with("bin/program: is not as it was fetched"));
        // A list that fits is of no use.
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest("wrong"));
        fs::write(&record_file, format!("bin/program,sha256={hash},5\na.dist-info/RECORD,,\n")).unwrap();
        assert!(said().unwrap_err().ends_with("a.dist-info/RECORD: has an unknown hash"));

        fs::write(&record_file, &record).unwrap();
        fs::write(&program, "right").unwrap();
        fs::write(place.join("bin/library.so"), "").unwrap();
        assert!(said().unwrap_err().ends_with("bin/library.so: was not fetched"));
        fs::remove_file(place.join("bin/library.so")).unwrap();
        fs::rename(&program, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", &program).unwrap();
        assert!(said().is_err());
        fs::remove_file(&program).unwrap();
        fs::remove_file(folder.path().join("elsewhere")).unwrap();
        assert!(said().unwrap_err().ends_with("bin/program: is missing"));
    }
}
