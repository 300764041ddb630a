//! Metrics in Prometheus text format (OpenMetrics): from the control socket, and over HTTP where asked for.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use coterie_api::{Answer, Reply, Request, node::Status};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::requests::{Asker, spawn};

#[derive(Debug)]
struct NodeMetrics(Status);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

type Encoded = Result<(), std::fmt::Error>;

impl prometheus_client::collector::Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        self.totals(&mut encoder)?;
        self.families(&mut encoder)?;
        self.gauges(&mut encoder)?;
        self.served(&mut encoder)
    }
}

impl NodeMetrics {
    fn totals(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let (c, bytes) = (&self.0.counters, Some(&Unit::Bytes));
        for (name, help, unit, value) in [
            ("coterie_sent_packets", "Packets sealed and sent", None, c.sent_packets),
            ("coterie_sent", "Bytes of packets sealed and sent", bytes, c.sent_bytes),
            (
                "coterie_delivered_packets",
                "Packets opened and delivered",
                None,
                c.delivered_packets,
            ),
            (
                "coterie_delivered",
                "Bytes of packets opened and delivered",
                bytes,
                c.delivered_bytes,
            ),
            (
                "coterie_sessions_initiated",
                "Sessions made as initiator",
                None,
                c.initiated,
            ),
            (
                "coterie_sessions_responded",
                "Sessions made as responder",
                None,
                c.responded,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        }
        Ok(())
    }

    fn families(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let s = &self.0;
        let mut drops = encoder.encode_descriptor(
            "coterie_drops",
            "Packets and datagrams dropped, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, n) in &s.counters.drops {
            ConstCounter::new(*n).encode(drops.encode_family(&Reason { reason: reason.clone() })?)?;
        }
        let mut alarms = encoder.encode_descriptor(
            "coterie_alarms",
            "What should not have happened, by kind",
            None,
            MetricType::Counter,
        )?;
        for kind in ["rollback", "foreign", "twin", "forked", "revoked-knocked", "restored"] {
            let n = s.alarms.get(kind).copied().unwrap_or(0);
            ConstCounter::new(n).encode(alarms.encode_family(&Kind { kind: kind.into() })?)?;
        }
        let mut peers =
            encoder.encode_descriptor("coterie_peers", "Members known, by state", None, MetricType::Gauge)?;
        for state in ["silent", "connecting", "up", "revoked"] {
            let n = whole(s.peers.iter().filter(|p| p.state == state).count());
            ConstGauge::new(n).encode(peers.encode_family(&State { state: state.into() })?)?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let s = &self.0;
        for (name, help, unit, value) in [
            (
                "coterie_lockdown_in_force",
                "1 while nothing can leave in clear text",
                None,
                i64::from(s.lockdown == "in-force"),
            ),
            (
                "coterie_forked",
                "1 after this machine was forked",
                None,
                i64::from(s.forked),
            ),
            (
                "coterie_revision",
                "Revision of the revocations known",
                None,
                whole(s.revision),
            ),
            (
                "coterie_membership_current",
                "0 when the membership has ended",
                None,
                i64::from(s.membership == "current"),
            ),
            (
                "coterie_membership_ends_timestamp",
                "When the membership ends, Unix time",
                Some(&Unit::Seconds),
                whole(s.membership_ends),
            ),
        ] {
            gauge(encoder, (name, help, unit), value)?;
        }
        Ok(())
    }

    /// What there is where the node follows a server, or is a door.
    fn served(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        if let Some(server) = &self.0.server {
            let following = i64::from(server.state == "following");
            let help = "1 while the server tells this node what changes";
            gauge(encoder, ("coterie_server_following", help, None), following)?;
            let help = "Revision up to which everything was told and applied";
            gauge(encoder, ("coterie_server_mark", help, None), whole(server.mark))?;
            let help = "Serial of the bundle in use";
            gauge(encoder, ("coterie_server_serial", help, None), whole(server.serial))?;
            if let Some(heard) = server.heard {
                // Whole seconds are enough for an alarm.
                let seconds = Duration::try_from_secs_f64(heard).map_or(i64::MAX, |d| whole(d.as_secs()));
                let help = "Since the server said something";
                gauge(
                    encoder,
                    ("coterie_server_heard_ago", help, Some(&Unit::Seconds)),
                    seconds,
                )?;
            }
        }
        if let Some(door) = &self.0.door {
            gauge(
                encoder,
                ("coterie_door_tokens", "Tokens that open this door", None),
                whole(door.tokens),
            )?;
            gauge(
                encoder,
                ("coterie_door_visits", "Visits under way at this door", None),
                whole(door.visits),
            )?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, (name, help, unit): (&str, &str, Option<&Unit>), value: i64) -> Encoded {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

fn whole(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

/// The text of a node's metrics.
#[must_use]
pub fn text(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(NodeMetrics(status)));
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _infallible = encode(&mut out, &registry);
    out
}

/// Serves `/metrics` at `address`.
///
/// # Errors
/// When it cannot listen there.
pub fn serve(address: SocketAddr, asker: Asker) -> anyhow::Result<()> {
    let server = tiny_http::Server::http(address)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("cannot serve metrics at {address}"))?;
    spawn("metrics", move || {
        for request in server.incoming_requests() {
            let response = if request.url() == "/metrics" {
                match asker.call(Request::Metrics) {
                    Reply::Ok(Answer::Metrics(text)) => {
                        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                        let header =
                            tiny_http::Header::from_bytes("Content-Type", kind).expect("a header of ASCII text");
                        tiny_http::Response::from_string(text).with_header(header)
                    }
                    Reply::Ok(_) | Reply::Error(_) => {
                        tiny_http::Response::from_string("stopping\n").with_status_code(503)
                    }
                }
            } else {
                tiny_http::Response::from_string("metrics are at /metrics\n").with_status_code(404)
            };
            // A scraper that goes away in the middle is its own affair.
            let _gone = request.respond(response);
        }
    })
}
