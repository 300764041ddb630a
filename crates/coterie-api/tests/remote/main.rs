//! The client against a server on the loopback.
#![expect(clippy::unwrap_used, reason = "the functions beside the tests are tests too")]

mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coterie_api::remote::{Connection, Identity, RemoteError, Response, Root, Tls, Trust, dial};
use http::{HeaderMap, HeaderValue, Method};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use server::{Authority, NAME, Settings};

async fn connect(address: std::net::SocketAddr, name: &str, tls: &Tls) -> Result<Connection, RemoteError> {
    let stream = dial("127.0.0.1", address.port()).await?;
    Connection::open(stream, name, tls).await
}

fn trusting(authority: &Authority) -> Tls {
    Tls::new(Trust::Authority(vec![authority.certificate.clone()]), None, false).unwrap()
}

async fn get(connection: &Connection, path: &str) -> Result<Response, RemoteError> {
    connection
        .request(Method::GET, path, HeaderMap::new(), Bytes::new(), 1_000)
        .await
}

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

/// A connection to an ordinary server.
async fn connected() -> Connection {
    let authority = Authority::new();
    let address = Settings::of(&authority).start().await;
    connect(address, NAME, &trusting(&authority)).await.unwrap()
}

#[tokio::test]
async fn requests_go_there_and_back_by_name_and_by_address() {
    let authority = Authority::new();
    let address = Settings::of(&authority).start().await;
    for name in [NAME, "127.0.0.1"] {
        let connection = connect(address, name, &trusting(&authority)).await.unwrap();
        let headers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("x-test"),
            HeaderValue::from_static("h"),
        )]);
        let path = "/echo?wait=1";
        let response = connection
            .request(Method::PUT, path, headers, Bytes::from_static(b"body"), 1_000)
            .await
            .unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(text(&response), format!("PUT https://{name}/echo?wait=1 h body"));
        let facts = get(&connection, "/facts").await.unwrap();
        assert_eq!(text(&facts), "X25519MLKEM768 0", "the hybrid exchange comes first");
    }
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let connection = connected().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let connection = connection.clone();
        tasks.spawn(async move {
            let path = format!("/echo?{n}");
            let response = get(&connection, &path).await.unwrap();
            assert!(text(&response).contains(&path));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_that_vouches_for_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let address = Settings::of(&authority).start().await;
    let error = connect(address, NAME, &trusting(&other)).await.unwrap_err();
    assert!(matches!(error, RemoteError::NotTheServer { .. }), "{error:?}");
    let error = connect(address, "elsewhere.example", &trusting(&authority))
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::NotTheServer { .. }), "{error:?}");
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
}

#[tokio::test]
async fn a_server_is_trusted_by_the_root_that_it_shows() {
    let authority = Authority::new();
    let address = Settings::of(&authority).start().await;
    let key = authority.key;
    let certificate = authority.certificate.clone();
    let check = move |root: Root<'_>| root.ed25519 == Some(&key) && root.certificate == certificate;
    let pinned = Tls::new(Trust::Root(Arc::new(check)), None, true).unwrap();
    let connection = connect(address, NAME, &pinned).await.unwrap();
    assert_eq!(text(&get(&connection, "/facts").await.unwrap()), "X25519MLKEM768 0");

    let error = connect(address, "elsewhere.example", &pinned).await.unwrap_err();
    assert!(matches!(error, RemoteError::NotTheServer { .. }), "{error:?}");

    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let refuse = move |root: Root<'_>| {
        *noted.lock().unwrap() = Some(root.certificate.to_vec());
        false
    };
    let refusing = Tls::new(Trust::Root(Arc::new(refuse)), None, true).unwrap();
    let error = connect(address, NAME, &refusing).await.unwrap_err();
    assert!(matches!(error, RemoteError::NotTheServer { .. }), "{error:?}");
    assert_eq!(seen.lock().unwrap().as_deref(), Some(authority.certificate.as_slice()));
}

#[tokio::test]
async fn a_root_that_vouches_for_nothing_is_worth_nothing() {
    let (pinned, evil) = (Authority::new(), Authority::new());
    let key = pinned.key;
    let tls = Tls::new(
        Trust::Root(Arc::new(move |root: Root<'_>| root.ed25519 == Some(&key))),
        None,
        false,
    )
    .unwrap();
    // Who is not the server knows the root's certificate, but has only its own authority's signature.
    let mut settings = Settings::of(&evil);
    settings.chain = vec![settings.chain[0].clone(), pinned.certificate.clone()];
    let mut with_both = Settings::of(&evil);
    with_both.chain.push(pinned.certificate.clone());
    let mut alone = Settings::of(&pinned);
    alone.chain.truncate(1);
    for settings in [settings, with_both, alone, Settings::of(&evil)] {
        let address = settings.start().await;
        let error = connect(address, NAME, &tls).await.unwrap_err();
        assert!(matches!(error, RemoteError::NotTheServer { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_client_appears_as_who_it_is() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let mut settings = Settings::of(&authority);
    settings.clients = Some(&clients);
    let address = settings.start().await;
    let trust = || Trust::Authority(vec![authority.certificate.clone()]);
    let identity = |of: &Authority| {
        let (certificate, key) = of.issue(&["web-1"]);
        Identity {
            chain: vec![certificate],
            key: zeroize::Zeroizing::new(key),
        }
    };
    let tls = Tls::new(trust(), Some(identity(&clients)), true).unwrap();
    let connection = connect(address, NAME, &tls).await.unwrap();
    assert_eq!(text(&get(&connection, "/facts").await.unwrap()), "X25519MLKEM768 1");

    for (who, identity) in [("nobody", None), ("a stranger", Some(identity(&others)))] {
        let tls = Tls::new(trust(), identity, false).unwrap();
        // What the server says may be overtaken by its closing the connection, on which a request is being written.
        let mut is_told = false;
        for _ in 0..50 {
            let error = match connect(address, NAME, &tls).await {
                Ok(connection) => get(&connection, "/facts").await.unwrap_err(),
                Err(error) => error,
            };
            is_told |= matches!(error, RemoteError::NotAccepted { .. });
            let is_cut_off = matches!(error, RemoteError::NotAccepted { .. } | RemoteError::Broken { .. });
            assert!(is_cut_off, "{who}: {error:?}");
        }
        assert!(is_told, "{who}");
    }

    let (certificate, _) = clients.issue(&["web-1"]);
    let (_, key) = clients.issue(&["web-1"]);
    let mixed = Identity {
        chain: vec![certificate],
        key: zeroize::Zeroizing::new(key),
    };
    let error = Tls::new(trust(), Some(mixed), false).unwrap_err();
    assert!(matches!(error, RemoteError::Settings { .. }), "{error:?}");
}

#[tokio::test]
async fn only_hybrid_means_only_hybrid() {
    let authority = Authority::new();
    let mut settings = Settings::of(&authority);
    settings.groups = vec![kx_group::X25519];
    let address = settings.start().await;
    let trust = Trust::Authority(vec![authority.certificate.clone()]);
    let error = connect(address, NAME, &Tls::new(trust, None, true).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Tls { .. }), "{error:?}");
    let connection = connect(address, NAME, &trusting(&authority)).await.unwrap();
    assert_eq!(text(&get(&connection, "/facts").await.unwrap()), "X25519 0");
}

#[tokio::test]
async fn errors_of_the_server_are_told_apart() {
    let connection = connected().await;
    let response = get(&connection, "/problem").await.unwrap();
    assert_eq!(response.status, 404);
    let error = response.accepted().unwrap_err();
    assert_eq!(error.code(), Some("not-found"));
    assert_eq!(error.to_string(), "no such thing; look");
    let error = get(&connection, "/failure").await.unwrap().accepted().unwrap_err();
    assert!(matches!(error, RemoteError::Unexpected { .. }), "{error:?}");
    assert!(error.to_string().contains("502"), "{error}");
    let error = get(&connection, "/facts").await.unwrap().json::<Vec<u8>>().unwrap_err();
    assert!(matches!(error, RemoteError::Unexpected { .. }), "{error:?}");
    let error = connection
        .stream(Method::GET, "/problem", HeaderMap::new(), Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("not-found"));
}

#[tokio::test]
async fn no_more_is_read_than_was_asked_for_and_nobody_waits_for_ever() {
    let connection = connected().await;
    let ask = |limit| {
        let body = Bytes::from(vec![7; 100]);
        connection.request(Method::POST, "/pieces", HeaderMap::new(), body, limit)
    };
    assert_eq!(ask(100).await.unwrap().body.len(), 100);
    let error = ask(99).await.unwrap_err();
    assert!(matches!(error, RemoteError::TooLong { limit: 99, .. }), "{error:?}");
    let error = get(&connection.clone().answer_within(Duration::from_millis(50)), "/silence")
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Timeout { .. }), "{error:?}");
    assert_eq!(get(&connection, "/facts").await.unwrap().status, 200, "it goes on");
}

#[tokio::test]
async fn messages_of_a_stream_come_whole() {
    let connection = connected().await;
    let follow = |path: &'static str, sent: &[&[u8]]| {
        let sent = sent.concat();
        let connection = connection.clone();
        async move {
            let stream = connection.stream(Method::POST, path, HeaderMap::new(), Bytes::from(sent));
            stream.await.unwrap().frames(5)
        }
    };
    let mut frames = follow(
        "/pieces",
        &[&[0, 0, 0, 5], b"hello", &[0, 0, 0, 0], &[0, 0, 0, 1], b"!"],
    )
    .await;
    for expected in [&b"hello"[..], b"", b"!"] {
        assert_eq!(frames.next().await.unwrap().unwrap(), expected);
    }
    assert!(frames.next().await.unwrap().is_none());

    let mut frames = follow("/pieces", &[&[0, 0, 0, 1], b"a", &[0, 0, 0, 6], b"longer"]).await;
    assert_eq!(frames.next().await.unwrap().unwrap(), "a".as_bytes());
    let error = frames.next().await.unwrap_err();
    assert!(matches!(error, RemoteError::TooLong { limit: 5, .. }), "{error:?}");

    let mut frames = follow("/pieces", &[&[0, 0, 0, 3], b"ab"]).await;
    let error = frames.next().await.unwrap_err();
    assert!(matches!(error, RemoteError::Broken { .. }), "{error:?}");

    // The news of the end may overtake the beginning.
    let sent = Bytes::from_static(&[0, 0, 0, 1, b'a']);
    let read = async {
        let stream = connection.stream(Method::POST, "/pieces?broken", HeaderMap::new(), sent);
        let mut frames = stream.await?.frames(5);
        while let Some(message) = frames.next().await? {
            assert_eq!(message, "a".as_bytes());
        }
        Ok(())
    };
    let error: RemoteError = read.await.expect_err("what breaks off does not end");
    assert!(matches!(error, RemoteError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn who_is_no_server_is_told_from_one() {
    let authority = Authority::new();
    let tls = trusting(&authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = connect(address, NAME, &tls).await.unwrap_err();
    assert!(matches!(error, RemoteError::NotReachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    for said in [&b""[..], b"SSH-2.0-something\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let error = connect(address, NAME, &tls).await.unwrap_err();
        let is_told = matches!(error, RemoteError::Tls { .. } | RemoteError::Broken { .. });
        assert!(is_told, "{error:?}");
    }

    let mut settings = Settings::of(&authority);
    settings.protocol = b"http/1.1";
    let error = connect(settings.start().await, NAME, &tls).await.unwrap_err();
    assert!(matches!(error, RemoteError::Tls { .. }), "{error:?}");

    let error = connect(Settings::of(&authority).start().await, "not a name", &tls)
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Settings { .. }), "{error:?}");
}

#[test]
fn an_authority_comes_from_pem() {
    let authority = Authority::new();
    let pem = &authority.pem;
    let Trust::Authority(found) = Trust::from_pem([pem.as_bytes(), pem.as_bytes()].concat().as_slice()).unwrap() else {
        panic!("certificates are an authority");
    };
    assert_eq!(found, [authority.certificate.clone(), authority.certificate]);
    for bad in [
        &b""[..],
        b"text",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        assert!(matches!(Trust::from_pem(bad), Err(RemoteError::Settings { .. })));
    }
    let no_certificate = Trust::Authority(vec![vec![1, 2, 3]]);
    assert!(matches!(
        Tls::new(no_certificate, None, false),
        Err(RemoteError::Settings { .. })
    ));
}
