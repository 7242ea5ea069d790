//! The programs under test.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use servers::programs;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `coupon-api`.
    pub api: PathBuf,
    /// `coupon-worker`.
    pub worker: PathBuf,
}

impl Binaries {
    /// Builds both as this program was built, and finds them beside it.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build() -> anyhow::Result<Self> {
        // Together with this program, so that all that they share is built once, and is there already.
        programs::build(&["chaos", "api", "worker"])?;
        Self::in_folder(&programs::folder()?)
    }

    /// Takes both from a folder.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        // The processes run in folders of their own.
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let find = |name| programs::find(&folder, name);
        Ok(Self { api: find("coupon-api")?, worker: find("coupon-worker")? })
    }
}
