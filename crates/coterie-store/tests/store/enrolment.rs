//! Tokens and the members that they make: names, knock keys, ephemeral members, tickets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use coterie_crypto::Secret;
use coterie_model::{EnclaveId, MemberId, Name, UnixTime};
use coterie_store::{NewToken, Read, Store, StoreError, TicketUse, TokenId, TokenRefusal, TokenUse, Write};

use crate::site::{HOUR, NOW, Site, member, name, new_token, root_key, tenant_with_enclave};

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

async fn uses(w: &mut Write, token: TokenId, who: MemberId, as_name: &str) -> TokenUse {
    w.use_token(token, who, &name(as_name), SOURCE, NOW).await.unwrap()
}

async fn live(r: &mut Read, enclave: EnclaveId, now: UnixTime) -> Vec<TokenId> {
    let tokens = r.live_tokens(enclave, now).await.unwrap();
    tokens.iter().map(|presented| presented.token.id).collect()
}

async fn token(w: &mut Write, site_enclave: EnclaveId, new: &NewToken<'_>, seed: u64) -> TokenId {
    let mut entropy = coterie_crypto::SeededEntropy::from_number(seed);
    w.create_token(site_enclave, new, NOW, &mut entropy).await.unwrap().0
}

#[tokio::test]
async fn a_token_for_one_name_makes_no_other() {
    let site = Site::new().await;
    let (template, db) = (name("web"), name("db-1"));
    let new = NewToken {
        member: Some(&db),
        ..new_token(&template, 1)
    };
    let mut w = site.store.write().await.unwrap();
    let id = token(&mut w, site.enclave, &new, 1).await;
    let refused = TokenUse::Refused(TokenRefusal::WrongMember);
    assert_eq!(uses(&mut w, id, member(1), "db-2").await, refused);
    let TokenUse::Used(used) = uses(&mut w, id, member(1), "db-1").await else {
        panic!("refused");
    };
    assert_eq!((used.member.as_ref(), used.uses_made), (Some(&db), 1));
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let records = r.token_uses(site.enclave, id).await.unwrap();
    let seen: Vec<_> = records.iter().map(|u| (u.member, u.name.clone(), u.ended)).collect();
    assert_eq!(seen, [(member(1), db, None)]);
    assert_eq!(r.token_of_member(site.enclave, member(1)).await.unwrap(), Some(used));
    assert_eq!(r.token_of_member(site.enclave, member(2)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_names_at_once_the_right_one_gets_in() {
    let site = Arc::new(Site::new().await);
    for round in 0..20 {
        let (template, right) = (name("web"), name(&format!("web-{}", round % 8)));
        let new = NewToken {
            member: Some(&right),
            ..new_token(&template, 1)
        };
        let mut w = site.store.write().await.unwrap();
        let id = token(&mut w, site.enclave, &new, round).await;
        w.commit().await.unwrap();
        // Each name twice.
        let users: Vec<_> = (0..16)
            .map(|n| {
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    let mut w = site.store.write().await.unwrap();
                    let got = uses(&mut w, id, member(round * 16 + n), &format!("web-{}", n % 8)).await;
                    w.commit().await.unwrap();
                    (n, got)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for user in users {
            match user.await.unwrap() {
                (n, TokenUse::Used(_)) => winners.push(n % 8),
                (n, TokenUse::Refused(TokenRefusal::WrongMember)) => assert_ne!(n % 8, round % 8),
                (n, TokenUse::Refused(reason)) => {
                    assert_eq!((n % 8, reason), (round % 8, TokenRefusal::Spent));
                }
            }
        }
        assert_eq!(winners, [round % 8], "round {round}");
    }
}

#[tokio::test]
async fn one_knocks_with_a_token_until_its_time_is_over_and_as_long_as_its_members_may_come_back() {
    let site = Site::new().await;
    let (id, template) = (site.enclave, name("web"));
    let mut w = site.store.write().await.unwrap();
    let mut tokens = Vec::new();
    for (seed, n) in [(1, 1), (2, 1), (3, 1), (4, 9)] {
        tokens.push(token(&mut w, id, &new_token(&template, n), seed).await);
    }
    let later = NOW.plus(2 * HOUR);
    let long = NewToken {
        not_after: later,
        ..new_token(&template, 1)
    };
    tokens.push(token(&mut w, id, &long, 5).await);
    let [spent, revoked, ticketless, open, long] = tokens[..] else {
        panic!("five");
    };
    let order = |mut expected: Vec<TokenId>| {
        expected.sort_by(|a, b| b.cmp(a));
        expected
    };
    let all = order(vec![spent, revoked, ticketless, open, long]);
    assert_eq!(live(w.read(), id, NOW).await, all);
    assert_eq!(live(w.read(), id, later).await, [long]);
    for (who, used) in [(1, spent), (2, revoked), (3, ticketless), (4, open)] {
        assert!(matches!(
            uses(&mut w, used, member(who), "web-1").await,
            TokenUse::Used(_)
        ));
    }
    let unspent_first = |rest: Vec<TokenId>| [order(vec![open, long]), order(rest)].concat();
    let by_use = unspent_first(vec![spent, revoked, ticketless]);
    assert_eq!(live(w.read(), id, NOW).await, by_use);
    assert_eq!(live(w.read(), id, later).await, [long], "what is over opens nothing");
    for (who, with) in [(1, spent), (2, revoked), (4, open)] {
        w.put_ticket(id, member(who), Some(with), &Secret::new([1; 32]), NOW)
            .await
            .unwrap();
    }
    let returning_first = [order(vec![open, long]), order(vec![spent, revoked]), vec![ticketless]].concat();
    assert_eq!(live(w.read(), id, NOW).await, returning_first);
    w.revoke_token(id, revoked, NOW).await.unwrap();
    let returning_first = [order(vec![open, long]), vec![spent, ticketless]].concat();
    assert_eq!(live(w.read(), id, NOW).await, returning_first);
    let presented = w.read().live_tokens(id, NOW).await.unwrap();
    for one in presented {
        let alone = w.read().presented_token(one.token.id).await.unwrap().unwrap();
        assert_eq!((one.tenant, one.token), (site.tenant, alone.token));
        assert_eq!(one.secret, alone.secret);
    }
    // A ticket that is used is still one that comes back with the token.
    let replaced = w
        .use_ticket(id, member(4), &Secret::new([1; 32]), &Secret::new([2; 32]), NOW)
        .await;
    assert_eq!(replaced.unwrap(), TicketUse::Replaced);
    let returning = [vec![long], order(vec![spent, open])].concat();
    assert_eq!(
        live(w.read(), id, later).await,
        returning,
        "one that ended makes no member"
    );
    let holders = w.read().ticket_holders(id).await.unwrap();
    let expected = [(1, spent), (2, revoked), (4, open)].map(|(who, with)| (member(who), Some(with)));
    assert_eq!(holders, expected);
    for who in [1, 4] {
        assert!(w.remove_ticket(id, member(who)).await.unwrap());
    }
    assert_eq!(live(w.read(), id, later).await, [long]);
}

#[tokio::test]
async fn the_newest_1024_tokens_are_enough_to_knock_with() {
    let site = Site::new().await;
    let mut entropy = coterie_crypto::SeededEntropy::from_number(1);
    let template = name("web");
    let mut w = site.store.write().await.unwrap();
    let mut newest = Vec::new();
    for n in 0..1_030 {
        let at = UnixTime(NOW.0 + n);
        let made = w
            .create_token(site.enclave, &new_token(&template, 1), at, &mut entropy)
            .await;
        newest.insert(0, made.unwrap().0);
    }
    newest.truncate(1_024);
    assert_eq!(live(w.read(), site.enclave, NOW).await, newest);
    let error = w.read().live_tokens(EnclaveId([9; 16]), NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
}

/// Machines that come and go by tokens of their own close the door to none that was there before them and comes back.
#[tokio::test]
async fn tokens_that_are_used_up_crowd_out_nobody_who_comes_back() {
    let site = Site::new().await;
    let (id, template) = (site.enclave, name("web"));
    let mut entropy = coterie_crypto::SeededEntropy::from_number(1);
    let mut w = site.store.write().await.unwrap();
    let first = token(&mut w, id, &new_token(&template, 1), 2).await;
    assert!(matches!(
        uses(&mut w, first, member(0), "web-0").await,
        TokenUse::Used(_)
    ));
    w.put_ticket(id, member(0), Some(first), &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    for n in 1..=1_024 {
        let at = UnixTime(NOW.0 + n);
        let made = w.create_token(id, &new_token(&template, 1), at, &mut entropy).await;
        let used = uses(&mut w, made.unwrap().0, member(n), &format!("web-{n}")).await;
        assert!(matches!(used, TokenUse::Used(_)));
    }
    let tokens = live(w.read(), id, NOW).await;
    assert_eq!((tokens.len(), tokens[0]), (1_024, first));
}

#[tokio::test]
async fn an_ephemeral_member_stays_one_until_it_is_gone_for_good() {
    let mut site = Site::new().await;
    let (id, template) = (site.enclave, name("web"));
    let short = NewToken {
        time_to_live: Some(HOUR),
        ..new_token(&template, 2)
    };
    let mut w = site.store.write().await.unwrap();
    let ephemeral = token(&mut w, id, &short, 1).await;
    let lasting = token(&mut w, id, &new_token(&template, 1), 2).await;
    for (who, used) in [(1, ephemeral), (2, ephemeral), (3, lasting)] {
        assert!(matches!(
            uses(&mut w, used, member(who), "web-1").await,
            TokenUse::Used(_)
        ));
    }
    w.put_ticket(id, member(1), Some(ephemeral), &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    w.revoke_token(id, ephemeral, NOW).await.unwrap();
    w.commit().await.unwrap();

    // A restore changes nothing of it.
    let (backup, new) = (site.dir.path().join("backup"), site.dir.path().join("new"));
    site.store.backup(&backup, root_key()).await.unwrap();
    Store::restore(&backup, &new, root_key(), NOW, &mut site.entropy)
        .await
        .unwrap();
    let store = Store::open(&new, root_key(), NOW, &mut site.entropy).await.unwrap();
    let mut w = store.write().await.unwrap();
    let both = [(member(1), HOUR), (member(2), HOUR)];
    assert_eq!(w.read().ephemeral(id).await.unwrap(), both);
    assert_eq!(
        w.read().ticket_holders(id).await.unwrap(),
        [(member(1), Some(ephemeral))]
    );
    for removed in [ephemeral, lasting] {
        let error = w.remove_token(id, removed).await.unwrap_err();
        assert!(matches!(error, StoreError::NotEmpty { what: "token", .. }), "{error}");
    }
    assert!(w.forget_use(id, member(1), NOW).await.unwrap());
    assert!(w.forget_use(id, member(1), NOW.plus(HOUR)).await.unwrap());
    assert!(!w.forget_use(id, member(9), NOW).await.unwrap());
    assert_eq!(w.read().ephemeral(id).await.unwrap(), both[1..]);
    let last = w.read().last_ended(id, &name("web-1")).await.unwrap();
    assert_eq!(last, Some(NOW), "the first time is kept");
    assert_eq!(w.read().last_ended(id, &name("web-2")).await.unwrap(), None);
    assert_eq!(
        w.read().last_ended(EnclaveId([9; 16]), &name("web-1")).await.unwrap(),
        None
    );
    let ended: Vec<_> = w.read().token_uses(id, ephemeral).await.unwrap();
    assert_eq!(
        ended.iter().map(|u| u.ended).collect::<Vec<_>>(),
        [Some(NOW), None],
        "the first time is kept"
    );
    w.forget_use(id, member(2), NOW).await.unwrap();
    assert!(w.read().ephemeral(id).await.unwrap().is_empty());
    let error = w.remove_token(id, ephemeral).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotEmpty { .. }),
        "there is a ticket: {error}"
    );
    w.remove_ticket(id, member(1)).await.unwrap();
    w.remove_token(id, ephemeral).await.unwrap();
    assert_eq!(w.read().token_of_member(id, member(1)).await.unwrap(), None);
    w.commit().await.unwrap();
    assert!(store.check().await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn a_member_is_made_once_and_a_token_is_of_one_enclave() {
    let mut site = Site::new().await;
    let template = name("web");
    let new = NewToken {
        time_to_live: Some(HOUR),
        ..new_token(&template, 5)
    };
    let mut w = site.store.write().await.unwrap();
    let (_, other) = tenant_with_enclave(&mut w, "bravo", "prod", &mut site.entropy).await;
    let own = token(&mut w, site.enclave, &new, 1).await;
    let second = token(&mut w, site.enclave, &new, 2).await;
    let theirs = token(&mut w, other, &new, 3).await;
    assert!(matches!(uses(&mut w, own, member(1), "web-1").await, TokenUse::Used(_)));
    assert!(matches!(
        uses(&mut w, theirs, member(1), "web-1").await,
        TokenUse::Used(_)
    ));
    let label: Name = name("web-1");
    let error = w.use_token(second, member(1), &label, SOURCE, NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    let refused = w.read().token(site.enclave, second).await.unwrap().unwrap();
    assert_eq!(refused.uses_made, 0, "what is refused does not count");
    let error = w
        .put_ticket(site.enclave, member(1), Some(theirs), &Secret::new([1; 32]), NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    w.put_ticket(site.enclave, member(1), Some(own), &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    assert!(w.forget_use(site.enclave, member(1), NOW).await.unwrap());
    let r = w.read();
    assert!(r.ephemeral(site.enclave).await.unwrap().is_empty());
    assert_eq!(r.ephemeral(other).await.unwrap(), [(member(1), HOUR)]);
    assert!(r.ticket_holders(other).await.unwrap().is_empty());
    let made_by = r.token_of_member(other, member(1)).await.unwrap().unwrap();
    assert_eq!(made_by.id, theirs);
    assert!(!live(r, site.enclave, NOW).await.contains(&theirs));
    assert_eq!(live(r, other, NOW).await, [theirs]);
    assert!(r.token_uses(other, own).await.unwrap().is_empty());
    let error = w.remove_token(other, own).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    w.remove_enclave(site.tenant, site.enclave).await.unwrap();
    w.commit().await.unwrap();
    assert!(site.store.check().await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn who_comes_back_goes_on_as_the_member_that_its_token_made() {
    let site = Site::new().await;
    let id = site.enclave;
    let template = name("web");
    let new = NewToken {
        time_to_live: Some(HOUR),
        ..new_token(&template, 2)
    };
    let mut w = site.store.write().await.unwrap();
    let ephemeral = token(&mut w, id, &new, 1).await;
    for who in [1, 2] {
        let used = uses(&mut w, ephemeral, member(who), "web-1").await;
        assert!(matches!(used, TokenUse::Used(_)), "{used:?}");
    }
    assert!(w.renew_use(id, member(1), member(3)).await.unwrap());
    assert_eq!(
        w.read().ephemeral(id).await.unwrap(),
        [(member(2), HOUR), (member(3), HOUR)]
    );
    let made_by = w.read().token_of_member(id, member(3)).await.unwrap().unwrap();
    assert_eq!((made_by.id, made_by.uses_made), (ephemeral, 2), "it is no further use");
    let error = w.renew_use(id, member(2), member(3)).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    // Who is gone, was another enclave's, or was made by no token, does not come back by it.
    w.forget_use(id, member(2), NOW).await.unwrap();
    for gone in [member(1), member(2), member(9)] {
        assert!(!w.renew_use(id, gone, member(4)).await.unwrap());
    }
    let other = EnclaveId([9; 16]);
    assert!(!w.renew_use(other, member(3), member(4)).await.unwrap());
    w.commit().await.unwrap();
    assert!(site.store.check().await.unwrap().findings.is_empty());
}

/// Tokens that ended long ago are forgotten, but for those that are still needed.
#[tokio::test]
async fn tokens_that_ended_are_forgotten_when_nobody_needs_them() {
    let site = Site::new().await;
    let (id, template) = (site.enclave, name("web"));
    let mut w = site.store.write().await.unwrap();
    let brief = NewToken {
        not_after: NOW.plus(HOUR),
        ..new_token(&template, 9)
    };
    let mut tokens = Vec::new();
    for n in 0..6 {
        tokens.push(token(&mut w, id, &brief, n).await);
    }
    let lasting = NewToken {
        not_after: NOW.plus(HOUR * 99),
        ..new_token(&template, 9)
    };
    for n in 6..8 {
        tokens.push(token(&mut w, id, &lasting, n).await);
    }
    // 0 made nobody, 1 somebody who is gone, 2 somebody who is there, 3 somebody who went lately, 4 somebody with a ticket, 5 was
    // revoked, 6 lasts, 7 would but was revoked.
    for (n, token) in (1..5).zip(&tokens[1..]) {
        uses(&mut w, *token, member(n), &format!("web-{n}")).await;
    }
    let late = NOW.plus(HOUR * 50);
    for (n, ended) in [(1, NOW), (3, late), (4, NOW)] {
        assert!(w.forget_use(id, member(n), ended).await.unwrap());
    }
    w.put_ticket(id, member(4), Some(tokens[4]), &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    for n in [5, 7] {
        w.revoke_token(id, tokens[n], NOW).await.unwrap();
    }
    assert_eq!(w.prune_tokens(id, NOW).await.unwrap(), 0, "nothing ended before");
    assert_eq!(w.prune_tokens(EnclaveId([9; 16]), late).await.unwrap(), 0);
    assert_eq!(w.prune_tokens(id, late).await.unwrap(), 4);
    let left: Vec<_> = w.read().tokens(id).await.unwrap().into_iter().map(|t| t.id).collect();
    let needed: Vec<_> = [2, 3, 4, 6].map(|n| tokens[n]).into();
    assert_eq!(BTreeSet::from_iter(left), BTreeSet::from_iter(needed));
    assert_eq!(w.prune_tokens(id, late).await.unwrap(), 0, "once more does no harm");
    assert!(w.read().token_uses(id, tokens[1]).await.unwrap().is_empty());
    assert_eq!(
        w.prune_tokens(id, NOW.plus(HOUR * 60)).await.unwrap(),
        1,
        "who went lately, later"
    );
}
