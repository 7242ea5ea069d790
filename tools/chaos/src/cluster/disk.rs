//! Small file systems under the servers, so that they can be filled without harm to anything else.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Room for Postgres: its first files, the write-ahead log, and some thousand rounds' rows.
const POSTGRES_MIB: u32 = 1_024;

/// Room for nats-server.
const NATS_MIB: u32 = 256;

/// What a filled disk is filled with, piece by piece.
const PIECE_BYTES: usize = 1 << 20;

/// The small disks of both servers.
#[derive(Debug)]
pub struct Disks {
    /// Under Postgres.
    pub postgres: Disk,
    /// Under nats-server.
    pub nats: Disk,
}

impl Disks {
    /// Mounts both. Needs the right to do so, and a system that has `tmpfs`.
    pub(super) fn mount(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            postgres: Disk::mount(&folder.join("postgres"), POSTGRES_MIB)?,
            nats: Disk::mount(&folder.join("nats"), NATS_MIB)?,
        })
    }
}

/// A mounted file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path, mib: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "tmpfs"]).arg(folder);
        let output = command.output().context("running mount")?;
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "a small disk cannot be mounted: {words}");
        Ok(Self { folder: folder.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Leaves no room.
    pub async fn fill(&self) -> anyhow::Result<()> {
        let path = self.filler();
        tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(path)?;
            let piece = vec![0; PIECE_BYTES];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .await?
    }

    /// Gives the room back.
    pub fn free(&self) -> io::Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it goes once the last process has closed its files there.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            tracing::warn!(folder = %self.folder.display(), "a small disk stays mounted");
        }
    }
}

/// Copies a folder with all that is in it.
pub async fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || copy(&from, &to)).await?.context("copying a folder")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
