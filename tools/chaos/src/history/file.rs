//! Writing a history while a run goes on, and reading it back: one JSON object per line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use thiserror::Error;

use super::round::{Entry, Round, RoundBuilder};

/// Bytes gathered before they are handed to the operating system.
const BUFFER_BYTES: usize = 256 * 1024;

/// The longest line that is read back. The largest is a round's final state.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// Why a history could not be written or read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file could not be written or read.
    #[error("history file: {0}")]
    Io(#[from] io::Error),
    /// A line is not an entry.
    #[error("line {line} of the history is not an entry: {source}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes entries to a history file.
#[derive(Debug)]
pub struct Writer(BufWriter<File>);

impl Writer {
    /// Creates the file; an older one of that name is replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?)))
    }

    /// Appends one entry.
    pub fn write(&mut self, entry: &Entry) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, entry)?;
        self.0.write_all(b"\n")
    }

    /// Hands all entries written so far to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads a history file round by round, with one round in memory at a time.
#[derive(Debug)]
pub struct Reader {
    lines: BufReader<File>,
    line: u64,
    rounds: RoundBuilder,
}

impl Reader {
    /// Opens a history file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lines = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        Ok(Self { lines, line: 0, rounds: RoundBuilder::default() })
    }

    /// The next entry, or nothing at the end of the file. A run that was killed may leave a last line without
    /// its end; it counts as the end of the file.
    fn next_entry(&mut self) -> Result<Option<Entry>, HistoryError> {
        loop {
            let mut text = Vec::new();
            self.lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                return Ok(None);
            }
            self.line += 1;
            if !text.trim_ascii().is_empty() {
                let line = self.line;
                return serde_json::from_slice(&text)
                    .map(Some)
                    .map_err(|source| HistoryError::Line { line, source });
            }
        }
    }

    /// The next complete round, or nothing once there is none. Unfinished rounds are left out.
    pub fn next_round(&mut self) -> Result<Option<Round>, HistoryError> {
        while let Some(entry) = self.next_entry()? {
            if let Some(round) = self.rounds.add(entry) {
                return Ok(Some(round));
            }
        }
        Ok(None)
    }

    /// The rounds that were left out, once [`Self::next_round`] has reached the end.
    pub fn unfinished(&self) -> Vec<u32> {
        self.rounds.unfinished()
    }
}
