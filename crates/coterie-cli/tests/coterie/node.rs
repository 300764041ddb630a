//! Commands of a node, with coteried on two hosts.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use coterie_lab::{Host, Lab, LabOptions, Output, wait_for, within_namespaces};

use crate::{coterie_in, demo::coteried};

const DEADLINE: Duration = Duration::from_secs(10);

/// Two machines that share a community, and one that is nobody's, as the issuer made them.
struct Pair {
    left: Host,
    right: Host,
    _lab: Lab,
}

fn pair() -> Pair {
    let lab = Lab::new(LabOptions::default()).unwrap();
    let bridge = lab.bridge("server").unwrap();
    let left = lab.host("left", &bridge, &["192.0.2.1/24".parse().unwrap()]).unwrap();
    let right = lab.host("right", &bridge, &["192.0.2.2/24".parse().unwrap()]).unwrap();
    let site = lab.directory().join("site");
    fs::create_dir(&site).unwrap();
    let example = crate::root().join("examples/minimal.toml").canonicalize().unwrap();
    coterie_in(&site, &["enclave", "init", example.to_str().unwrap(), "-d", "enclave"]).ended(0);
    for host in [&left, &right] {
        let file = |what: &str| host.directory().join(what).display().to_string();
        let (keys, bundle) = (file("keys"), file("bundle"));
        let issue = [
            "bundle",
            "issue",
            "-d",
            "enclave",
            "--new",
            host.name(),
            "--keys",
            &keys,
            "-o",
            &bundle,
        ];
        coterie_in(&site, &issue).ended(0);
    }
    let output = left.directory().join("bundle").display().to_string();
    let again = [
        "bundle", "issue", "-d", "enclave", "--member", "left", "--force", "-o", &output,
    ];
    coterie_in(&site, &again).ended(0);
    Pair { left, right, _lab: lab }
}

/// Runs `coterie` on a host, whose coteried has the usual socket there.
#[track_caller]
fn on(host: &Host, arguments: &[&str], environment: &[(&str, &str)], code: i32) -> Output {
    let command = host
        .command(env!("CARGO_BIN_EXE_coterie"))
        .args(arguments)
        .deadline(Duration::from_secs(30));
    let command = environment
        .iter()
        .fold(command, |command, (name, value)| command.env(name, value));
    let output = command.run().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    output
}

/// Whether a program on the host may send a datagram to a neighbour.
fn speaks_in_the_clear(host: &Host) -> bool {
    let send = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"clear", "192.0.2.77:9"));
    match host.within(send).unwrap() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{error}"),
    }
}

fn up(host: &Host, more: &[&str], environment: &[(&str, &str)], code: i32) -> Output {
    let file = |what: &str| host.directory().join(what).display().to_string();
    let (bundle, keys, state) = (file("bundle"), file("keys"), file("state"));
    let arguments = ["up", "--bundle", &bundle, "--keys", &keys, "--state", &state];
    on(host, &[&arguments[..], more].concat(), environment, code)
}

#[test]
fn two_machines_come_up_reach_each_other_and_go_down() {
    if coteried().is_none() {
        return;
    }
    within_namespaces(|| {
        let Pair { left, right, _lab } = pair();
        on(&left, &["wait", "right", "--timeout", "100ms"], &[], 5);
        let said = up(&left, &[], &[], 0);
        assert!(said.stdout.contains("left of enclave pair is up"), "{said:?}");
        up(&right, &["--lockdown", "on"], &[], 0);
        assert!(up(&left, &[], &[], 1).stderr.contains("runs already as left"));

        on(&left, &["wait", "--ready"], &[], 0);
        on(&left, &["wait", "right"], &[], 0);
        let pinged = on(&left, &["ping", "right", "-c", "3", "-i", "1ms", "-o", "json"], &[], 0);
        let pinged: serde_json::Value = serde_json::from_str(&pinged.stdout).unwrap();
        assert_eq!(pinged.as_array().unwrap().len(), 3);
        assert_eq!(pinged[2]["pong"]["community"], "pair");
        on(&left, &["ping", "nobody"], &[], 4);
        on(&left, &["wait", "nobody"], &[], 4);

        let explained = on(&left, &["explain", "right:22"], &[], 0);
        assert!(explained.stdout.contains("live session"), "{explained:?}");
        on(&left, &["explain", "10.77.0.250"], &[], 4);
        on(&left, &["explain", "left", "right"], &[], 2);
        let status = on(&left, &["status"], &[], 0).stdout;
        assert!(
            status
                .lines()
                .any(|line| line.starts_with("right") && line.contains("up")),
            "{status}"
        );
        let status = on(&left, &["status", "-o", "json"], &[], 0).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(
            (&status["name"], &status["peers"][0]["state"]),
            (&"left".into(), &"up".into())
        );
        assert!(on(&left, &["metrics"], &[], 0).stdout.contains("coterie_sent_packets"));

        assert!(on(&left, &["down"], &[], 0).stdout.contains("the lockdown stays"));
        on(&left, &["status"], &[], 3);
        on(&left, &["down"], &[], 3);
        assert!(!speaks_in_the_clear(&left), "a lockdown outlives its coteried");
        on(&left, &["unlock"], &[], 0);
        assert!(speaks_in_the_clear(&left));
    });
}

#[test]
fn a_lockdown_that_would_cut_ssh_is_asked_for_and_taken_back() {
    if coteried().is_none() {
        return;
    }
    within_namespaces(|| {
        let Pair { left, right, _lab } = pair();
        let outside = [("SSH_CONNECTION", "192.0.2.9 50000 192.0.2.1 22")];
        let pending = Path::new("run/coterie/coteried.unconfirmed");
        let refused = up(&left, &["--lockdown", "on"], &outside, 1);
        assert!(
            refused.stderr.contains("192.0.2.1") && refused.stderr.contains("--yes"),
            "{refused:?}"
        );
        on(&left, &["status"], &[], 3);
        assert!(!left.directory().join(pending).exists());

        // One that fails after its lockdown was loaded takes it back at once.
        left.within(|| {
            let _taken = UdpSocket::bind("[::]:4747").unwrap();
            up(&left, &["--lockdown", "on", "--yes"], &outside, 1);
        })
        .unwrap();
        assert!(speaks_in_the_clear(&left) && !left.directory().join(pending).exists());

        let warned = up(&left, &["--lockdown", "on", "--yes"], &outside, 0);
        assert!(warned.stdout.contains("coterie up --confirm"), "{warned:?}");
        assert!(left.directory().join(pending).exists());
        // The process that waits a minute does what this one does after a moment.
        assert!(!speaks_in_the_clear(&left));
        on(&left, &["revert", "--after", "10ms"], &[], 0);
        on(&left, &["status"], &[], 3);
        assert!(speaks_in_the_clear(&left), "whoever was cut off can come back");
        on(&left, &["up", "--confirm"], &[], 1);

        up(&right, &["--lockdown", "on", "--yes"], &outside, 0);
        on(&right, &["up", "--confirm"], &[], 0);
        assert!(!speaks_in_the_clear(&right));
        on(&right, &["unlock"], &[], 0);
        assert!(speaks_in_the_clear(&right));
        assert!(on(&right, &["status"], &[], 0).stdout.contains("lockdown   off"));
        on(&right, &["down", "--unlock"], &[], 0);
        up(&right, &["--lockdown", "on"], &[], 0);
        on(&right, &["revert", "--after", "10ms"], &[], 0);
        on(&right, &["status"], &[], 0);

        // Inside the enclave, and without a lockdown, nothing is cut and nothing is asked.
        up(
            &left,
            &["--lockdown", "on"],
            &[("SSH_CONNECTION", "10.77.0.2 50000 10.77.0.1 22")],
            0,
        );
        assert!(!left.directory().join(pending).exists());
        on(&left, &["down"], &[], 0);
        up(&left, &["--lockdown", "off"], &outside, 0);
        assert!(!left.directory().join(pending).exists());
        wait_for("left ready", DEADLINE, || {
            let status = left.command(env!("CARGO_BIN_EXE_coterie")).arg("status").run().ok()?;
            status.is_success().then_some(())
        })
        .unwrap();
    });
}
