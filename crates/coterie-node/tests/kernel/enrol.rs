//! From a join token to the first packet: a machine that has nothing but the token, a door, and the issuer behind it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coterie_control::enrol::{DoorAddress, REFUSED, Reply, Token, open};
use coterie_crypto::{aead::Suite, dh::KeyPair};
use coterie_lab::{Host, HostCommand, within_namespaces};
use coterie_model::Name;
use coterie_node::{driver, entropy::SystemEntropy};
use coterie_proto::{
    bootstrap::{Door, Knock},
    handshake::payload::Suites,
};

use crate::{
    site::{DEADLINE, Site, name, now},
    start::{echo, first_answer},
};

const ROUNDS: usize = 9;

/// A door on a host of its own, with the issuer behind it.
struct Gate {
    keys: KeyPair,
    server: KeyPair,
    host: Host,
    token: Token,
    /// The server's word for the next applications.
    refuses: AtomicBool,
}

impl Gate {
    fn new(site: &Site) -> Self {
        let address = ["192.0.2.50/24".parse().expect("an address")];
        let host = site.lab.host("gate", &site.bridge, &address).expect("a host");
        let (keys, server) = (
            KeyPair::generate(&mut SystemEntropy),
            KeyPair::generate(&mut SystemEntropy),
        );
        let door = DoorAddress {
            endpoint: "192.0.2.50:4747".parse().expect("an address"),
            static_key: *keys.public(),
        };
        let ends = now().plus(Duration::from_secs(600));
        let token = Token::draw(
            (site.issuer.id(), site.issuer.root_hash()),
            *server.public(),
            ends,
            vec![door],
            vec![],
            &mut SystemEntropy,
        );
        Self {
            keys,
            server,
            host,
            token,
            refuses: AtomicBool::new(false),
        }
    }

    /// Lets visitors in until `stop`, with members of `template`.
    fn serve(&self, issuer: &mut coterie_control::issue::Enclave, template: &Name, stop: &AtomicBool) {
        let socket = UdpSocket::bind("192.0.2.50:4747").expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("set");
        let all = Suites::new(&Suite::ALL).expect("three suites");
        let keys = KeyPair::from_private(self.keys.private().duplicate());
        let mut door = Door::new(keys, (all, Suite::Aes256Gcm), vec![], Box::new(SystemEntropy));
        door.handle_knocks(vec![Knock {
            key: self.token.knock_key(self.keys.public()),
            not_after: self.token.not_after,
        }]);
        let mut bytes = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                door.handle_outside(&mut bytes[..len], from, |_| false, now(), driver::now());
            }
            door.handle_timeout(driver::now());
            while let Some(request) = door.poll_request() {
                let answer = self.answer(issuer, template, &request.bytes, request.from);
                door.answer(request.visit, answer, driver::now());
            }
            while let Some(out) = door.poll_transmit() {
                socket.send_to(&out.bytes, out.to).expect("sent");
            }
        }
    }

    fn answer(
        &self,
        issuer: &mut coterie_control::issue::Enclave,
        template: &Name,
        application: &[u8],
        from: SocketAddr,
    ) -> Vec<u8> {
        if self.refuses.load(Ordering::Relaxed) {
            return REFUSED.to_vec();
        }
        let opened = open(application, self.token.secret(), &self.server).expect("an application");
        let request = &opened.application.request;
        issuer
            .provision(template, vec![from], request, false, draw(&mut SystemEntropy), now())
            .expect("provisioned");
        let bundle = issuer
            .issue(request.name(), now(), &mut SystemEntropy)
            .expect("a bundle");
        let reply = Reply {
            bundle: bundle.into_bytes(),
            ticket: None,
        };
        opened.reply(&reply, &mut SystemEntropy)
    }
}

/// Ends what serves, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `coteried` on a machine that has a token and nothing else.
fn command(host: &Host, member: &str) -> HostCommand {
    let at = |file: &str| -> PathBuf { host.directory().join(file) };
    host.command(env!("CARGO_BIN_EXE_coteried"))
        .args(["--name", member, "--lockdown", "on"])
        .arg("--token")
        .arg(at("token"))
        .arg("--bundle")
        .arg(at("bundle"))
        .arg("--keys")
        .arg(at("keys"))
        .arg("--state")
        .arg(at(member))
        .arg("--socket")
        .arg(at("coteried.sock"))
}

#[test]
fn a_machine_with_a_token_delivers_its_first_packet_in_120_ms() {
    within_namespaces(|| {
        let mut site = Site::new(&[("two", &["both"])]);
        site.start();
        let gate = Gate::new(&site);
        let fresh = ["192.0.2.77/24".parse().expect("an address")];
        let fresh = site.lab.host("fresh", &site.bridge, &fresh).expect("a host");
        fresh
            .write_file("token", gate.token.to_text().as_bytes())
            .expect("a file");
        let server = SocketAddr::new(site.machine("two").inside, 7007);
        let stop = AtomicBool::new(false);
        let (machine, issuer) = (&site.machines[0], &mut site.issuer);
        std::thread::scope(|scope| {
            let (gate, stop) = (&gate, &stop);
            let _stop = Stop(stop);
            scope.spawn(move || {
                let serve = || gate.serve(issuer, &name("two"), stop);
                gate.host.within(serve).expect("within the host");
            });
            scope.spawn(move || machine.host.within(|| echo(server, stop)).expect("within the host"));
            let mut times = Vec::new();
            for round in 0..ROUNDS {
                let member = format!("web-{round}");
                let started = Instant::now();
                let child = command(&fresh, &member).spawn().expect("coteried starts");
                fresh.within(|| first_answer(server)).expect("within the host");
                times.push(started.elapsed());
                child.kill().expect("killed");
                // It is a member now, and comes back as the same one without the token.
                if round == 0 {
                    fresh.write_file("token", b"spent").expect("a file");
                    let child = command(&fresh, &member).spawn().expect("coteried starts");
                    fresh.within(|| first_answer(server)).expect("within the host");
                    child.kill().expect("killed");
                    assert!(child.stderr().contains("recovered"), "{}", child.stderr());
                    fresh
                        .write_file("token", gate.token.to_text().as_bytes())
                        .expect("a file");
                }
            }
            gate.refuses.store(true, Ordering::Relaxed);
            let refused = command(&fresh, "web-no")
                .deadline(DEADLINE)
                .run()
                .expect("coteried runs");
            times.sort_unstable();
            eprintln!(
                "start with a token to first delivered packet: median {:?}, all {times:?}",
                times[ROUNDS / 2]
            );
            assert!(times[ROUNDS / 2] <= Duration::from_millis(120), "{times:?}");
            assert!(
                !refused.is_success() && refused.stderr.contains("refuses this machine"),
                "{refused:?}"
            );
        });
        let members: Vec<_> = site.issuer.members().map(|(name, _)| name.to_string()).collect();
        assert_eq!(members.len(), ROUNDS + 1, "{members:?}");
        assert!(
            site.issuer
                .members()
                .all(|(_, m)| m.addresses.iter().all(IpAddr::is_ipv4) || m.addresses.len() == 2)
        );
    });
}

/// The identifier of an enrolment to come.
fn draw(entropy: &mut dyn coterie_crypto::Entropy) -> coterie_model::MemberId {
    let mut member = coterie_model::MemberId::default();
    entropy.fill(&mut member.0);
    member
}
