//! Metrics in Prometheus text format (OpenMetrics): from the control socket, and over HTTP where asked for.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use coterie_api::{Answer, Reply, Request, node::Status};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
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

impl prometheus_client::collector::Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let s = &self.0;
        let c = &s.counters;
        let mut total = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
        };
        total("coterie_sent_packets", "Packets sealed and sent", None, c.sent_packets)?;
        total(
            "coterie_sent",
            "Bytes of packets sealed and sent",
            Some(&Unit::Bytes),
            c.sent_bytes,
        )?;
        total(
            "coterie_delivered_packets",
            "Packets opened and delivered",
            None,
            c.delivered_packets,
        )?;
        total(
            "coterie_delivered",
            "Bytes of packets opened and delivered",
            Some(&Unit::Bytes),
            c.delivered_bytes,
        )?;
        total(
            "coterie_sessions_initiated",
            "Sessions made as initiator",
            None,
            c.initiated,
        )?;
        total(
            "coterie_sessions_responded",
            "Sessions made as responder",
            None,
            c.responded,
        )?;

        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut drops =
            encoder.encode_descriptor("coterie_drops", "Packets and datagrams dropped, by reason", None, kind)?;
        for (reason, n) in &c.drops {
            ConstCounter::new(*n).encode(drops.encode_family(&Reason { reason: reason.clone() })?)?;
        }
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut alarms =
            encoder.encode_descriptor("coterie_alarms", "What should not have happened, by kind", None, kind)?;
        for alarm in ["rollback", "foreign", "twin", "forked", "revoked-knocked"] {
            let n = s.alarms.get(alarm).copied().unwrap_or(0);
            ConstCounter::new(n).encode(alarms.encode_family(&Kind { kind: alarm.into() })?)?;
        }
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut peers = encoder.encode_descriptor("coterie_peers", "Members known, by state", None, kind)?;
        for state in ["silent", "connecting", "up", "revoked"] {
            let n = i64::try_from(s.peers.iter().filter(|p| p.state == state).count()).unwrap_or(i64::MAX);
            ConstGauge::new(n).encode(peers.encode_family(&State { state: state.into() })?)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: i64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge(
            "coterie_lockdown_in_force",
            "1 while nothing can leave in clear text",
            None,
            i64::from(s.lockdown == "in-force"),
        )?;
        gauge(
            "coterie_forked",
            "1 after this machine was forked",
            None,
            i64::from(s.forked),
        )?;
        gauge(
            "coterie_revision",
            "Revision of the revocations known",
            None,
            i64::try_from(s.revision).unwrap_or(i64::MAX),
        )?;
        gauge(
            "coterie_membership_current",
            "0 when the membership has ended",
            None,
            i64::from(s.membership == "current"),
        )?;
        if let Some(server) = &s.server {
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            gauge(
                "coterie_server_following",
                "1 while the server tells this node what changes",
                None,
                i64::from(server.state == "following"),
            )?;
            gauge(
                "coterie_server_mark",
                "Revision up to which everything was told and applied",
                None,
                whole(server.mark),
            )?;
            gauge(
                "coterie_server_serial",
                "Serial of the bundle in use",
                None,
                whole(server.serial),
            )?;
            if let Some(heard) = server.heard {
                // Whole seconds are enough for an alarm.
                let seconds = Duration::try_from_secs_f64(heard).map_or(i64::MAX, |d| whole(d.as_secs()));
                let unit = Some(&Unit::Seconds);
                gauge(
                    "coterie_server_heard_ago",
                    "Since the server said something",
                    unit,
                    seconds,
                )?;
            }
        }
        if let Some(door) = &s.door {
            let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            gauge(
                "coterie_door_tokens",
                "Tokens that open this door",
                None,
                whole(door.tokens),
            )?;
            gauge(
                "coterie_door_visits",
                "Visits under way at this door",
                None,
                whole(door.visits),
            )?;
        }
        let ends = i64::try_from(s.membership_ends).unwrap_or(i64::MAX);
        gauge(
            "coterie_membership_ends_timestamp",
            "When the membership ends, Unix time",
            Some(&Unit::Seconds),
            ends,
        )?;
        Ok(())
    }
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
