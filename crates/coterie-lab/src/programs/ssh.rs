//! OpenSSH, with keys that exist only for this server.
//!
//! sshd runs as the ordinary user and lets in that user alone: where the lab is a user namespace there is no other user
//! whom a privileged sshd could become.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::command::{Child, HostCommand, Identity, ORDINARY_NAME};
use crate::error::{LabError, Result};
use crate::host::Host;

/// An SSH server.
#[derive(Debug, Clone)]
pub struct SshServer {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl SshServer {
    /// Makes keys, starts sshd on every address of its host, and waits until it listens.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `sshd` or `ssh-keygen`; when the port is taken. Ports below 1024 are not allowed.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let directory = super::home(host).join(format!("ssh-{port}"));
        let sshd = super::find("sshd").ok_or_else(|| LabError::Missing {
            program: "sshd".to_owned(),
            package: super::package_of("sshd").to_owned(),
        })?;
        host.command("mkdir")
            .arg("-p")
            .arg(&directory)
            .identity(Identity::Ordinary)
            .run()?
            .check()?;
        for key in ["host", "user"] {
            host.command("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                .arg(directory.join(key))
                .identity(Identity::Ordinary)
                .run()?
                .check()?;
        }
        let configuration = format!(
            "Port {port}\n\
             HostKey {directory}/host\n\
             AuthorizedKeysFile {directory}/user.pub\n\
             PidFile none\n\
             UsePAM no\n\
             StrictModes no\n\
             UseDNS no\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n",
            directory = directory.display()
        );
        let file = host.write_file(directory.join("sshd_config"), configuration)?;
        let child = host
            .command(sshd)
            .args(["-D", "-e", "-f"])
            .arg(file)
            .identity(Identity::Ordinary)
            .spawn()?;
        super::wait_until_listening(&child, port)?;
        Ok(Self { child, port, directory })
    }

    /// The server's process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// A command that runs on the server's host, by ssh from another one.
    ///
    /// # Errors
    /// When the client's files cannot be written.
    pub fn command(&self, from: &Host, to: IpAddr, command: &str) -> Result<HostCommand> {
        let key = self.copy(
            from,
            "user",
            &fs::read(self.directory.join("user")).map_err(unreadable)?,
        )?;
        let public = fs::read_to_string(self.directory.join("host.pub")).map_err(unreadable)?;
        let known = self.copy(from, "known_hosts", format!("[{to}]:{} {public}", self.port).as_bytes())?;
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        Ok(from
            .command("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=5",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            .args([
                "-o",
                &option("UserKnownHostsFile", &known),
                "-o",
                &option("IdentityFile", &key),
            ])
            .args(["-o", "IdentitiesOnly=yes", "-p", &self.port.to_string()])
            .arg(format!("{ORDINARY_NAME}@{to}"))
            .arg(command))
    }

    /// Puts a file into the home of the client's root, for whom alone it is.
    fn copy(&self, host: &Host, name: &str, contents: &[u8]) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let server = self.child.host().name();
        let path = host.write_file(format!("root/ssh-{server}-{}/{name}", self.port), contents)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(LabError::io(format!("protect {}", path.display())))?;
        Ok(path)
    }
}

fn unreadable(source: std::io::Error) -> LabError {
    LabError::Io {
        what: "read the SSH server's keys".to_owned(),
        source,
    }
}
