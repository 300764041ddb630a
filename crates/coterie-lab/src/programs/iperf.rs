//! iperf3: how fast, and how much was lost.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::command::Child;
use crate::error::{LabError, Result};
use crate::host::Host;

/// A server that measures one client after another.
#[derive(Debug, Clone)]
pub struct IperfServer {
    child: Child,
    port: u16,
}

impl IperfServer {
    /// Starts one on a port of every address of its host, and waits until it listens.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `iperf3`; when the port is taken.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let child = host
            .command("iperf3")
            .args(["--server", "--port", &port.to_string(), "--forceflush"])
            .spawn()?;
        // A connection would count as a client to it, so it is asked what it says instead.
        crate::wait::wait_for(
            &format!("iperf3 on {} listening", host.name()),
            super::START_DEADLINE,
            || {
                let said = child.stdout();
                if said.contains("Server listening") {
                    return Some(Ok(()));
                }
                (!child.is_running()).then(|| {
                    Err(LabError::Command {
                        command: format!("iperf3 on {}", host.name()),
                        status: "ended at once".to_owned(),
                        stderr: format!("{said}{}", child.stderr()).trim().to_owned(),
                    })
                })
            },
        )??;
        Ok(Self { child, port })
    }

    /// The server's process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A measurement.
#[derive(Debug, Clone)]
pub struct Transfer {
    time: Duration,
    streams: u32,
    datagrams: Option<u64>,
    length: Option<u32>,
    file: Option<PathBuf>,
    reverse: bool,
}

impl Transfer {
    /// One TCP stream, as fast as it goes.
    #[must_use]
    pub fn tcp(time: Duration) -> Self {
        Self {
            time,
            streams: 1,
            datagrams: None,
            length: None,
            file: None,
            reverse: false,
        }
    }

    /// One stream of UDP datagrams at a rate in bits per second; 0 for as fast as it goes.
    #[must_use]
    pub fn udp(time: Duration, rate: u64) -> Self {
        Self {
            datagrams: Some(rate),
            ..Self::tcp(time)
        }
    }

    /// How many streams at the same time.
    #[must_use]
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    /// Bytes in each write: of a datagram's payload, for UDP.
    #[must_use]
    pub fn length(mut self, bytes: u32) -> Self {
        self.length = Some(bytes);
        self
    }

    /// Sends what a file has instead of iperf3's own bytes, once, for instance a file of canaries.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// The server sends and the client receives.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Measures from a host to an address of the server's.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `iperf3`; [`LabError::Command`] with what it says when it cannot reach the server.
    pub fn run(&self, from: &Host, server: &IperfServer, to: IpAddr) -> Result<Throughput> {
        let seconds = self.time.as_secs().max(1).to_string();
        let mut command = from
            .command("iperf3")
            .args([
                "--json",
                "--client",
                &to.to_string(),
                "--port",
                &server.port.to_string(),
                "--time",
                &seconds,
            ])
            .args(["--parallel", &self.streams.to_string(), "--connect-timeout", "5000"])
            .deadline(self.time + Duration::from_secs(20));
        if let Some(rate) = self.datagrams {
            command = command.args(["--udp", "--bitrate", &rate.to_string()]);
            // What iperf3 reads late on a busy machine is no loss of the network's.
            if let Some(bytes) = largest_buffer() {
                command = command.args(["--window", &bytes.to_string()]);
            }
        }
        if let Some(length) = self.length {
            command = command.args(["--length", &length.to_string()]);
        }
        if let Some(file) = &self.file {
            command = command.arg("--file").arg(file);
        }
        if self.reverse {
            command = command.arg("--reverse");
        }
        let output = command.run()?;
        let report: Report = serde_json::from_str(&output.stdout).map_err(|error| LabError::Output {
            program: "iperf3".to_owned(),
            why: error.to_string(),
        })?;
        report.read(&output)
    }
}

/// Bytes of the largest socket buffer that programs may ask for, where the system says it; more than 4 MiB is never needed.
fn largest_buffer() -> Option<u64> {
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    Some(limit("rmem_max")?.min(limit("wmem_max")?).min(4 << 20))
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Throughput {
    /// What arrived, of all streams together.
    pub bits_per_second: f64,
    /// TCP segments that were sent again.
    pub retransmits: u64,
    /// UDP datagrams that were sent.
    pub datagrams: u64,
    /// UDP datagrams that did not arrive.
    pub lost: u64,
    /// UDP datagrams that arrived late.
    pub out_of_order: u64,
    /// Processor time of the client's iperf3, as a share of one core.
    pub client_cpu: f64,
    /// Processor time of the server's iperf3, as a share of one core.
    pub server_cpu: f64,
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct End {
    sum: Option<Sum>,
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
    streams: Vec<Stream>,
    cpu_utilization_percent: Cpu,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Sum {
    bits_per_second: f64,
    retransmits: u64,
    packets: u64,
    lost_packets: u64,
    lost_percent: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Stream {
    udp: Option<Datagrams>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Datagrams {
    out_of_order: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cpu {
    host_total: f64,
    remote_total: f64,
}

impl Report {
    fn read(self, output: &crate::command::Output) -> Result<Throughput> {
        if let Some(error) = self.error {
            return Err(LabError::Command {
                command: "iperf3 --client".to_owned(),
                status: output.status.to_string(),
                stderr: error,
            });
        }
        let end = self.end;
        let arrived = end
            .sum_received
            .as_ref()
            .or(end.sum.as_ref())
            .ok_or_else(|| LabError::Output {
                program: "iperf3".to_owned(),
                why: "the report has no sum of what was received".to_owned(),
            })?;
        let (client_cpu, server_cpu) = (
            end.cpu_utilization_percent.host_total / 100.0,
            end.cpu_utilization_percent.remote_total / 100.0,
        );
        // `sum` has the datagrams as the receiver counted them; its rate is the sender's.
        let datagrams = end.sum.as_ref().filter(|sum| sum.packets > 0);
        let rate = datagrams.map_or(arrived.bits_per_second, |sum| {
            if arrived.packets > 0 && end.sum_received.is_some() {
                arrived.bits_per_second
            } else {
                sum.bits_per_second * (1.0 - sum.lost_percent / 100.0)
            }
        });
        Ok(Throughput {
            bits_per_second: rate,
            retransmits: end.sum_sent.as_ref().map_or(0, |sum| sum.retransmits),
            datagrams: datagrams.map_or(0, |sum| sum.packets),
            lost: datagrams.map_or(0, |sum| sum.lost_packets),
            out_of_order: end
                .streams
                .iter()
                .filter_map(|stream| stream.udp.as_ref())
                .map(|udp| udp.out_of_order)
                .sum(),
            client_cpu,
            server_cpu,
        })
    }
}
