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

/// A server to look for.
struct Wanted {
    /// The environment variable that names it.
    variable: &'static str,
    program: &'static str,
    /// Programs that have to be beside it.
    companions: &'static [&'static str],
    /// The oldest version that will do.
    min: Version,
    /// What to fetch when there is none.
    package: fetch::Package,
}

const POSTGRES: Wanted = Wanted {
    variable: "POSTGRES_BIN_DIR",
    program: "postgres",
    companions: &["initdb"],
    min: Version { major: 15, minor: 0 },
    package: fetch::POSTGRES,
};

const NATS_SERVER: Wanted = Wanted {
    variable: "NATS_SERVER",
    program: "nats-server",
    companions: &[],
    min: Version { major: 2, minor: 12 },
    package: fetch::NATS_SERVER,
};

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

/// A server's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Binary {
    /// The folder with the program.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
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
            postgres_bin_dir: named(POSTGRES.variable),
            nats_server: named(NATS_SERVER.variable),
            folders,
            cache: fetch::cache(),
        }
    }

    /// Finds a Postgres that can open data of the major version `data_major`, if there are data: each opens only its
    /// own. Fetches one if need be.
    ///
    /// # Errors
    /// When the environment variable names something unusable, or nothing is found and fetching fails.
    pub async fn postgres(&self, data_major: Option<u32>) -> Result<Binary, Error> {
        let named = self.postgres_bin_dir.as_deref().map(|folder| (folder, folder.join(POSTGRES.program)));
        self.find(&POSTGRES, named, data_major).await
    }

    /// Finds nats-server, fetching it if need be.
    ///
    /// # Errors
    /// When the environment variable names something unusable, or nothing is found and fetching fails.
    pub async fn nats_server(&self) -> Result<Binary, Error> {
        let named = self.nats_server.as_deref().map(|program| (program, program.to_owned()));
        self.find(&NATS_SERVER, named, None).await
    }

    /// `named` is a variable's value, and the program that it names.
    async fn find(
        &self,
        wanted: &Wanted,
        named: Option<(&Path, PathBuf)>,
        major: Option<u32>,
    ) -> Result<Binary, Error> {
        let Wanted { variable, package, .. } = wanted;
        if let Some((value, program)) = named {
            let found = wanted.look(&program, major).await;
            return found.map_err(|reason| Error::Named { variable, path: value.to_owned(), reason });
        }
        let programs = self.folders.iter().map(|folder| folder.join(wanted.program));
        for program in programs.filter(|program| program.is_file()) {
            match wanted.look(&program, major).await {
                Ok(binary) => return Ok(binary),
                Err(reason) => {
                    tracing::debug!(program = %program.display(), reason, "passing over a program")
                }
            }
        }
        if major.is_some_and(|major| major != package.major()) {
            let reason =
                format!("wanted is {}; the one to fetch is {}", wanted.version(major), package.major());
            return Err(package.failure(reason));
        }
        let no_cache = || package.failure("there is no folder to keep it in (set HOME or XDG_CACHE_HOME)");
        let folder = package.programs(self.cache.as_deref().ok_or_else(no_cache)?).await?;
        let found = wanted.look(&folder.join(wanted.program), major).await;
        found.map_err(|reason| package.failure(reason))
    }
}

impl Wanted {
    fn version(&self, major: Option<u32>) -> String {
        match major {
            Some(major) => format!("version {major}, which made the data"),
            None => format!("version {} or newer", self.min),
        }
    }

    /// Tries a program; says why it will not do.
    async fn look(&self, program: &Path, major: Option<u32>) -> Result<Binary, String> {
        // It may be a link; Postgres finds its files relative to the real program.
        let is_whole =
            |real: &PathBuf| self.companions.iter().all(|name| real.with_file_name(name).is_file());
        let real = program.canonicalize().ok().filter(is_whole).unwrap_or_else(|| program.to_owned());
        let path = std::path::absolute(real).map_err(|error| error.to_string())?;
        for name in self.companions {
            version_of(&path.with_file_name(name)).await?;
        }
        let version = version_of(&path).await?;
        if version < self.min || major.is_some_and(|major| major != version.major) {
            return Err(format!("is {version}, wanted is {}", self.version(major)));
        }
        Ok(Binary { path, version })
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
        assert!(Version::parse("v2.9.25") < Some(NATS_SERVER.min));
        assert!(Version::parse("v2.12.0") >= Some(NATS_SERVER.min));
        assert!(Version::parse("14.22") < Some(POSTGRES.min));
        assert!(Version::parse("18.6") >= Some(POSTGRES.min));
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
