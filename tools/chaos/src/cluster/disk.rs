//! Small file systems under the servers, so that they can be filled without harm to anything else.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::schedule::Server;

/// Room for Postgres: its first files, the write-ahead log, and the rows of some thousand rounds.
const POSTGRES_MIB: u32 = 1_024;

/// Room for nats-server.
const NATS_MIB: u32 = 256;

/// Bytes of one write while a disk is filled.
const WRITE_BYTES: usize = 1 << 20;

/// The small disks of both servers.
#[derive(Debug)]
pub(super) struct Disks {
    postgres: Disk,
    nats: Disk,
}

impl Disks {
    /// Mounts both. Needs the right to do so, and a system that has `tmpfs`.
    pub(super) fn mount(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            postgres: Disk::mount(&folder.join("postgres"), POSTGRES_MIB)?,
            nats: Disk::mount(&folder.join("nats"), NATS_MIB)?,
        })
    }

    pub(super) fn of(&self, server: Server) -> &Disk {
        match server {
            Server::Nats => &self.nats,
            Server::Postgres => &self.postgres,
        }
    }
}

/// A mounted file system in memory; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path, mib: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "tmpfs"]).arg(folder);
        let output = command.output().context("running mount")?;
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "a small disk cannot be mounted: {message}");
        Ok(Self { folder: folder.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Fills the disk.
    pub(crate) async fn fill(&self) -> anyhow::Result<()> {
        let path = self.filler();
        tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(path)?;
            let zeros = vec![0; WRITE_BYTES];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .await?
    }

    /// Frees the room again.
    pub(crate) fn free(&self) -> io::Result<()> {
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
