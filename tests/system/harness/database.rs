//! Databases: one per test, on a Postgres that all tests of this process share or on one of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use servers::stack;
use servers::{Error, Postgres, postgres};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// How many processes may run these tests at the same time from one target folder.
const RUNS_MAX: usize = 8;

static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// A database and a pool for the test's own questions.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) pool: PgPool,
    /// Where it can be dropped from, and its name; none on a Postgres that goes with the test.
    shared: Option<(String, String)>,
}

impl Database {
    /// A new one on the Postgres that all tests share.
    pub(crate) async fn shared() -> Self {
        let postgres = SHARED.get_or_init(start_shared).await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        let url = postgres.create_database(&name).await.unwrap();
        Self { pool: pool(&url), url, shared: Some((postgres.url("postgres"), name)) }
    }

    /// One on a Postgres of the test's own.
    pub(crate) async fn create(postgres: &Postgres) -> Self {
        let url = postgres.create_database(stack::DATABASE).await.unwrap();
        Self { pool: pool(&url), url, shared: None }
    }

    /// An address of the same database from which every answer takes `delay` longer. It ends with the process.
    pub(crate) async fn far_away(&self, delay: Duration) -> String {
        let options = PgConnectOptions::from_str(&self.url).unwrap();
        let target = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(async move {
                    let (mut client, mut server) = (client, server);
                    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                        (client.split(), server.split());
                    let there = tokio::io::copy(&mut from_client, &mut to_server);
                    let back = async {
                        let mut bytes = [0; 4096];
                        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                            tokio::time::sleep(delay).await;
                            if to_client.write_all(&bytes[..count]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = there => {}
                        () = back => {}
                    }
                });
            }
        });
        self.url.replace(&format!("{}:{}", options.get_host(), options.get_port()), &here.to_string())
    }

    pub(crate) async fn drop(self) {
        self.pool.close().await;
        if let Some((url, name)) = self.shared {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let statement = AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        }
    }
}

fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(4).connect_lazy(url).unwrap()
}

fn options(folder: &Path) -> postgres::Options {
    let mut options = stack::postgres_options(folder);
    options.fsync = false;
    options.settings.push(("max_connections".to_owned(), "800".to_owned()));
    options.settings.push(("shared_buffers".to_owned(), "128MB".to_owned()));
    options
}

/// Starts a Postgres that lives as long as its value.
pub(crate) async fn own_postgres(folder: &Path) -> Postgres {
    Postgres::start(options(folder)).await.unwrap()
}

/// The shared one lives as long as this process. Its folder does not move, so that the next run
/// clears what this one leaves; a run that is under way meanwhile has the next folder.
async fn start_shared() -> Postgres {
    for number in 0..RUNS_MAX {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("system-{number}"));
        let options = options(&folder);
        let started = match Postgres::remove(&options.data_dir).await {
            Ok(()) => Postgres::start(options).await,
            Err(error) => Err(error),
        };
        match started {
            Err(Error::InUse(_)) => {}
            started => return started.unwrap(),
        }
    }
    panic!("{RUNS_MAX} runs of these tests are under way");
}
