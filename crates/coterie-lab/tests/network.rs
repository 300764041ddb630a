//! Hosts, bridges and wires carry traffic as real ones do.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use coterie_lab::{CaptureOptions, Impairment, Lab, LabOptions, Mutation, OUTSIDE, within_namespaces};

const DEADLINE: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::new(LabOptions::default()).expect("a lab")
}

fn addresses(of: &[&str]) -> Vec<ipnet::IpNet> {
    of.iter().map(|address| address.parse().expect("an address")).collect()
}

#[test]
fn hosts_reach_one_another_on_a_bridge_and_across_at_once() {
    within_namespaces(|| {
        let lab = lab();
        let (one, two) = (lab.bridge("rack-1").expect("a bridge"), lab.bridge("rack-2").expect("a bridge"));
        lab.link(&one, &two).expect("a wire");
        let web = lab.host("web-1", &one, &addresses(&["192.0.2.1/24", "2001:db8::1/64"])).expect("a host");
        lab.host("web-2", &one, &addresses(&["192.0.2.2/24", "2001:db8::2/64"])).expect("a host");
        lab.host("app-1", &two, &addresses(&["192.0.2.3/24", "2001:db8::3/64"])).expect("a host");
        for target in ["web-2", "app-1", "2001:db8::2", "2001:db8::3", "fe80::c0:7eff:fe00:300%eth0"] {
            let output = web.run("ping", &["-c", "1", "-W", "2", target]).expect("ping runs");
            assert!(output.is_success(), "{target}: {}{}", output.stdout, output.stderr);
            assert!(output.took < Duration::from_secs(1), "{target} took {:?}", output.took);
        }
        let name = web.run("uname", &["-n"]).expect("uname runs");
        assert_eq!(name.stdout, "web-1\n");
    });
}
