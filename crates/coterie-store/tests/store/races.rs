//! Many at once.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use coterie_store::{StoreError, TokenRefusal, TokenUse, Value};

use crate::site::{NOW, Site, add_change, member, name, static_key};

const USERS: u64 = 64;
const ROUNDS: u64 = 50;
/// Of an enrolment, from its beginning to its commit.
const STATEMENTS: u64 = 7;

/// One enrolment, as a server does it; true for one that got in.
async fn enrol(site: &Site, token: coterie_store::TokenId, n: u64) -> bool {
    let mut entropy = coterie_crypto::SeededEntropy::from_number(n);
    let mut w = site.store.write().await.unwrap();
    match w
        .use_token(token, member(n), &name("web-1"), "192.0.2.1".parse().unwrap(), NOW)
        .await
        .unwrap()
    {
        TokenUse::Refused(TokenRefusal::Spent) => return false,
        TokenUse::Refused(reason) => panic!("{reason}"),
        TokenUse::Used(_) => {}
    }
    w.put_record(
        site.enclave,
        "member",
        &n.to_string(),
        Value::Clear(b"state"),
        &mut entropy,
    )
    .await
    .unwrap();
    w.claim_static_key(site.enclave, member(n), &static_key(n))
        .await
        .unwrap();
    w.commit().await.unwrap();
    true
}

async fn winners(site: &Arc<Site>, token: coterie_store::TokenId, first: u64) -> u32 {
    let barrier = Arc::new(tokio::sync::Barrier::new(usize::try_from(USERS).unwrap()));
    let users: Vec<_> = (first..first + USERS)
        .map(|n| {
            let (site, barrier) = (Arc::clone(site), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                enrol(&site, token, n).await
            })
        })
        .collect();
    let mut winners = 0;
    for user in users {
        winners += u32::from(user.await.unwrap());
    }
    winners
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_users_of_a_single_use_token_one_gets_in_50_times() {
    let mut site = Site::new().await;
    let mut tokens = Vec::new();
    for _ in 0..ROUNDS {
        tokens.push(site.token(1).await);
    }
    let site = Arc::new(site);
    for (round, token) in (0..).zip(&tokens) {
        assert_eq!(winners(&site, *token, round * USERS).await, 1, "round {round}");
        let uses = site
            .store
            .read()
            .await
            .unwrap()
            .token_uses(site.enclave, *token)
            .await
            .unwrap();
        assert_eq!(uses.len(), 1, "round {round}");
    }
    let records = site.store.read().await.unwrap().records(site.enclave).await.unwrap();
    let members = records.iter().filter(|r| r.kind == "member").count();
    assert_eq!(u64::try_from(members).unwrap(), ROUNDS);
    assert!(site.store.check().await.unwrap().findings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_n_never_makes_one_more() {
    let mut site = Site::new().await;
    let uses = [2, 7, 63, 64, 65];
    let mut tokens = Vec::new();
    for n in uses {
        tokens.push(site.token(n).await);
    }
    let site = Arc::new(site);
    for (round, (token, uses)) in (0..).zip(tokens.into_iter().zip(uses)) {
        assert_eq!(winners(&site, token, 10_000 + round * USERS).await, uses.min(64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_change_the_same_version_one_does() {
    let site = Arc::new(Site::new().await);
    for round in 1..=20 {
        let writers: Vec<_> = (0..16)
            .map(|n| {
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    let mut w = site.store.write().await.unwrap();
                    match w.advance_enclave(site.tenant, site.enclave, round).await {
                        Ok(version) => {
                            assert_eq!(version, round + 1);
                            w.set_enclave_file(site.tenant, site.enclave, &n.to_string())
                                .await
                                .unwrap();
                            w.commit().await.unwrap();
                            Some(n)
                        }
                        Err(StoreError::Conflict { expected, found }) => {
                            assert_eq!((expected, found), (round, round + 1));
                            None
                        }
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            winners.extend(writer.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let enclave = site
            .store
            .read()
            .await
            .unwrap()
            .enclave(site.tenant, site.enclave)
            .await;
        assert_eq!(enclave.unwrap().unwrap().file, winners[0].to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_feed_while_it_grows_misses_nothing() {
    let site = Arc::new(Site::new().await);
    let writer = {
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            for n in 1..=100_u64 {
                let mut w = site.store.write().await.unwrap();
                add_change(&mut w, site.enclave, &n.to_string()).await.unwrap();
                if n % 10 == 0 {
                    drop(w);
                    continue;
                }
                w.commit().await.unwrap();
            }
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 90 {
        let mut r = site.store.read().await.unwrap();
        let after = seen.last().map_or(0, |change: &coterie_store::Change| change.revision);
        let coterie_store::Feed::Changes { changes, .. } = r.changes_since(site.enclave, after, 7).await.unwrap()
        else {
            panic!("nothing was pruned");
        };
        seen.extend(changes);
    }
    writer.await.unwrap();
    let expected: Vec<String> = (1..=100).filter(|n| n % 10 != 0).map(|n: u64| n.to_string()).collect();
    assert_eq!(seen.iter().map(|c| c.subject.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(
        seen.iter().map(|c| c.revision).collect::<Vec<_>>(),
        (1..=90).collect::<Vec<_>>()
    );
}

/// Waits for `future` for so many polls; then gives it up, with the database at work on what it asked (`at_once`), or with
/// the answer there and not taken. `None`: it was given up.
async fn within<T>(polls: u32, at_once: bool, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (Box::pin(future), polls);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 && at_once => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_given_up_at_whichever_step_leaves_nothing_half_done() {
    let mut site = Site::new().await;
    let token = site.token(100_000).await;
    let (mut heard, mut unheard, mut polls, mut n) = (0, 0, 0, 0);
    // Until one has so many polls that it gets to its end, again and again.
    while heard < 20 {
        polls += 1;
        for at_once in [true, false] {
            n += 1;
            let got_in = within(polls, at_once, enrol(&site, token, n)).await;
            let mut w = site.store.write().await.unwrap();
            let used = w.read().token(site.enclave, token).await.unwrap().unwrap().uses_made;
            let member_is_in = used > heard + unheard;
            heard += u32::from(got_in.is_some());
            // Given up while it committed: in, and nobody heard of it.
            unheard += u32::from(got_in.is_none() && member_is_in);
            assert_eq!(used, heard + unheard, "{n}");
            let record = w.read().record(site.enclave, "member", &n.to_string()).await.unwrap();
            let key = w.read().static_key(site.enclave, member(n)).await.unwrap();
            assert_eq!((record.is_some(), key.is_some()), (member_is_in, member_is_in), "{n}");
            w.commit().await.unwrap();
        }
    }
    let given_up = n - u64::from(heard);
    assert!(
        given_up >= STATEMENTS,
        "{given_up} cannot have been given up at every statement"
    );
    assert!(site.store.check().await.unwrap().findings.is_empty());
}
