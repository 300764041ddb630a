//! The member's identity certificate and its enclave's root as files, for other programs on the machine. The key is none of them.

use std::path::{Path, PathBuf};

use coterie_control::bundle::{Opened, to_pem};

use crate::{disk::write_public, options::Options};

/// The identity certificate (PEM).
pub const IDENTITY: &str = "identity.pem";
/// The certificate of the enclave's root (PEM).
pub const ROOT: &str = "root.pem";

/// Both, of one bundle.
pub(crate) struct Certificates([(&'static str, String); 2]);

impl Certificates {
    pub(crate) fn of(opened: &Opened) -> Self {
        Self([
            (ROOT, to_pem(&opened.root_certificate)),
            (IDENTITY, to_pem(&opened.identity_certificate)),
        ])
    }

    /// Puts them beside the control socket, in the place of those of before. Where that fails, the member goes on without.
    pub(crate) fn show(&self, options: &Options) {
        for (name, text) in &self.0 {
            let path = place(options, name);
            if let Err(error) = write_public(&path, text.as_bytes()) {
                tracing::warn!(%error, path = %path.display(), "the certificate cannot be written for other programs");
            }
        }
    }
}

/// Takes them away: the daemon ends.
pub(crate) fn take_away(options: &Options) {
    for name in [IDENTITY, ROOT] {
        // Where they could not be written they are not there.
        let _none = std::fs::remove_file(place(options, name));
    }
}

fn place(options: &Options, name: &str) -> PathBuf {
    options.socket.parent().unwrap_or_else(|| Path::new("/")).join(name)
}
