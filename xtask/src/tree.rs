//! The files of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The repository and what is in it.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<String>,
}

impl Tree {
    /// Finds the root and lists every file that git keeps or would keep.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the repository")?
            .to_owned();
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .context("cannot run git, which lists the files to look at; install git")?;
        if !listed.status.success() {
            bail!(
                "git lists no files in {}: {}; these checks need a clone",
                root.display(),
                String::from_utf8_lossy(&listed.stderr).trim()
            );
        }
        let mut files: Vec<String> = String::from_utf8(listed.stdout)
            .context("a file's name is not UTF-8")?
            .split('\0')
            .filter(|name| !name.is_empty() && root.join(name).is_file())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        Ok(Self { root, files })
    }

    /// Where it lies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Names of all files, relative to the root.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Names of the files that end in `.extension`.
    pub(crate) fn with_extension(&self, extension: &str) -> impl Iterator<Item = &str> {
        self.files()
            .filter(move |name| Path::new(name).extension().is_some_and(|e| e == extension))
    }

    /// True when a file or a directory of this name belongs to the repository.
    pub(crate) fn has(&self, name: &str) -> bool {
        let name = name.trim_end_matches('/');
        self.files()
            .any(|file| file == name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
    }

    /// A file's text; `None` when it is not text.
    pub(crate) fn text(&self, name: &str) -> anyhow::Result<Option<String>> {
        let bytes = std::fs::read(self.root.join(name)).with_context(|| format!("cannot read {name}"))?;
        Ok(String::from_utf8(bytes).ok())
    }
}
