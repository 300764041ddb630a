//! Programs that others wrote run on the lab's hosts, as root and in a user namespace alike.

use std::net::IpAddr;
use std::time::Duration;

use coterie_lab::programs::{Fetch, HttpProgram, HttpServer, IperfServer, Ping, Postgres, SshServer, Transfer};
use coterie_lab::{Host, Lab, LabError, LabOptions, within_namespaces};

/// Two hosts on a bridge, `client` first.
fn pair() -> (Lab, Host, Host) {
    let lab = Lab::new(LabOptions::default()).expect("a lab");
    let bridge = lab.bridge("rack-1").expect("a bridge");
    let host = |name: &str, v4: &str, v6: &str| {
        let addresses = [v4.parse().expect("an address"), v6.parse().expect("an address")];
        lab.host(name, &bridge, &addresses).expect("a host")
    };
    let (client, server) = (
        host("client", "192.0.2.1/24", "2001:db8::1/64"),
        host("server", "192.0.2.2/24", "2001:db8::2/64"),
    );
    (lab, client, server)
}

fn both(host: &Host) -> [IpAddr; 2] {
    [
        host.ipv4().expect("an IPv4 address"),
        host.ipv6().expect("an IPv6 address"),
    ]
}

/// What a program made, or `None` with a note when the machine lacks it.
fn installed<T>(result: Result<T, LabError>) -> Option<T> {
    match result {
        Ok(made) => Some(made),
        Err(error) if error.is_skip() && std::env::var_os("COTERIE_LAB_REQUIRED").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn curl_fetches_from_web_servers_over_both_families() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        let files: [(&str, &[u8]); 2] = [("page", b"contents of the page"), ("below/page", b"another")];
        for (program, port) in [(HttpProgram::Busybox, 80), (HttpProgram::Python, 8080)] {
            let Some(http) = installed(HttpServer::start_with(program, &server, port, &files)) else {
                return;
            };
            for address in both(&server) {
                let fetch = |path: &str| installed(Fetch::new(http.url(address, path)).from(&client));
                let Some(page) = fetch("page") else { return };
                assert!(page.is_success(), "{page:?}");
                assert_eq!(page.body, "contents of the page");
                assert_eq!(fetch("below/page").expect("curl is installed").body, "another");
                let absent = fetch("absent").expect("curl is installed");
                assert_eq!((absent.status, absent.is_success()), (Some(404), false), "{absent:?}");
            }
        }
    });
}

#[test]
fn curl_tells_a_refusal_from_silence() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        let Some(http) = installed(HttpServer::start(&server, 80, &[])) else {
            return;
        };
        http.child().kill().expect("the server ends");
        let fetch = Fetch::new(http.url(both(&server)[0], "page")).timeout(Duration::from_millis(300));
        let Some(refused) = installed(fetch.from(&client)) else {
            return;
        };
        assert!(refused.is_refused() && !refused.is_timeout(), "{refused:?}");
        server.link_down("eth0").expect("the link goes down");
        let silence = fetch.from(&client).expect("curl runs");
        assert!(silence.is_timeout() && !silence.is_refused(), "{silence:?}");
    });
}

#[test]
fn ping_tells_answers_from_silence_and_from_a_prohibition() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        for address in both(&server) {
            let Some(answered) = installed(Ping::new(address).count(5).from(&client)) else {
                return;
            };
            assert!(answered.is_success() && !answered.is_prohibited(), "{answered:?}");
            let [shortest, mean, longest] = answered.times.expect("times");
            assert!(
                shortest <= mean && mean <= longest && longest < Duration::from_secs(1),
                "{answered:?}"
            );
        }
        client
            .ip("route add prohibit 192.0.2.2/32\nroute add prohibit 2001:db8::2/128")
            .expect("routes");
        for address in both(&server) {
            let prohibited = Ping::new(address).from(&client).expect("ping runs");
            assert!(prohibited.is_prohibited() && !prohibited.is_success(), "{prohibited:?}");
            assert!(prohibited.took < Duration::from_secs(1), "{prohibited:?}");
        }
        client
            .ip("route del prohibit 192.0.2.2/32\nroute del prohibit 2001:db8::2/128")
            .expect("routes");
        server.link_down("eth0").expect("the link goes down");
        let silence = Ping::new(both(&server)[1])
            .timeout(Duration::from_millis(200))
            .from(&client)
            .expect("ping runs");
        assert!(
            !silence.is_success() && !silence.is_prohibited() && silence.received == 0,
            "{silence:?}"
        );
    });
}

#[test]
fn iperf3_measures_streams_and_datagrams() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        let Some(iperf) = installed(IperfServer::start(&server, 5201)) else {
            return;
        };
        let [v4, v6] = both(&server);
        let stream = Transfer::tcp(Duration::from_secs(1))
            .run(&client, &iperf, v6)
            .expect("a measurement");
        assert!(stream.bits_per_second > 1e8, "{stream:?}");
        let transfer = Transfer::udp(Duration::from_secs(1), 10_000_000).length(1000);
        let datagrams = transfer.run(&client, &iperf, v4).expect("a measurement");
        assert!((8e6..12e6).contains(&datagrams.bits_per_second), "{datagrams:?}");
        assert!(
            datagrams.datagrams > 1000 && datagrams.lost * 100 < datagrams.datagrams,
            "{datagrams:?}"
        );
        let nobody = Transfer::tcp(Duration::from_secs(1)).run(&server, &iperf, both(&client)[0]);
        assert!(matches!(nobody, Err(LabError::Command { .. })), "{nobody:?}");
    });
}

#[test]
fn ssh_runs_a_command_on_the_other_host() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        let Some(ssh) = installed(SshServer::start(&server, 2222)) else {
            return;
        };
        for address in both(&server) {
            let command = ssh
                .command(&client, address, "uname -n; whoami; cat")
                .expect("the client's files");
            let output = command.input("typed").run().expect("ssh runs");
            assert!(output.is_success(), "{output:?}\n{}", ssh.child().stderr());
            assert_eq!(output.stdout, "server\ntenant\ntyped");
        }
    });
}

#[test]
fn psql_asks_a_database() {
    within_namespaces(|| {
        let (_lab, client, server) = pair();
        let Some(postgres) = installed(Postgres::start(&server, 5432)) else {
            return;
        };
        let create = "create table t (n int); insert into t select generate_series(1, 100)";
        for (address, sql, expected) in [
            (both(&server)[0], create, "INSERT 0 100\n"),
            (both(&server)[1], "select sum(n), count(*) from t", "5050|100\n"),
        ] {
            let output = postgres.query(&client, address, sql).run().expect("psql runs");
            assert!(output.is_success(), "{output:?}");
            assert!(output.stdout.ends_with(expected), "{output:?}");
        }
    });
}

#[test]
fn a_program_that_is_not_installed_is_named_with_its_package() {
    within_namespaces(|| {
        let (_lab, client, _server) = pair();
        let error = client.run("no-such-program", &[]).expect_err("it is not installed");
        assert!(error.is_skip(), "{error}");
        assert!(
            error.to_string().contains("no-such-program is not installed"),
            "{error}"
        );
        assert_eq!(coterie_lab::programs::package_of("sshd"), "openssh-server");
    });
}
