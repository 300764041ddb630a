//! From a token to the first packet, with the real server.

#![expect(
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that measures says what"
)]

use std::time::{Duration, Instant};

use coterie_api::{Answer, Client, Request};
use coterie_lab::{wait_for, within_namespaces};

use crate::{FILE, site::Site};

const ROUNDS: usize = 9;

/// Start of `coteried` with a token to the first packet that another member answers: median of nine within 120 ms.
#[test]
fn from_start_to_the_first_delivered_packet_it_is_120_ms() {
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("web", "web-1");
        let mut took: Vec<Duration> = (2..2 + ROUNDS).map(|n| first_packet(&mut site, n)).collect();
        took.sort_unstable();
        println!("start with a token to first delivered packet: {took:?}");
        assert!(took[ROUNDS / 2] <= Duration::from_millis(120), "median of {took:?}");
    });
}

fn first_packet(site: &mut Site, n: usize) -> Duration {
    let member = format!("web-{n}");
    let target = site.machine("web-1").inside();
    let place = site.bare(&member);
    let token = site.token("web", &member);
    let machine = &mut site.machines[place];
    machine.host.write_file("token", &token).expect("a file");
    let began = Instant::now();
    machine.start_again();
    let host = machine.host.clone();
    // Whoever asks too early is told at once; so it is asked again until an answer comes.
    let answered = host.within(|| {
        let ends = began + Duration::from_secs(10);
        loop {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bound");
            socket.set_read_timeout(Some(Duration::from_millis(2))).expect("set");
            // A closed port answers by ICMP, and only a member delivers that.
            let asked = socket.connect((target, 9)).and_then(|()| socket.send(b"?"));
            if asked.is_ok() {
                match socket.recv(&mut [0; 8]) {
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return began.elapsed(),
                    _ => {}
                }
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(Instant::now() < ends, "no answer");
        }
    });
    answered.expect("the host is there")
}

/// The state of members as the server has it follows their lives.
#[test]
fn the_server_sees_who_comes_and_goes() {
    use coterie_api::v1::MemberState;
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("web", "web-1");
        let is = |site: &Site, state: MemberState| site.member("web-1").state == state;
        wait_for("it to follow", Duration::from_secs(10), || {
            is(&site, MemberState::Connected).then_some(())
        })
        .expect("it follows");
        site.machine_mut("web-1")
            .daemon
            .take()
            .expect("it runs")
            .kill()
            .expect("it is killed");
        wait_for("it to be away", Duration::from_secs(10), || {
            is(&site, MemberState::Enrolled).then_some(())
        })
        .expect("it is away");
        // It comes back as who it was: the spent token is not needed.
        let before = site.member("web-1").member_id;
        site.machine_mut("web-1").start_again();
        site.machine("web-1").wait_ready();
        wait_for("it to follow again", Duration::from_secs(10), || {
            is(&site, MemberState::Connected).then_some(())
        })
        .expect("it follows again");
        assert_eq!(site.member("web-1").member_id, before);
    });
}

/// A machine whose membership is over is a member again once it is given another token; nobody has to restart it.
#[test]
fn a_machine_that_was_revoked_takes_the_next_token_that_it_is_given() {
    use coterie_api::v1;
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2").ping("web-1");
        let before = site.member("web-1");
        let cut = |how: &str| {
            let path = format!("/v1/enclaves/shop/members/web-1/{how}");
            let _cut: v1::CutOff = site.owner(async |owner| owner.post(&path, &()).await.unwrap());
        };
        cut("isolate");
        let request = Request::Explain {
            destination: before.addresses[0].to_string(),
        };
        let socket = site.machine("web-2").host.directory().join("coteried.sock");
        let answer = Client::connect(&socket).expect("a socket").call(&request);
        let Ok(Answer::Explanation(explanation)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(explanation.refused.as_deref(), Some("revoked"), "who asks why is told");
        cut("revoke");
        let token = site.token("web", "web-1");
        let machine = site.machine("web-1");
        machine.host.write_file("token", &token).expect("a file");
        wait_for("it to be a member again", Duration::from_secs(20), || {
            let members: Vec<v1::Member> = site.owner(async |owner| owner.members().await);
            let again = members.into_iter().find(|member| member.name == before.name)?;
            (again.state == v1::MemberState::Connected && again.member_id != before.member_id).then_some(())
        })
        .unwrap_or_else(|_late| panic!("{}", machine.daemon().stderr()));
        site.machine("web-2").ping("web-1");
    });
}
