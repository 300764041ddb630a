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

pub(super) fn check(world: &mut World, report: &mut Report) {
    report.section("Communities, and the choice among them");
    report.check("vault, a community of db-1 alone", || vault(world));
    report.check(format!("app-1 → db-1, {}", Policy::Example.title()), || {
        agreed(world, Policy::Example)
    });
    for policy in [Policy::Priority, Policy::Members, Policy::Exclusion] {
        report.check(format!("app-1 → db-1, {}", policy.title()), || {
            world.decide(policy)?;
            agreed(world, policy)
        });
    }
    report.check("app-1 → db-1, back to the example", || {
        world.decide(Policy::Example)?;
        agreed(world, Policy::Example)
    });
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

/// Policy, `explain` on the machine and the live session say the same.
fn agreed(world: &World, policy: Policy) -> anyhow::Result<String> {
    let (app, db) = (world.machine("app-1")?, world.machine("db-1")?);
    let (expected, other, why) = policy.expected();
    let by_file = world.site.chosen("app-1", "db-1")?;
    ensure!(
        by_file.as_deref() == Some(expected),
        "`coterie explain --file` says {by_file:?}"
    );

    let explanation = app.host.wait_for("the new bundle in force", DEADLINE, || {
        let explanation = explain(app, "db-1").ok()?;
        let chosen = explanation.chosen.as_ref().map(coterie_model::Name::as_str);
        (chosen == Some(expected)).then_some(explanation)
    });
    let explanation = match explanation {
        Ok(explanation) => explanation,
        Err(error) => return Err(error).with_context(|| format!("{:?}", explain(app, "db-1"))),
    };
    let verdict = explanation
        .candidates
        .iter()
        .find(|candidate| candidate.community.as_str() == other);
    let verdict = &verdict.with_context(|| format!("{other} is no candidate"))?.verdict;
    ensure!(verdict.contains(why), "{other} is {verdict}");

    // A session keeps the choice that it was made with until its next rekey; a coteried that starts makes a new one.
    let kept = explanation.installed.filter(|installed| installed.as_str() != expected);
    if kept.is_some() {
        app.coteried.terminate();
        app.coteried.wait(DEADLINE)?;
        app.coteried.restart()?;
        app.await_ready()?;
    }
    let pinged = Ping::new(db.inside[0])
        .canary(world.canary.as_bytes())
        .from(&app.host)?;
    ensure!(pinged.is_success(), "ping got no answer");
    let installed = app.host.wait_for("a session by the choice", DEADLINE, || {
        explain(app, "db-1")
            .ok()?
            .installed
            .filter(|installed| installed.as_str() == expected)
    });
    let installed = installed.with_context(|| format!("{:?}", explain(app, "db-1").map(|e| e.installed)))?;
    let kept = kept.map_or_else(String::new, |kept| format!(" (the session before kept {kept})"));
    Ok(format!(
        "file, `coterie explain` and session say {installed}{kept}; {other} {verdict}"
    ))
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
