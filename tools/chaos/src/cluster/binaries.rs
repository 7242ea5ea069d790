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

/// Which of two versions of a program a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Old,
    New,
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// The programs under test, and those of an older version if the two are to be mixed.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    pub(crate) new: Binaries,
    pub(crate) old: Option<Binaries>,
}

impl From<Binaries> for Versions {
    fn from(new: Binaries) -> Self {
        Self { new, old: None }
    }
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
