//! `coterie demo`.

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// Leave everything up afterwards, and print commands to try
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Use a user namespace even as root, as an ordinary user would
    #[arg(long)]
    user: bool,
}

pub(crate) fn run(_arguments: &DemoArguments) -> anyhow::Result<()> {
    Ok(())
}
