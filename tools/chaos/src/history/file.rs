//! Writing a history while a run goes on, and reading it back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use thiserror::Error;

use super::entry::Entry;
use super::round::{Round, RoundBuilder};

/// Entries waiting for the disk. A client whose entry does not fit waits: a slow disk slows the load down
/// instead of filling the memory.
const ENTRIES_WAITING_MAX: usize = 4096;

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
    /// The thread that writes has stopped after an error.
    #[error("the history's writer has stopped")]
    Stopped,
}

enum Message {
    Entry(Box<Entry>),
    Flush(SyncSender<()>),
}

/// Writes entries in the order in which they are handed over, from a thread of its own.
#[derive(Debug)]
pub struct Writer {
    sender: SyncSender<Message>,
    thread: JoinHandle<io::Result<()>>,
}

/// Hands entries to a [`Writer`] from any task.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: SyncSender<Message>,
}

impl Writer {
    /// Creates the file, in place of an older one of that name.
    pub fn create(path: &Path) -> Result<Self, HistoryError> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        let (sender, receiver) = sync_channel(ENTRIES_WAITING_MAX);
        let thread =
            std::thread::Builder::new().name("history".into()).spawn(move || run(file, &receiver))?;
        Ok(Self { sender, thread })
    }

    /// A handle for a task that records.
    pub fn recorder(&self) -> Recorder {
        Recorder { sender: self.sender.clone() }
    }

    /// Writes all that waits and closes the file. Waits for every [`Recorder`] to be gone.
    pub fn close(self) -> Result<(), HistoryError> {
        drop(self.sender);
        self.thread.join().map_err(|_| HistoryError::Stopped)??;
        Ok(())
    }
}

impl Recorder {
    /// Records one entry, waiting for room if need be. Meant to be called from a few hundred tasks at most:
    /// the wait blocks the thread, which only a disk slower than the whole load brings about.
    pub fn record(&self, entry: Entry) -> Result<(), HistoryError> {
        match self.sender.try_send(Message::Entry(Box::new(entry))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(message)) => self.sender.send(message).map_err(|_| HistoryError::Stopped),
            Err(TrySendError::Disconnected(_)) => Err(HistoryError::Stopped),
        }
    }

    /// Returns once all entries recorded before are with the operating system.
    pub fn flush(&self) -> Result<(), HistoryError> {
        let (done, wait) = sync_channel(1);
        self.sender.send(Message::Flush(done)).map_err(|_| HistoryError::Stopped)?;
        wait.recv().map_err(|_| HistoryError::Stopped)
    }
}

fn run(mut file: BufWriter<File>, receiver: &Receiver<Message>) -> io::Result<()> {
    while let Ok(message) = receiver.recv() {
        match message {
            Message::Entry(entry) => {
                serde_json::to_writer(&mut file, &entry)?;
                file.write_all(b"\n")?;
            }
            Message::Flush(done) => {
                file.flush()?;
                // Nobody waits any more if this fails, which is nothing to report.
                let _ = done.send(());
            }
        }
    }
    file.flush()
}

/// Reads a history file round by round, holding one round in memory at a time.
#[derive(Debug)]
pub struct Reader {
    lines: BufReader<File>,
    line: u64,
    rounds: RoundBuilder,
}

impl Reader {
    /// Opens a history file.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let lines = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        Ok(Self { lines, line: 0, rounds: RoundBuilder::default() })
    }

    /// The next entry, or nothing at the end of the file.
    ///
    /// A last line without its end is what a run leaves behind that was killed; it counts as the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, HistoryError> {
        loop {
            let mut text = Vec::new();
            io::Read::take(&mut self.lines, LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                return Ok(None);
            }
            self.line += 1;
            if text.trim_ascii().is_empty() {
                continue;
            }
            let line = self.line;
            return serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| HistoryError::Line { line, source });
        }
    }

    /// The next whole round, or nothing once there is none. A round that was never finished is left out.
    pub fn next_round(&mut self) -> Result<Option<Round>, HistoryError> {
        while let Some(entry) = self.next_entry()? {
            if let Some(round) = self.rounds.add(entry) {
                return Ok(Some(round));
            }
        }
        Ok(None)
    }

    /// The rounds that were left out, once [`Self::next_round`] has come to the end.
    pub fn unfinished(&self) -> Vec<u32> {
        self.rounds.unfinished()
    }
}
