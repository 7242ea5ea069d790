//! The folder a server keeps everything in, used by one process at a time.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::files;
use crate::process::eventually;

/// How long to wait for a former user of the folder that is just about to end.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Where folders go that the server's user could not reach at their own place.
const FALLBACK_PREFIX: &str = "/var/tmp/flash-coupons-";

/// A folder held under a lock, which the system releases when this process ends, however it ends.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held open for its lock; never read or written.
    _lock: File,
}

impl Folder {
    /// Creates the folder when needed and takes its lock.
    pub(super) async fn open(path: &Path) -> Result<Self, Error> {
        create(path)?;
        let path = path.canonicalize().map_err(io_error(format!("resolve {}", path.display())))?;
        let lock = lock(&path.join("lock"), LOCK_WAIT).await?.ok_or_else(|| Error::InUse(path.clone()))?;
        let folder = Self { path, _lock: lock };
        folder.close(None)?;
        Ok(folder)
    }

    /// Closes the folder to everybody but us and, for passing through, the user that the server runs as: it holds
    /// users' claims and passwords.
    pub(super) fn close(&self, account: Option<&Account>) -> Result<(), Error> {
        let doing = || io_error(format!("close {} to others", self.path.display()));
        let mode = if account.is_some() { 0o710 } else { 0o700 };
        if let Some(account) = account {
            std::os::unix::fs::lchown(&self.path, None, Some(account.gid())).map_err(doing())?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).map_err(doing())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything but the lock file.
    pub(super) fn empty(&self) -> Result<(), Error> {
        let doing = || io_error(format!("empty {}", self.path.display()));
        for entry in fs::read_dir(&self.path).map_err(doing())? {
            let entry = entry.map_err(doing())?;
            if entry.file_name() == "lock" {
                continue;
            }
            let is_folder = entry.file_type().map_err(doing())?.is_dir();
            let remove = if is_folder { fs::remove_dir_all } else { fs::remove_file::<PathBuf> };
            remove(entry.path()).map_err(doing())?;
        }
        Ok(())
    }
}

/// Takes an exclusive lock on a file; none when someone else holds it for the whole of `limit`.
pub(super) async fn lock(path: &Path, limit: Duration) -> Result<Option<File>, Error> {
    let doing = || io_error(format!("lock {}", path.display()));
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(doing())?;
    let mut failure = None;
    let locked = eventually(limit, || match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => {
            failure = Some(error);
            true
        }
    })
    .await;
    match failure {
        Some(error) => Err(doing()(error)),
        None => Ok(locked.then_some(file)),
    }
}

/// Creates a folder and the missing ones above it. Those that root makes let others pass, whatever the umask
/// says: a server that runs as another user has to.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    let doing = || io_error(format!("create the folder {}", path.display()));
    let missing: Vec<&Path> = path.ancestors().take_while(|place| !place.exists()).collect();
    fs::create_dir_all(path).map_err(doing())?;
    if geteuid().is_root() {
        for place in missing.into_iter().filter(|place| !place.as_os_str().is_empty()) {
            fs::set_permissions(place, Permissions::from_mode(0o755)).map_err(doing())?;
        }
    }
    Ok(())
}

/// The place for `wanted` that `account` can reach: `wanted` itself, or one under `/var/tmp` that depends
/// on its path only, so that the next start finds it again.
pub(super) fn reachable(wanted: &Path, account: &Account) -> Result<PathBuf, Error> {
    create(wanted)?;
    let wanted = wanted.canonicalize().map_err(io_error(format!("resolve {}", wanted.display())))?;
    if account.reaches(&wanted) {
        return Ok(wanted);
    }
    let place = PathBuf::from(format!("{FALLBACK_PREFIX}{}", short_hash(&wanted)));
    create(&place)?;
    // Anybody may create entries in /var/tmp: one that is not ours could be swapped under our hands.
    let metadata = fs::symlink_metadata(&place).map_err(io_error(format!("read {}", place.display())))?;
    if !metadata.is_dir() || metadata.uid() != 0 || !account.reaches(&place) {
        let reason =
            format!("must be a folder that belongs to root and that user {} can pass", account.uid());
        return Err(Error::Folder { folder: place, reason });
    }
    Ok(place)
}

/// A short name for a path.
pub(super) fn short_hash(path: &Path) -> String {
    files::sha256(path.as_os_str().as_encoded_bytes())[..12].to_owned()
}
