//! A child's log file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A log larger than this is put aside (as `.old`, replacing the former one) when its program starts.
const SIZE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much of a log's end is read for an error message.
const TAIL_BYTES: u64 = 8 * 1024;

/// Only its owner reads a log: it can hold user ids and more. (The child needs no right to the file: it gets it open.)
const MODE: u32 = 0o600;

/// How many lines of that are shown.
const TAIL_LINES: usize = 20;

/// A log file, and where in it the current run begins.
#[derive(Debug, Clone)]
pub(super) struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens `path` for appending; returns the file for the child.
    pub(super) fn open(path: &Path) -> io::Result<(Self, File)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::metadata(path).is_ok_and(|log| log.len() > SIZE_BYTES_MAX) {
            let mut old = path.as_os_str().to_owned();
            old.push(".old");
            fs::rename(path, old)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        // Also one that was there.
        file.set_permissions(Permissions::from_mode(MODE))?;
        let start = file.metadata()?.len();
        Ok((Self { path: path.to_owned(), start }, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines written in this run; empty when there are none.
    pub(super) fn tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let from = self.start.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_reads_a_log_also_one_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        for path in [path, folder.path().join("new")] {
            let (log, _) = Log::open(&path).unwrap();
            assert_eq!(fs::metadata(log.path()).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
