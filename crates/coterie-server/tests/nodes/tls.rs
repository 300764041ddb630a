//! Certificates, as other programs see them.

use std::process::Command;

use coterie_api::v1::node_server_name;
use coterie_model::EnclaveId;

use crate::site::{Machine, Site};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_server_use_the_hybrid_key_exchange_alone() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    let mut machine = Machine::new("web-1", &token);
    machine.enrol(&token).await.unwrap();
    assert!(machine.member().await.is_ok());

    // A program that has X25519 alone is not talked to, and one that names no enclave is not shown one's certificate.
    let shown = |name: &str, groups: &str| {
        let out = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &site.address.to_string(),
                "-servername",
                name,
                "-groups",
                groups,
                "-tls1_3",
            ])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl is there");
        String::from_utf8_lossy(&out.stdout).contains("BEGIN CERTIFICATE")
    };
    assert!(!shown(&node_server_name(token.enclave), "X25519"));
    assert!(shown("localhost", "X25519"));
    assert!(!shown(&node_server_name(EnclaveId([7; 16])), "X25519"));
}
