//! A server on the loopback with a certificate of its own authority, that answers what the path says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::RootCertStore;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The name in the server's certificate, beside 127.0.0.1.
pub(crate) const NAME: &str = "00112233445566778899aabbccddeeff.coterie.internal";

/// Who vouches for certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate (DER).
    pub(crate) certificate: Vec<u8>,
    /// The same in PEM.
    pub(crate) pem: String,
    /// Its Ed25519 key.
    pub(crate) key: [u8; 32],
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            key: key.public_key_raw().try_into().unwrap(),
            issuer: Issuer::new(params, key),
            certificate: certificate.der().to_vec(),
        }
    }

    /// A certificate for `names`, and its key as PKCS #8.
    pub(crate) fn issue(&self, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    }
}

/// What a server is to be.
pub(crate) struct Settings<'a> {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
    /// Whose clients alone are let in.
    pub(crate) clients: Option<&'a Authority>,
    pub(crate) groups: Vec<&'static dyn SupportedKxGroup>,
    pub(crate) protocol: &'static [u8],
}

impl<'a> Settings<'a> {
    /// An ordinary server of `authority`, which sends its chain to the root.
    pub(crate) fn of(authority: &Authority) -> Self {
        let (leaf, key) = authority.issue(&[NAME, "127.0.0.1"]);
        Self {
            chain: vec![leaf, authority.certificate.clone()],
            key,
            clients: None,
            groups: aws_lc_rs::default_provider().kx_groups,
            protocol: b"h2",
        }
    }

    /// Starts it; it ends with the test's runtime.
    pub(crate) async fn start(self) -> SocketAddr {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = self.groups;
        let provider = Arc::new(provider);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from(authority.certificate.clone())).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = self.chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key));
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![self.protocol.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let tls = stream.get_ref().1;
                    let group = format!("{:?}", tls.negotiated_key_exchange_group().unwrap().name());
                    let certificates = tls.peer_certificates().map_or(0, <[_]>::len);
                    let facts = format!("{group} {certificates}");
                    let service = hyper::service::service_fn(move |request| answer(request, facts.clone()));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // How a connection of a test ends is seen by its client.
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        address
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn answer(request: Request<Incoming>, facts: String) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let whole = |text: Vec<u8>| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let response = match parts.uri.path() {
        "/echo" => {
            let header = parts.headers.get("x-test").map_or("", |value| value.to_str().unwrap());
            let text = format!("{} {} {header} ", parts.method, parts.uri);
            Response::new(whole([text.as_bytes(), &body].concat()))
        }
        "/facts" => Response::new(whole(facts.into_bytes())),
        "/problem" => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .header("content-type", "application/problem+json")
            .body(whole(
                br#"{"type":"about:blank","title":"t","status":404,"detail":"no such thing","code":"not-found","remedy":"look"}"#
                    .to_vec(),
            ))
            .unwrap(),
        "/failure" => Response::builder()
            .status(StatusCode::BAD_GATEWAY)
            .body(whole(b"oops".to_vec()))
            .unwrap(),
        "/silence" => std::future::pending().await,
        // The body as it was sent, in pieces of two bytes; with a query it breaks off before its end.
        "/pieces" => {
            let pieces = body.chunks(2).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
            let mut pieces: Vec<Result<_, std::io::Error>> = pieces.collect();
            if parts.uri.query().is_some() {
                pieces.push(Err(std::io::Error::other("broken off")));
            }
            Response::new(Pieces(pieces.into()).boxed())
        }
        other => panic!("no test asks for {other}"),
    };
    Ok(response)
}

/// Pieces that are all there.
struct Pieces(std::collections::VecDeque<Result<Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}
