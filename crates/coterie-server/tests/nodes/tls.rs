//! Certificates, as other programs see them.

use std::process::Command;

use coterie_api::v1::{self, node_server_name};
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

/// After the trust anchor was replaced, machines that know only the old root come in, and those that know only the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_is_found_by_who_knows_the_old_one() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut member = Machine::new("web-1", &owner.token("web", 1).await);
    let token = owner.token("web", 1).await;
    member.enrol(&token).await.unwrap();
    let before = owner.token("web", 2).await;
    let rotated: v1::RootRotated = owner.post("/v1/enclaves/shop/root/rotate", &()).await.unwrap();
    assert_ne!(rotated.root_hash, rotated.previous_root_hash);
    // The certificates for nodes are made anew within a second.
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        let after = owner.token("web", 1).await;
        while Machine::new("web-2", &after).enrol(&after).await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("who knows the new root comes in");
    assert!(
        Machine::new("web-3", &before).enrol(&before).await.is_some(),
        "who knows the old root comes in"
    );
    member.renew().await.unwrap();
    let _stream = member.follow(0).await.unwrap();
}
