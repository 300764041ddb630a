//! PostgreSQL, which refuses to be root: it runs as the ordinary user.

use std::net::IpAddr;
use std::time::Duration;

use crate::command::{Child, HostCommand, Identity};
use crate::error::Result;
use crate::host::Host;

/// A database server with one database, `postgres`, that lets everybody in as the user `postgres`.
#[derive(Debug, Clone)]
pub struct Postgres {
    child: Child,
    port: u16,
}

impl Postgres {
    /// Makes a database, starts the server on every address of its host, and waits until it listens.
    ///
    /// # Errors
    /// [`crate::LabError::Missing`] without `postgres` or `initdb`; when the port is taken.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let home = super::home(host);
        let data = home.join(format!("postgres-{port}"));
        host.command("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .identity(Identity::Ordinary)
            .deadline(Duration::from_secs(60))
            .run()?
            .check()?;
        host.write_file(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n",
        )?;
        let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        let child = host
            .command("postgres")
            .arg("-D")
            .arg(&data)
            .args(setting("port", &port.to_string()))
            .args(setting("listen_addresses", "*"))
            .args(setting("unix_socket_directories", ""))
            .args(setting("fsync", "off"))
            .identity(Identity::Ordinary)
            .spawn()?;
        super::wait_until_listening(&child, port)?;
        let server = Self { child, port };
        crate::wait::retry(
            &format!("the database on {} answering", host.name()),
            super::START_DEADLINE,
            || {
                server
                    .query(host, IpAddr::from([127, 0, 0, 1]), "select 1")
                    .run()?
                    .check()
            },
        )?;
        Ok(server)
    }

    /// The server's process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// A query by psql from a host. Its standard output has the rows alone, with `|` between fields.
    #[must_use]
    pub fn query(&self, from: &Host, to: IpAddr, sql: &str) -> HostCommand {
        let connection = format!(
            "host={to} port={} user=postgres dbname=postgres connect_timeout=5",
            self.port
        );
        from.command("psql").args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            &connection,
            "--command",
            sql,
        ])
    }
}
