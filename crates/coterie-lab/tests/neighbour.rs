//! The hostile neighbour sees everything, sends anything, and knows what came back.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use coterie_lab::programs::Ping;
use coterie_lab::{
    CaptureOptions, Host, Lab, LabError, LabOptions, MacAddr, Mutation, Neighbour, Network, wait_for, within_namespaces,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Two hosts on two joined bridges, and the neighbour on the first.
fn scene(options: CaptureOptions) -> (Lab, Host, Host, Neighbour) {
    let lab = Lab::new(LabOptions::default()).expect("a lab");
    let (one, two) = (
        lab.bridge("rack-1").expect("a bridge"),
        lab.bridge("rack-2").expect("a bridge"),
    );
    lab.link(&one, &two).expect("a wire");
    let addresses = |number: u8| {
        [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")].map(|text| text.parse().expect("an address"))
    };
    let web = lab.host("web-1", &two, &addresses(1)).expect("a host");
    let app = lab.host("app-1", &two, &addresses(2)).expect("a host");
    let mallory = lab
        .neighbour("mallory", &one, &addresses(66), options)
        .expect("a neighbour");
    (lab, web, app, mallory)
}

fn address(host: &Host) -> SocketAddr {
    SocketAddr::new(host.ipv4().expect("an address"), 7000)
}

fn listen(host: &Host) -> UdpSocket {
    let socket = host
        .within(|| UdpSocket::bind(address(host)))
        .expect("entered")
        .expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    socket
}

#[test]
fn he_sees_what_two_others_on_another_bridge_say_to_one_another() {
    within_namespaces(|| {
        let (_lab, web, app, mallory) = scene(CaptureOptions::default().canary("needle"));
        for to in [app.ipv4(), app.ipv6()].into_iter().flatten() {
            let ping = Ping::new(to).count(10).canary("needle").from(&web).expect("ping runs");
            assert!(ping.is_success(), "{ping:?}");
        }
        let echoes = |from: &Host, protocol: u8, kind: u16| {
            let kinds = mallory.capture().kinds_from(from.mac());
            let found = kinds
                .iter()
                .find(|(k, _)| (k.protocol, k.detail) == (Some(protocol), Some(kind)));
            found.map_or(0, |(_, (frames, _))| *frames)
        };
        // Every frame, the first as well as those after the bridges could have learnt who is where.
        assert_eq!(
            [
                echoes(&web, 1, 8),
                echoes(&app, 1, 0),
                echoes(&web, 58, 128),
                echoes(&app, 58, 129)
            ],
            [10; 4]
        );
        assert!(mallory.capture().sightings("needle") >= 40);
        assert_eq!(mallory.answers().frames, 0, "{:?}", mallory.answers());
        assert_eq!(mallory.capture().lost(), 0);
    });
}

#[test]
fn he_sees_nothing_of_the_canary_when_nobody_says_it() {
    within_namespaces(|| {
        let (_lab, web, app, mallory) = scene(CaptureOptions::default().canary("needle"));
        assert!(
            Ping::new(app.ipv4().expect("an address"))
                .canary("hay")
                .from(&web)
                .expect("ping runs")
                .is_success()
        );
        assert!(!mallory.capture().saw_a_canary());
        assert!(mallory.capture().totals().0 >= 2);
    });
}

#[test]
fn what_comes_back_to_him_is_counted_and_shown() {
    within_namespaces(|| {
        let (_lab, web, _app, mallory) = scene(CaptureOptions::default());
        // Nobody listens, so the host's kernel answers each datagram that its rate limit lets it answer.
        let spent = mallory.send_random(address(&web), 100, 0..=64, 1).expect("sent");
        assert_eq!(spent.sent, 100, "{spent:?}");
        let answers = wait_for("an answer", DEADLINE, || {
            Some(mallory.answers()).filter(|answers| answers.frames > 0)
        });
        let answers = answers.expect("an ICMP error");
        let first = answers.first[0].parse().expect("a frame");
        assert!(
            matches!(
                first.network,
                Network::Ip {
                    protocol: 1,
                    icmp: Some(3),
                    ..
                }
            ),
            "{first:?}"
        );

        let before = mallory.answers().frames;
        mallory
            .probe(web.ipv6().expect("an address"), [80, 443], 1)
            .expect("sent");
        let resets = wait_for("two resets", DEADLINE, || {
            (mallory.answers().frames >= before + 2).then_some(())
        });
        resets.expect("the kernel resets connections to closed ports");
    });
}

#[test]
fn a_listener_that_says_nothing_gives_him_nothing() {
    within_namespaces(|| {
        let (_lab, web, _app, mallory) = scene(CaptureOptions::default());
        let socket = listen(&web);
        let spent = mallory.send_random(address(&web), 20_000, 0..=1400, 7).expect("sent");
        assert_eq!(spent.sent + spent.refused, 20_000);
        assert!(socket.recv(&mut [0; 2048]).is_ok());
        assert_eq!(mallory.answers().bytes, 0, "{:?}", mallory.answers());
    });
}

#[test]
fn he_replays_and_mutates_what_he_has_seen() {
    within_namespaces(|| {
        let (_lab, web, app, mallory) = scene(CaptureOptions::default());
        let socket = listen(&app);
        let is_his = |frame: &coterie_lab::Frame<'_>| frame.kind().is_udp_to(7000);
        let nothing = mallory.replay(is_his, Mutation::None, 1, 1);
        assert!(matches!(nothing, Err(LabError::Unavailable { .. })), "{nothing:?}");

        let said = *b"a message that is worth repeating";
        let sender = web
            .within(|| UdpSocket::bind(("0.0.0.0", 0)))
            .expect("entered")
            .expect("a socket");
        sender.send_to(&said, address(&app)).expect("sent");
        let mut buffer = [0; 2048];
        let mut next = || {
            let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
            (buffer[..length].to_vec(), from)
        };
        let (first, sender) = next();
        assert_eq!(first, said);

        let selected = |frame: &coterie_lab::Frame<'_>| is_his(frame) && frame.source == web.mac();
        let spent = mallory.replay(selected, Mutation::None, 3, 1).expect("sent");
        assert_eq!((spent.sent, spent.refused), (3, 0));
        for _ in 0..3 {
            assert_eq!(
                next(),
                (said.to_vec(), sender),
                "a replay comes from the address that it copies"
            );
        }
        mallory.replay(selected, Mutation::Bits, 3, 1).expect("sent");
        for _ in 0..3 {
            let (bytes, from) = next();
            assert!(
                bytes.len() == said.len() && bytes != said && from == sender,
                "{bytes:?} from {from}"
            );
        }
        mallory.replay(selected, Mutation::Length, 8, 1).expect("sent");
        let lengths: Vec<usize> = (0..8).map(|_| next().0.len()).collect();
        assert!(lengths.iter().any(|length| *length < said.len()), "{lengths:?}");
        assert!(lengths.iter().any(|length| *length > said.len()), "{lengths:?}");
        mallory.replay(selected, Mutation::Source, 1, 1).expect("sent");
        let (bytes, from) = next();
        assert_eq!(
            (bytes, from.ip()),
            (said.to_vec(), mallory.host().ipv4().expect("an address"))
        );
    });
}

#[test]
fn he_takes_an_address_over_where_neighbours_are_believed() {
    within_namespaces(|| {
        let (_lab, web, app, mallory) = scene(CaptureOptions::default());
        for target in [app.ipv4(), app.ipv6()].into_iter().flatten() {
            assert!(Ping::new(target).from(&web).expect("ping runs").is_success());
            assert_eq!(believed(&web, target), Some(app.mac()));
            let takes = || {
                mallory.spoof(target, 1).expect("sent");
                (believed(&web, target) == Some(mallory.host().mac())).then_some(())
            };
            wait_for("the takeover", DEADLINE, takes).expect("the kernel believes unsigned announcements");
        }
    });
}

/// The hardware address that a host's kernel takes for a neighbour's.
fn believed(host: &Host, neighbour: IpAddr) -> Option<MacAddr> {
    let output = host
        .run("ip", &["neigh", "show", "to", &neighbour.to_string(), "dev", "eth0"])
        .expect("ip runs");
    let mut words = output.stdout.split_whitespace().skip_while(|word| *word != "lladdr");
    let bytes: Vec<u8> = words
        .nth(1)?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hexadecimal byte"))
        .collect();
    Some(MacAddr(bytes.try_into().expect("six bytes")))
}
