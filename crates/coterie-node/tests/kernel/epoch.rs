//! A planned change of a community's key under load loses no packet.

use std::time::Duration;

use coterie_lab::{
    programs::{IperfServer, Transfer},
    wait_for, within_namespaces,
};

use crate::site::Site;

/// Payload of the datagrams: a full inside packet.
const LENGTH: u32 = 1200;

#[test]
fn a_planned_epoch_loses_nothing_at_80_percent_of_the_loss_free_rate() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"])]);
        site.start();
        site.machine("one").ping("two");
        let inside = site.machine("two").inside;
        let best = loss_free_rate(&site);
        let server = IperfServer::start(&site.machine("two").host, 5200).expect("iperf3 serves");
        let rate = best / 10 * 8;
        site.roll("both", Duration::from_secs(3));
        site.issue();
        let seconds = 10;
        let throughput = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                Transfer::udp(Duration::from_secs(seconds), rate)
                    .length(LENGTH)
                    .run(&site.machine("one").host, &server, inside)
                    .expect("iperf3 runs")
            });
            wait_for("traffic to flow", Duration::from_secs(5), || {
                (site.machine("one").status().counters.sent_packets > 5000).then_some(())
            })
            .expect("traffic flows");
            for machine in &site.machines {
                machine.reload();
            }
            wait_for("the new epoch to activate", Duration::from_secs(8), || {
                (site.machine("one").status().communities[0].epoch == Some(2)).then_some(())
            })
            .expect("activated");
            load.join().expect("the load ran")
        });
        eprintln!(
            "loss-free up to {} Mbit/s; at {} Mbit/s over the change of epoch: {} datagrams, {} lost",
            best / 1_000_000,
            rate / 1_000_000,
            throughput.datagrams,
            throughput.lost
        );
        assert!(throughput.datagrams > 10_000);
        assert_eq!(throughput.lost, 0);
        // Under the new key, and not only beside the old session: a fresh contact uses it.
        let epoch = |site: &Site| site.machine("one").status().peers[0].session.as_ref().map(|s| s.epoch);
        assert_eq!(
            epoch(&site),
            Some(1),
            "the live session goes on under the epoch that admitted it"
        );
        site.machine("two").daemon().kill().expect("killed");
        site.machine_mut("two").start();
        site.machine("two").wait_ready();
        site.machine("two").ping("one");
        assert_eq!(epoch(&site), Some(2));
    });
}

/// The highest rate, in bits a second, at which two seconds of datagrams all arrive.
fn loss_free_rate(site: &Site) -> u64 {
    let lost_at = |port: u16, rate: u64| {
        // A server of its own for each: the one before may still be busy with its report.
        let server = IperfServer::start(&site.machine("two").host, port).expect("iperf3 serves");
        Transfer::udp(Duration::from_secs(2), rate)
            .length(LENGTH)
            .run(&site.machine("one").host, &server, site.machine("two").inside)
            .expect("iperf3 runs")
            .lost
    };
    let mut best = 0;
    let rates = [50, 100, 200, 300, 400, 500, 600, 800, 1000].map(|m| m * 1_000_000);
    for (port, rate) in (5201..).zip(rates) {
        if lost_at(port, rate) > 0 {
            break;
        }
        best = rate;
    }
    assert!(best > 0, "not even 50 Mbit/s arrive without loss");
    best
}
