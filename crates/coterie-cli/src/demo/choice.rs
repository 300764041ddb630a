//! Which community carries a session: one of a single member, and the choice between two that are shared.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coterie_api::{Answer, Request, node::Explanation, v1::Installed};

use super::{
    policy::Policy,
    recovery::until_answered,
    report::Report,
    world::{Machine, World, ms},
};
use crate::node;

/// How long a change may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("Communities, and the choice among them as `coterie apply` changes it");
    report.check("vault, a community of db-1 alone", || vault(world));
    report.check("app-1 → db-1 shares two, as the example says", || {
        let agreed = agreed(world, Policy::Example)?;
        Ok(format!("policy, app-1 and db-1 say app-db; admin {}", agreed.verdict))
    });
    for policy in [Policy::Priority, Policy::Members, Policy::Exclusion, Policy::Example] {
        report.check(format!("app-1 → db-1, {}", policy.title()), || {
            let start = Instant::now();
            let applied = world.site.decide(policy)?;
            ensure!(applied.changed, "the server says that nothing changed");
            let agreed = agreed(world, policy)?;
            let (chosen, other, _) = policy.expected();
            let changes = applied.reach_total;
            let ways = if changes == 1 { "way" } else { "ways" };
            Ok(format!(
                "{changes} {ways} changed, known on app-1 {} after `apply`; policy, app-1 and db-1 say {chosen}; {other} {}",
                ms(agreed.at.duration_since(start)),
                agreed.verdict
            ))
        });
    }
}

/// The one member holds its key, nobody else hears of it.
fn vault(world: &World) -> anyhow::Result<String> {
    let mut holders = Vec::new();
    for machine in &world.machines {
        let status = machine.status()?;
        if let Some(vault) = status
            .communities
            .iter()
            .find(|community| community.name.as_str() == "vault")
        {
            ensure!(vault.holders == 1, "{} holders", vault.holders);
            ensure!(vault.epoch.is_some(), "db-1 has no key of it");
            holders.push(machine.name());
        }
    }
    ensure!(holders == ["db-1"], "held by {holders:?}");
    let explanation = explain(world.machine("app-1")?, "db-1")?;
    let hears = explanation
        .candidates
        .iter()
        .any(|candidate| candidate.community.as_str() == "vault");
    ensure!(!hears, "app-1 is told of it");
    Ok("1 holder, db-1; no other machine holds its key or is told of it".to_owned())
}

/// What all agree on.
struct Agreed {
    /// What became of the other community.
    verdict: String,
    /// When the sender knew.
    at: Instant,
}

/// Policy on the server, the sender, the receiver and the live session say the same.
fn agreed(world: &World, policy: Policy) -> anyhow::Result<Agreed> {
    let (app, db) = (world.machine("app-1")?, world.machine("db-1")?);
    let (expected, other, why) = policy.expected();
    let known = app.host.wait_for("the new policy", DEADLINE, || {
        let explanation = explain(app, "db-1").ok()?;
        let is_chosen = explanation
            .chosen
            .as_ref()
            .is_some_and(|chosen| chosen.as_str() == expected);
        let verdict = explanation
            .candidates
            .iter()
            .find(|candidate| candidate.community.as_str() == other);
        let verdict = verdict?.verdict.clone();
        (is_chosen && verdict.contains(why)).then_some((explanation.installed, verdict))
    });
    let (installed, verdict) = known.with_context(|| format!("{:?}; {}", explain(app, "db-1"), app.said()))?;
    let at = Instant::now();

    // A session keeps the choice that it was made with until its next rekey; a coteried that starts makes a new one.
    if installed.is_some_and(|installed| installed.as_str() != expected) {
        app.coteried.terminate();
        app.coteried.wait(DEADLINE)?;
        app.coteried.restart()?;
        app.await_ready()?;
        world.await_following(&["app-1"])?;
    }
    // The receiver may learn later than the sender.
    until_answered(world, app, db, at)?;
    let explained = world.site.explain("app-1", "db-1")?;
    let chosen = explained.policy.chosen.as_ref().map(|chosen| chosen.as_str());
    ensure!(chosen == Some(expected), "by the server's policy it is {chosen:?}");
    for (name, side) in [("app-1", &explained.from), ("db-1", &explained.to)] {
        let Installed::Told(explanation) = side else {
            anyhow::bail!("{name} does not say what it has: {side:?}");
        };
        let installed = explanation.installed.as_ref().map(|installed| installed.as_str());
        ensure!(installed == Some(expected), "{name} has a session in {installed:?}");
    }
    Ok(Agreed { verdict, at })
}

fn explain(machine: &Machine, destination: &str) -> anyhow::Result<Explanation> {
    let answer = machine.call(&Request::Explain {
        destination: destination.to_owned(),
    })?;
    let Answer::Explanation(explanation) = answer else {
        return Err(node::unexpected(&answer));
    };
    Ok(explanation)
}
