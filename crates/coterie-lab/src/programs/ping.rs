//! ping, of iputils.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host::Host;

/// Echo requests.
#[derive(Debug, Clone)]
pub struct Ping {
    to: IpAddr,
    count: u32,
    interval: Duration,
    timeout: Duration,
    size: Option<u16>,
    canary: Option<Vec<u8>>,
}

impl Ping {
    /// One echo request, whose answer is waited for 2 seconds.
    #[must_use]
    pub fn new(to: IpAddr) -> Self {
        Self {
            to,
            count: 1,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(2),
            size: None,
            canary: None,
        }
    }

    /// How many requests.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// How long from one to the next; 10 ms unless set. Below 2 ms only root may.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long the last answer is waited for.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes in each request; ping's own 56 unless set.
    #[must_use]
    pub fn size(mut self, bytes: u16) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Fills the requests with up to 16 bytes, again and again; they are whole from the 17th byte of a request on.
    #[must_use]
    pub fn canary(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.canary = Some(bytes.into());
        self
    }

    /// Sends them from a host, and waits for the answers.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `ping`; [`LabError::Output`] when it says nothing that can be read.
    pub fn from(&self, host: &Host) -> Result<Pinged> {
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        let mut command = host
            .command("ping")
            .args([
                "-n",
                "-c",
                &self.count.to_string(),
                "-i",
                &seconds(self.interval),
                "-W",
                &seconds(self.timeout),
            ])
            .deadline(self.interval * self.count + self.timeout + Duration::from_secs(10));
        if let Some(size) = self.size {
            command = command.args(["-s", &size.to_string()]);
        }
        if let Some(canary) = &self.canary {
            let pattern: String = canary.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            command = command.args(["-p", &pattern]);
        }
        let output = command.arg(self.to.to_string()).run()?;
        let text = format!("{}{}", output.stdout, output.stderr);
        Pinged::read(&text, output.took).ok_or_else(|| LabError::Output {
            program: "ping".to_owned(),
            why: format!("no count of packets in {:?}", text.trim()),
        })
    }
}

/// What ping says when the kernel refuses the destination before anything is sent: EACCES, which it takes for a broadcast
/// address when it is IPv4.
const REFUSED: [&str; 2] = ["permission denied", "do you want to ping broadcast"];

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Pinged {
    /// Requests that were sent.
    pub sent: u32,
    /// Answers that came.
    pub received: u32,
    /// Answers that came more than once.
    pub duplicates: u32,
    /// Requests that somebody reported as undeliverable, or that the sender's own kernel refused.
    pub errors: u32,
    /// The shortest, mean and longest time to an answer, if there was one.
    pub times: Option<[Duration; 3]>,
    /// All that ping said.
    pub said: String,
    /// From ping's start to its end.
    pub took: Duration,
}

impl Pinged {
    /// Whether every request was answered.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }

    /// Whether the sender was told that it may not send: by its own kernel, or by somebody who says that an administrator
    /// prohibits it.
    #[must_use]
    pub fn is_prohibited(&self) -> bool {
        let said = self.said.to_lowercase();
        ["not permitted", "prohibited", "packet filtered"]
            .iter()
            .chain(&REFUSED)
            .any(|way| said.contains(way))
    }

    fn read(text: &str, took: Duration) -> Option<Self> {
        let Some(summary) = text.lines().find(|line| line.contains("packets transmitted")) else {
            let lower = text.to_lowercase();
            let refused = REFUSED.iter().any(|way| lower.contains(way));
            let said = text.to_owned();
            return refused.then_some(Self {
                sent: 0,
                received: 0,
                duplicates: 0,
                errors: 1,
                times: None,
                said,
                took,
            });
        };
        let count = |of: &str| {
            let field = summary.split(',').find(|field| field.contains(of))?;
            field
                .trim()
                .trim_start_matches('+')
                .split_whitespace()
                .next()?
                .parse::<u32>()
                .ok()
        };
        let times = text.lines().find_map(|line| {
            let (_, numbers) = line.strip_prefix("rtt ")?.split_once(" = ")?;
            let mut numbers = numbers.split('/').map(|number| number.parse::<f64>().ok());
            let mut next = || Some(Duration::from_secs_f64(numbers.next()?? / 1000.0));
            Some([next()?, next()?, next()?])
        });
        // When the kernel refuses to send, ping reports an error a request and counts none as an error.
        let refused = text
            .lines()
            .filter(|line| line.contains("sendmsg:") || line.contains("sendto:"))
            .count();
        Some(Self {
            sent: count("transmitted")?,
            received: count("received")?,
            duplicates: count("duplicates").unwrap_or(0),
            errors: count("errors")
                .unwrap_or(0)
                .max(u32::try_from(refused).unwrap_or(u32::MAX)),
            times,
            said: text.to_owned(),
            took,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_with_and_without_its_optional_parts() {
        let good = "5 packets transmitted, 4 received, +2 duplicates, 20% packet loss, time 4ms\n\
                    rtt min/avg/max/mdev = 0.020/0.030/0.045/0.003 ms\n";
        let good = Pinged::read(good, Duration::ZERO).expect("a summary");
        assert_eq!((good.sent, good.received, good.duplicates, good.errors), (5, 4, 2, 0));
        assert_eq!(good.times.expect("times")[2], Duration::from_micros(45));

        let bad = "From 192.0.2.1 icmp_seq=1 Packet filtered\n\
                   1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        let bad = Pinged::read(bad, Duration::ZERO).expect("a summary");
        assert!(bad.is_prohibited() && !bad.is_success() && bad.errors == 1 && bad.times.is_none());
    }
}
