//! Work on whole folders. Symbolic links are never followed out of them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

/// Lets everybody read a tree and pass through it; files that someone may execute, everybody may.
pub(super) fn make_readable(tree: &Path) -> io::Result<()> {
    for entry in WalkDir::new(tree) {
        let entry = entry?;
        if !entry.path_is_symlink() {
            let is_open = entry.file_type().is_dir() || entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if is_open { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Copies a tree; a link to a file becomes a file.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from).map_err(io::Error::other)?);
        if entry.file_type().is_dir() {
            fs::create_dir(target)?;
        } else if entry.path().is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Returns when a tree is on the disk.
pub(super) fn sync(tree: &Path) -> io::Result<()> {
    for entry in WalkDir::new(tree).contents_first(true) {
        let entry = entry?;
        if entry.path_is_symlink() {
            continue;
        }
        match fs::File::open(entry.path())?.sync_all() {
            // Some file systems cannot do it for folders.
            Err(error) if entry.file_type().is_dir() && error.kind() == io::ErrorKind::InvalidInput => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_opened_copied_and_synced_without_following_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, copied) = (folder.path().join("tree"), folder.path().join("copied"));
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/postgres"), "").unwrap();
        fs::set_permissions(tree.join("bin/postgres"), Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("postgres", tree.join("bin/postmaster")).unwrap();
        std::os::unix::fs::symlink("nowhere", tree.join("bin/other")).unwrap();
        make_readable(&tree).unwrap();
        sync(&tree).unwrap();
        copy(&tree, &copied).unwrap();
        let mode = |name: &str| fs::symlink_metadata(copied.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/postgres"), mode("bin/postmaster")), (0o755, 0o755));
        assert!(!copied.join("bin/other").exists());
    }
}
