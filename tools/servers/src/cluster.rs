//! A Postgres data folder: made once, kept with its password, and freed of whatever a former run left behind.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt as _;
use rand::distr::Alphanumeric;

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::folder::{self, Folder};
use crate::locate::{Binary, Search};
use crate::process::{Program, eventually};
use crate::{install, tree};

/// The database superuser.
pub(super) const SUPERUSER: &str = "postgres";

/// Characters in a generated password.
const PASSWORD_LENGTH: usize = 32;

/// How long making a data folder may take.
const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// How long a server that a former run left behind may take for each kind of shutdown.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);

/// A data folder with its binaries, its user and its password, locked for this process.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: Folder,
    binary: Binary,
    account: Option<Account>,
    password: String,
}

impl Cluster {
    /// Opens the folder, making a new cluster when there is none. With `sync` the new files are on disk
    /// when this returns.
    pub(super) async fn open(search: &Search, wanted: &Path, sync: bool) -> Result<Self, Error> {
        let (folder, account) = open_folder(wanted).await?;
        let data = folder.path().join("data");
        let binary = search.postgres(major_of(&data)).await?;
        let binary = match &account {
            Some(account) => install::reachable(binary, account)?,
            None => binary,
        };
        let password_file = folder.path().join("password");
        let password = password(&password_file, account.as_ref())
            .map_err(io_error(format!("keep a password in {}", password_file.display())))?;
        let cluster = Self { folder, binary, account, password };
        if !data.exists() {
            cluster.init(&password_file, sync).await?;
        } else if let Some(account) = &cluster.account {
            account.take_over(&data)?;
        }
        Ok(cluster)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn binary(&self) -> &Binary {
        &self.binary
    }

    /// One of Postgres's programs, set up to run as the cluster's user.
    pub(super) fn program(&self, path: impl Into<PathBuf>, log: &str) -> Program {
        // The root folder, because ours may be closed to that user. Messages stay untranslated.
        let program = Program::new(path, self.folder.path().join(log)).clean_env().folder("/");
        program.env("LC_ALL", "C").account(self.account.as_ref())
    }

    /// Makes the data folder under another name first: only a complete one gets its own.
    async fn init(&self, password_file: &Path, sync: bool) -> Result<(), Error> {
        let unfinished = self.folder.path().join("data.new");
        let doing = || io_error(format!("prepare {}", unfinished.display()));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(doing())?;
        }
        fs::create_dir(&unfinished).map_err(doing())?;
        if let Some(account) = &self.account {
            account.take_over(&unfinished)?;
        }
        tracing::info!(folder = %self.folder.path().display(), "creating a Postgres data folder");
        let initdb = self
            .program(self.binary.path.with_file_name("initdb"), "initdb.log")
            .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", SUPERUSER])
            .arg("--pwfile")
            .arg(password_file)
            .args((!sync).then_some("--no-sync"))
            .arg("--pgdata")
            .arg(&unfinished);
        initdb.run(INITDB_LIMIT).await?;
        fs::rename(&unfinished, self.data()).map_err(doing())
    }

    /// Stops a postmaster of a former run, and backends that outlived theirs: they hold the shared memory
    /// that the next one needs. The folder's lock tells that none of them has a living owner.
    pub(super) async fn clear(&self) -> Result<(), Error> {
        clear(&self.data()).await
    }
}

/// Stops all servers on a data folder, to be called by whoever holds the lock of the folder around it.
async fn clear(data: &Path) -> Result<(), Error> {
    if let Some(postmaster) = postmaster_of(data) {
        tracing::warn!(pid = postmaster, "stopping a Postgres that a former run left behind");
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            tree::send(postmaster, signal);
            tree::send(postmaster, Signal::SIGCONT);
            if eventually(LEFTOVER_LIMIT, || !tree::is_alive(postmaster)).await {
                break;
            }
        }
    }
    let gone = eventually(LEFTOVER_LIMIT, || {
        let orphans = tree::working_in(data);
        let alive: Vec<u32> = orphans.into_iter().filter(|&pid| is_postgres(pid)).collect();
        for &pid in &alive {
            tree::send(pid, Signal::SIGKILL);
        }
        alive.is_empty()
    });
    if gone.await {
        return Ok(());
    }
    let reason = "Postgres processes of a former run cannot be stopped".to_owned();
    Err(Error::Folder { folder: data.to_owned(), reason })
}

/// Removes everything a server kept in the folder, wherever it really is, so that the next start is the first.
pub(super) async fn remove(wanted: &Path) -> Result<(), Error> {
    let (folder, _) = open_folder(wanted).await?;
    clear(&folder.path().join("data")).await?;
    folder.empty()
}

/// Finds the folder that the server's user can reach, and locks it.
async fn open_folder(wanted: &Path) -> Result<(Folder, Option<Account>), Error> {
    let Some(account) = Account::for_data(&wanted.join("data"))? else {
        return Ok((Folder::open(wanted).await?, None));
    };
    let place = folder::reachable(wanted, &account)?;
    let folder = Folder::open(&place).await?;
    if !wanted.canonicalize().is_ok_and(|wanted| wanted == folder.path()) {
        tracing::warn!(
            wanted = %wanted.display(), used = %folder.path().display(),
            "Postgres does not run as root, and its user cannot reach the wanted folder: using another one"
        );
    }
    let account = Account::for_data(&folder.path().join("data"))?;
    folder.close(account.as_ref())?;
    Ok((folder, account))
}

/// The major version that made the data, if there is any.
fn major_of(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// The living postmaster that the data folder names, if it is one.
fn postmaster_of(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    // The number in a stale file may meanwhile belong to a stranger.
    (tree::working_in(data).contains(&pid) && is_postgres(pid)).then_some(pid)
}

/// Whether a process is a postmaster or a backend. What else works in the data folder, such as
/// `tail -f postgresql.conf`, is not ours to stop.
fn is_postgres(pid: u32) -> bool {
    tree::arguments(pid).first().is_some_and(|first| is_server(first))
}

/// A postmaster, and a backend that was forked just now, go by the program's path; every other backend by
/// `postgres: ` and what it does.
fn is_server(first_argument: &str) -> bool {
    first_argument.starts_with("postgres:")
        || Path::new(first_argument).file_name() == Some("postgres".as_ref())
}

/// Reads the password, or makes one: readable by us and by the server's user only.
fn password(path: &Path, account: Option<&Account>) -> io::Result<String> {
    let password = match fs::read_to_string(path) {
        Ok(password) if !password.trim().is_empty() => password.trim().to_owned(),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => make_password(path)?,
    };
    // Also one that was there: the run that made it may have been killed before it came to this.
    if let Some(account) = account {
        std::os::unix::fs::lchown(path, Some(account.uid()), Some(account.gid()))?;
    }
    Ok(password)
}

fn make_password(path: &Path) -> io::Result<String> {
    let mut rng = rand::rng();
    let password: String = (0..PASSWORD_LENGTH).map(|_| char::from(rng.sample(Alphanumeric))).collect();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{password}")?;
    file.sync_all()?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn servers_are_known_by_their_first_argument() {
        for server in
            ["/usr/lib/postgresql/18/bin/postgres", "/my folder/postgres", "postgres", "postgres: walwriter"]
        {
            assert!(is_server(server), "{server}");
        }
        for other in ["tail", "/usr/bin/postgres_exporter", "/home/postgres/bin/vi", "postgresql.conf", ""] {
            assert!(!is_server(other), "{other}");
        }
    }

    #[test]
    fn a_password_is_given_to_the_servers_user_whoever_made_it() {
        let folder = tempfile::tempdir().unwrap();
        // As root there is such a user; anybody else is the server's user.
        let account = Account::for_data(&folder.path().join("data")).unwrap();
        let path = folder.path().join("password");
        let made = password(&path, None).unwrap();
        assert_eq!(password(&path, account.as_ref()).unwrap(), made);
        let uid = account.map_or(nix::unistd::geteuid().as_raw(), |account| account.uid());
        assert_eq!(fs::metadata(&path).unwrap().uid(), uid);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_servers_are_stopped_in_a_data_folder() {
        use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
        use std::process::{Command, Stdio};

        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("postgresql.conf"), "").unwrap();
        let mut reader = Command::new("tail");
        reader.args(["-f", "postgresql.conf"]);
        let mut backend = Command::new("sleep");
        backend.arg0("postgres: checkpointer").arg("60");
        let [mut reader, mut backend] = [reader, backend].map(|mut command| {
            command.current_dir(data.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        });
        // Their command lines are empty until the new programs are set up, and `spawn` does not wait for that.
        let has_title = |pid| tree::arguments(pid).first().is_some_and(|first| !first.is_empty());
        let ids = [reader.id(), backend.id()];
        assert!(eventually(Duration::from_secs(10), || ids.into_iter().all(has_title)).await);
        clear(data.path()).await.unwrap();
        // This is what ends it, unless something has before.
        tree::send(reader.id(), Signal::SIGTERM);
        assert_eq!(reader.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(backend.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
}
