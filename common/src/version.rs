//! What a program's `--version` names.

/// The version and, in brackets, the commit: `0.1.0 (abc1234)`, or `0.1.0 (unknown)`. See `build.rs`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("COMMIT"), ")");
