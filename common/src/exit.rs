//! How a program ends when it fails: it says why, once.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use crate::escape::escaped;

/// The exit code of a program, after saying why it failed, if it did.
///
/// `main` itself would write a line for each cause, and a backtrace where `RUST_BACKTRACE` is set. This goes to standard
/// error whatever `RUST_LOG` shows, and nowhere if nobody reads it any more.
pub fn code<E: AsRef<dyn Error + Send + Sync>>(ended: Result<(), E>) -> ExitCode {
    let Err(error) = ended else { return ExitCode::SUCCESS };
    let _ = writeln!(std::io::stderr(), "Error: {}", escaped(&reason(error.as_ref())));
    ExitCode::FAILURE
}

/// An error and its causes, separated by colons. A cause that the text before it quotes is left out.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut reason = error.to_string();
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        let cause = cause.to_string();
        if !reason.contains(&cause) {
            reason = format!("{reason}: {cause}");
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        Layer { text, source: source.map(Box::new) }
    }

    #[test]
    fn a_reason_repeats_nothing() {
        let error = layer("broken pipe", None);
        let error = layer("cannot write: broken pipe", Some(error));
        let error = layer("no server", Some(error));
        assert_eq!(reason(&error), "no server: cannot write: broken pipe");
    }
}
