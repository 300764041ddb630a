//! Which community carries a session: one of a single member, and the choice between two that are shared.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use coterie_api::{Answer, Request, node::Explanation};
use coterie_lab::programs::Ping;

use super::{
    policy::Policy,
    report::Report,
    world::{Machine, World},
};
use crate::node;

/// How long a change may take to arrive.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("Communities, and the choice among them");
    report.check("vault, a community of db-1 alone", || vault(world));
    report.check("app-1 → db-1 shares two, as the example says", || {
        let verdict = agreed(world, Policy::Example)?;
        Ok(format!(
            "file, `coterie explain` and session say app-db; admin {verdict}"
        ))
    });
    for policy in [Policy::Priority, Policy::Members, Policy::Exclusion] {
        report.check(format!("app-1 → db-1, {}", policy.title()), || {
            world.decide(policy)?;
            let verdict = agreed(world, policy)?;
            world.decide(Policy::Example)?;
            agreed(world, Policy::Example)?;
            let (chosen, other, _) = policy.expected();
            Ok(format!(
                "file, `coterie explain` and session say {chosen}, {other} {verdict}; and {other} again when undone"
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

/// Policy, `explain` on the machine and the live session say the same; the verdict on the other community.
fn agreed(world: &World, policy: Policy) -> anyhow::Result<String> {
    let (app, db) = (world.machine("app-1")?, world.machine("db-1")?);
    let (expected, other, why) = policy.expected();
    let by_file = world.site.chosen("app-1", "db-1")?;
    ensure!(
        by_file.as_deref() == Some(expected),
        "`coterie explain --file` says {by_file:?}"
    );

    let in_force = app.host.wait_for("the new bundle in force", DEADLINE, || {
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
    let (installed, verdict) = in_force.with_context(|| format!("{:?}", explain(app, "db-1")))?;

    // A session keeps the choice that it was made with until its next rekey; a coteried that starts makes a new one.
    if installed.is_some_and(|installed| installed.as_str() != expected) {
        app.coteried.terminate();
        app.coteried.wait(DEADLINE)?;
        app.coteried.restart()?;
        app.await_ready()?;
    }
    let pinged = Ping::new(db.inside[0])
        .canary(world.canary.as_bytes())
        .from(&app.host)?;
    ensure!(pinged.is_success(), "ping got no answer");
    let is_installed = || {
        explain(app, "db-1")
            .ok()?
            .installed
            .filter(|installed| installed.as_str() == expected)
    };
    let session = app.host.wait_for("a session by the choice", DEADLINE, is_installed);
    session.with_context(|| format!("{:?}", explain(app, "db-1").map(|e| e.installed)))?;
    Ok(verdict)
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
