//! The programs under test.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use servers::programs;

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) api: PathBuf,
    pub(crate) worker: PathBuf,
}

impl Binaries {
    /// Takes both from a folder; without one, builds them as this program was built.
    pub(crate) fn find(folder: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => {
                eprintln!("building the API and the worker");
                // Together with this program, so that shared dependencies are built once.
                programs::build(&["chaos", "api", "worker"])?;
                programs::folder()?
            }
        };
        // The processes run in folders of their own.
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let find = |name| programs::find(&folder, name);
        Ok(Self { api: find("coupon-api")?, worker: find("coupon-worker")? })
    }
}
