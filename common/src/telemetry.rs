//! Logs: structured, human by default, JSON by a variable.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Env};

/// Starts logging to standard error, as `LOG_FORMAT` (`human` or `json`) and `RUST_LOG` say.
///
/// # Errors
/// When one of the two cannot be used.
pub fn init(env: &Env) -> Result<(), ConfigError> {
    // By default, `info`. But sqlx at `info`, and the NATS client at any level, report what we log ourselves where it
    // is handled.
    let filter = env.get("RUST_LOG").unwrap_or("info,sqlx=warn,async_nats=off");
    let filter = EnvFilter::try_new(filter).map_err(|e| ConfigError::new("RUST_LOG", e.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match env.get("LOG_FORMAT") {
        None | Some("human") => builder.init(),
        Some("json") => builder.json().flatten_event(true).init(),
        Some(other) => {
            return Err(ConfigError::new(
                "LOG_FORMAT",
                format!("must be \"human\" or \"json\", not {other:?}"),
            ));
        }
    }
    Ok(())
}
