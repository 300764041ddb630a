//! What goes to standard output, and in which colours.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

/// How a read is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: fields are added, never renamed.
    Json,
}

/// Prints text and a line break.
///
/// # Errors
/// When standard output takes it no more; a broken pipe ends the program quietly ([`crate::exit::report`]).
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(newline.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Prints a value as JSON.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Colours, where they are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            on: std::io::stdout().is_terminal() && is_wanted(),
        }
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            on: std::io::stderr().is_terminal() && is_wanted(),
        }
    }

    /// None.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self { on: false }
    }

    /// Whether there are colours.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// NO_COLOR (any value that is not empty) and a terminal that can nothing are respected.
fn is_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !no_color && !dumb
}

/// `1 member`, `2 members`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o'])) {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes with a decimal unit: `999 B`, `1.2 kB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let (mut whole, mut rest, mut unit) = (number / 1000, number % 1000, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1000, whole % 1000, unit + 1);
    }
    format!("{whole}.{} {}", rest / 100, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_250), "1.2 kB");
        assert_eq!(bytes(1_999_999), "1.9 MB");
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(count(1, "community"), "1 community");
        assert_eq!(count(2, "community"), "2 communities");
        assert_eq!(count(0, "member"), "0 members");
        assert_eq!(count(0, "key"), "0 keys");
        assert_eq!(hex(&[0, 255]), "00ff");
    }

    #[test]
    fn without_colours_text_stays_as_it_is() {
        let paint = Paint { on: false };
        assert_eq!(paint.red("x"), "x");
        assert_eq!(Paint { on: true }.red("x"), "\x1b[1;31mx\x1b[0m");
    }
}
