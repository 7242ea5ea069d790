//! The lines of a process's log that say that something went wrong.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Error lines of one process and round that are kept.
const LINES_MAX: usize = 100;

/// Reads a log from where it stopped the last time.
#[derive(Debug)]
pub(super) struct ErrorLog {
    path: PathBuf,
    read_bytes: Mutex<u64>,
}

impl ErrorLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read_bytes: Mutex::default() }
    }

    /// The error lines since the last call.
    pub(super) fn take(&self) -> io::Result<Vec<String>> {
        let mut read_bytes = self.read_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if std::fs::metadata(&self.path)?.len() < *read_bytes {
            // A log that has grown large is put aside when its program starts.
            let mut old = self.path.as_os_str().to_owned();
            old.push(".old");
            text = rest(Path::new(&old), *read_bytes)?;
            *read_bytes = 0;
        }
        let new = rest(&self.path, *read_bytes)?;
        // The last line may still be growing.
        let complete = new.rfind('\n').map_or(0, |end| end + 1);
        *read_bytes += complete as u64;
        text.push_str(&new[..complete]);
        Ok(text.lines().filter(|line| is_error(line)).take(LINES_MAX).map(str::to_owned).collect())
    }
}

fn rest(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // Logs are UTF-8; if one is not, lengths in bytes must still agree.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| error.into_bytes().iter().map(|b| char::from(b & 127)).collect()))
}

/// Logs are lines of JSON; a panic is not.
fn is_error(line: &str) -> bool {
    line.contains(r#""level":"ERROR""#) || line.contains(" panicked at ")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_error_is_taken_once_even_if_the_log_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker-0.log");
        let mut file = File::create(&path).unwrap();
        let log = ErrorLog::new(path.clone());
        let error = |message| format!(r#"{{"level":"ERROR","message":"{message}"}}"#);
        writeln!(file, "{}\n{{\"level\":\"WARN\"}}", error("é")).unwrap();
        write!(file, "{}", error("c")).unwrap();
        assert_eq!(log.take().unwrap(), [error("é")]);
        writeln!(file).unwrap();
        assert_eq!(log.take().unwrap(), [error("c")]);
        writeln!(file, "thread 'main' panicked at src/x.rs:1").unwrap();
        std::fs::rename(&path, folder.path().join("worker-0.log.old")).unwrap();
        std::fs::write(&path, error("d") + "\n").unwrap();
        assert_eq!(log.take().unwrap(), ["thread 'main' panicked at src/x.rs:1".to_owned(), error("d")]);
        assert_eq!(log.take().unwrap(), Vec::<String>::new());
    }
}
