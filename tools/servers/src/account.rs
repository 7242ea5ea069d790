//! The user a server runs as when we are root: Postgres refuses to be root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use nix::unistd::{Uid, User, geteuid};
use walkdir::WalkDir;

use crate::error::{Error, io_error};

/// Users to run as, best first: one made for the purpose, then the one everybody has.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// A user without privileges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user to run as: none when we are an ordinary user ourselves; the owner of `data` when it exists
    /// already and has an ordinary owner; otherwise a well-known one.
    pub(super) fn for_data(data: &Path) -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(metadata) = fs::metadata(data)
            && metadata.uid() != 0
        {
            return Ok(Some(Self { uid: metadata.uid(), gid: metadata.gid() }));
        }
        let known = NAMES.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = known.filter(|user| user.uid != Uid::from_raw(0)).ok_or_else(|| Error::Io {
            doing: "run Postgres as root".to_owned(),
            source: std::io::Error::other("it refuses, and there is neither a user 'postgres' nor 'nobody'"),
        })?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    /// True when the user may pass through `path` and every folder above it.
    pub(super) fn reaches(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        path.ancestors().all(|place| {
            fs::metadata(place).is_ok_and(|metadata| {
                let shift = match () {
                    () if metadata.uid() == self.uid => 6,
                    () if metadata.gid() == self.gid => 3,
                    () => 0,
                };
                (metadata.permissions().mode() >> shift) & 0o1 == 0o1
            })
        })
    }

    /// Gives `path` and all that is in it to the user.
    pub(super) fn take_over(&self, path: &Path) -> Result<(), Error> {
        // Never through a symbolic link: the user could have put one there that points elsewhere.
        let mut entries = WalkDir::new(path).contents_first(true).into_iter();
        entries
            .try_for_each(|entry| lchown(entry?.path(), Some(self.uid), Some(self.gid)))
            .map_err(io_error(format!("give {} to user {}", path.display(), self.uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_above_keeps_a_stranger_out() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        let stranger = Account { uid: 64_321, gid: 64_321 };
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.reaches(&inner));
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.reaches(&inner));
    }
}
