//! Completions and manual pages, made from the command line's own description.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{arguments::Cli, output};

/// Prints completions for a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coterie", &mut script);
    output::print(&String::from_utf8(script)?)
}

/// Writes a manual page for each command.
pub(crate) fn pages(directory: &Path) -> anyhow::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory).with_context(|| {
        format!(
            "cannot write manual pages to {}; it must be a directory of yours",
            directory.display()
        )
    })
}
