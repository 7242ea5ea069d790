//! Configuration from the environment, read once at the start.
//!
//! A value that cannot be used stops the process with one line that names its variable.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::partition::PARTITIONS_MAX;

/// The end of a program's `--help`: programs take no arguments, but read variables.
pub const HELP: &str = "Settings are environment variables, or lines of the file `.env` in the working directory. \
                        docs/configuration.md lists them.";

/// A variable whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {reason}")]
pub struct ConfigError {
    variable: String,
    reason: String,
}

impl ConfigError {
    /// The `variable` is unusable because of `reason`.
    pub fn new(variable: &str, reason: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), reason: reason.into() }
    }
}

/// The variables that a process was started with. An empty value counts as not set.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: HashMap<String, String>,
}

impl Env {
    /// The process's environment, and below it the `.env` file of the working directory, if there
    /// is one: the file never overrides the environment.
    ///
    /// # Errors
    /// When `.env` exists but cannot be read.
    pub fn load() -> Result<Self, ConfigError> {
        match dotenvy::from_path(".env") {
            Ok(_) => {}
            Err(error) if error.not_found() => {}
            // The line may hold a password, so it is not repeated.
            Err(dotenvy::Error::LineParse(line, at)) => {
                return Err(ConfigError::new(".env", unreadable(&line, at)));
            }
            Err(error) => return Err(ConfigError::new(".env", error.to_string())),
        }
        // A value that is not UTF-8 is kept, so that the reader of the variable refuses it.
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        Ok(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    /// The value of a variable, if it is set.
    pub fn get(&self, variable: &str) -> Option<&str> {
        self.variables.get(variable).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a variable, for a part of the system that runs in this process.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.insert(variable.to_owned(), value.to_owned());
    }

    /// The value of a variable as a `T` within `range`, or `default` if it is not set.
    ///
    /// # Errors
    /// When the value is no `T`, or out of range.
    pub fn number<T>(&self, variable: &str, default: T, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(variable) else { return Ok(default) };
        text.trim().parse().ok().filter(|value| range.contains(value)).ok_or_else(|| {
            let (least, most) = range.into_inner();
            ConfigError::new(variable, format!("must be a whole number from {least} to {most}, not {text:?}"))
        })
    }

    /// The value of a variable as an address of this machine, or `default` if it is not set.
    ///
    /// # Errors
    /// When the value is no IP address.
    pub fn address(&self, variable: &str, default: IpAddr) -> Result<IpAddr, ConfigError> {
        let Some(text) = self.get(variable) else { return Ok(default) };
        text.parse().map_err(|_| ConfigError::new(variable, format!("must be an IP address, not {text:?}")))
    }

    /// A number of milliseconds within `range`, or `default_ms` if it is not set.
    ///
    /// # Errors
    /// When the value is no such number.
    pub fn millis(
        &self,
        variable: &str,
        default_ms: u64,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.number(variable, default_ms, range).map(Duration::from_millis)
    }

    /// `PARTITIONS`: how many partitions the very first start creates; later only checked.
    ///
    /// # Errors
    /// When it is not between 1 and [`PARTITIONS_MAX`].
    pub fn partitions(&self) -> Result<Option<u32>, ConfigError> {
        self.get("PARTITIONS").map(|_| self.number("PARTITIONS", 1, 1..=PARTITIONS_MAX)).transpose()
    }
}

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect() }
    }
}

/// Where Postgres is and who we are there.
///
/// `DATABASE_URL` (URL or keyword form) takes precedence over `DB_PG_HOST`, `DB_PG_PORT`,
/// `DB_PG_DATABASE`, `DB_PG_USERNAME` and `DB_PG_PASSWORD`.
///
/// # Errors
/// When a variable cannot be used, or `DB_DEFAULT` names another database than `postgresql`.
pub fn database(env: &Env) -> Result<PgConnectOptions, ConfigError> {
    match env.get("DB_DEFAULT") {
        None | Some("postgresql") => {}
        Some(other) => {
            return Err(ConfigError::new("DB_DEFAULT", format!("must be \"postgresql\", not {other:?}")));
        }
    }
    if let Some(url) = env.get("DATABASE_URL") {
        return parse_database_url(url).map_err(|reason| ConfigError::new("DATABASE_URL", reason));
    }
    let options = PgConnectOptions::new_without_pgpass()
        .host(env.get("DB_PG_HOST").unwrap_or("localhost"))
        .port(env.number("DB_PG_PORT", 5432, 1..=u16::MAX)?)
        .database(env.get("DB_PG_DATABASE").unwrap_or("coupon_db"))
        .username(env.get("DB_PG_USERNAME").unwrap_or("postgres"));
    Ok(match env.get("DB_PG_PASSWORD") {
        Some(password) => options.password(password),
        None => options,
    })
}

fn parse_database_url(url: &str) -> Result<PgConnectOptions, String> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        // The URL may hold a password, so it is not repeated in the message.
        return PgConnectOptions::from_str(url).map_err(|error| format!("not a Postgres URL: {error}"));
    }
    let mut options = PgConnectOptions::new_without_pgpass().host("localhost").username("postgres");
    for (key, value) in parse_keywords(url)? {
        options = match key.as_str() {
            "host" | "hostaddr" => options.host(&value),
            "port" => options.port(value.parse().map_err(|_| format!("port is no port number: {value:?}"))?),
            "user" => options.username(&value),
            "password" => options.password(&value),
            "dbname" => options.database(&value),
            "sslmode" => options
                .ssl_mode(PgSslMode::from_str(&value).map_err(|_| format!("unknown sslmode {value:?}"))?),
            "sslrootcert" => options.ssl_root_cert(value),
            "application_name" => options.application_name(&value),
            "options" => options.options(parse_settings(&value)?),
            "connect_timeout" | "TimeZone" | "timezone" => options,
            // It may be a part of a password.
            _ => return Err("an unknown keyword, or a value with a space that is not in quotes".to_owned()),
        };
    }
    Ok(options)
}

/// Says which line of `.env` cannot be read, without quoting it.
fn unreadable(line: &str, at: usize) -> String {
    let text = std::fs::read_to_string(".env").unwrap_or_default();
    match text.lines().position(|other| other.trim() == line.trim()) {
        Some(before) => format!("line {} is no VARIABLE=value, from character {at} on", before + 1),
        None => "a line is no VARIABLE=value".to_owned(),
    }
}

/// Reads the settings of a session, written `-c name=value`.
fn parse_settings(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = text.split_whitespace().map(|word| word.strip_prefix("-c").unwrap_or(word));
    let words = words.map(|word| word.strip_prefix("--").unwrap_or(word)).filter(|word| !word.is_empty());
    let settings =
        words.map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    settings.collect::<Option<_>>().ok_or_else(|| "options are written -c name=value".to_owned())
}

/// Reads `key=value` pairs as libpq does: separated by white space, values with spaces in single
/// quotes, `\` before a quote or a backslash.
fn parse_keywords(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=') {
            key.push(c);
        }
        if chars.next().is_none() {
            return Err("neither a postgres:// URL nor key=value pairs".to_owned());
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err("a quote is not closed".to_owned()),
                None => break,
            }
        }
        pairs.push((key.trim().to_owned(), value));
    }
}

/// Where NATS is, and who we are there.
#[derive(Debug, Clone)]
pub struct Nats {
    /// One address, or several of one cluster, separated by commas; may carry credentials.
    pub url: String,
    /// `NATS_USER` and `NATS_PASSWORD`, or what the URL carries.
    pub credentials: Option<(String, String)>,
}

impl Nats {
    /// Default of `NATS_URL`.
    pub const URL_DEFAULT: &'static str = "nats://localhost:4222";

    /// Reads `NATS_URL`, `NATS_USER` and `NATS_PASSWORD`.
    ///
    /// # Errors
    /// When a variable cannot be used.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let url = env.get("NATS_URL").unwrap_or(Self::URL_DEFAULT);
        let mut in_url = None;
        for address in url.split(',') {
            let address: async_nats::ServerAddr = address
                .trim()
                .parse()
                .map_err(|error| ConfigError::new("NATS_URL", format!("not a NATS address: {error}")))?;
            in_url = in_url.or(address.username().zip(address.password()).map(|(user, password)| {
                let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
                (plain(user), plain(password))
            }));
        }
        let credentials = match (env.get("NATS_USER"), env.get("NATS_PASSWORD")) {
            (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
            (None, None) => in_url,
            (Some(_), None) => {
                return Err(ConfigError::new("NATS_PASSWORD", "must be set when NATS_USER is"));
            }
            (None, Some(_)) => {
                return Err(ConfigError::new("NATS_USER", "must be set when NATS_PASSWORD is"));
            }
        };
        Ok(Self { url: url.to_owned(), credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Env {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn database_url_takes_precedence_in_both_forms() {
        for url in [
            "postgres://me:secret@db:5433/shop?sslmode=disable",
            "host=db user=me password=secret dbname=shop port=5433 sslmode=disable",
            "host = db user='me' password='secret' dbname=shop port=5433 sslmode=disable TimeZone=UTC",
        ] {
            let options = database(&env(&[("DATABASE_URL", url), ("DB_PG_HOST", "elsewhere")])).unwrap();
            assert_eq!(
                (options.get_host(), options.get_port(), options.get_username(), options.get_database()),
                ("db", 5433, "me", Some("shop")),
                "{url}"
            );
        }
    }

    #[test]
    fn database_has_defaults() {
        let options = database(&env(&[("DATABASE_URL", "")])).unwrap();
        assert_eq!(
            (options.get_host(), options.get_port(), options.get_username(), options.get_database()),
            ("localhost", 5432, "postgres", Some("coupon_db"))
        );
    }

    #[test]
    fn keywords_are_read_as_libpq_does() {
        let pairs = parse_keywords(r"a=1  b = 'x y' c='it\'s' d=\\ e=").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y"), ("c", "it's"), ("d", "\\"), ("e", "")]);
        assert!(parse_keywords("nonsense").is_err());
        assert!(parse_keywords("a='x").is_err());
    }

    #[test]
    fn a_wrong_value_names_its_variable() {
        for (variables, start) in [
            (vec![("DB_DEFAULT", "mysql")], "DB_DEFAULT: "),
            (vec![("DB_PG_PORT", "70000")], "DB_PG_PORT: "),
            (vec![("DATABASE_URL", "mysql://x")], "DATABASE_URL: "),
            (vec![("DATABASE_URL", "host=x port=y")], "DATABASE_URL: "),
        ] {
            let message = database(&env(&variables)).unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        }
        let message = env(&[("PARTITIONS", "257")]).partitions().unwrap_err().to_string();
        assert_eq!(message, "PARTITIONS: must be a whole number from 1 to 256, not \"257\"");
        for variables in [[("NATS_USER", "a")], [("NATS_PASSWORD", "a")], [("NATS_URL", "nats://[")]] {
            assert!(Nats::from_env(&env(&variables)).is_err(), "{variables:?}");
        }
        let nats = |url| Nats::from_env(&env(&[("NATS_URL", url)])).unwrap().credentials;
        assert_eq!(nats("nats://a:b%40c@one,nats://two"), Some(("a".to_owned(), "b@c".to_owned())));
        assert_eq!(nats("nats://one:4222"), None);
        assert!(env(&[("PARTITIONS", "0")]).partitions().is_err());
        assert_eq!(env(&[("PARTITIONS", "3")]).partitions().unwrap(), Some(3));
        assert_eq!(env(&[]).partitions().unwrap(), None);
    }
}
