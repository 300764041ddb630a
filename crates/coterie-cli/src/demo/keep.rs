//! `--keep`: the enclave stays, and people try it themselves.

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::world::{Programs, World};
use crate::output;

/// Prints what to try, and returns when the user has had enough.
pub(super) fn stay(world: &World, programs: &Programs, json: bool) -> anyhow::Result<()> {
    let enter = |name: &str| Ok::<_, anyhow::Error>(world.lab.enter_command(&world.machine(name)?.host)?);
    let coterie = programs.coterie.path.display();
    let mut text = String::from("\nIt stays up. In another terminal, as the same user, on a machine of the enclave:\n");
    let examples = [
        ("web-1", format!("{coterie} status")),
        ("web-1", "curl http://10.77.2.1:8080/page".to_owned()),
        (
            "web-1",
            "curl --max-time 5 http://10.77.3.1:8080/page   # told at once that it is prohibited".to_owned(),
        ),
        ("app-1", format!("{coterie} explain db-1")),
        ("app-1", format!("{coterie} ping db-2")),
        ("db-1", "tcpdump -ni eth0   # what is on the wire".to_owned()),
    ];
    for (name, command) in examples {
        text.push_str(&format!("  {} {command}\n", enter(name)?));
    }
    text.push_str("on the configuration server's, as the tenant's owner:\n");
    let config = world.lab.enter_command(&world.site.config)?;
    let home = world.site.home();
    for command in [
        "get members",
        "get communities",
        "explain web-1 app-1",
        "vm isolate app-2   # and: vm release app-2",
        "coi rotate-key web-app",
        "token create --template web",
        "audit tail --follow",
    ] {
        text.push_str(&format!("  {config} {home} {coterie} {command}\n"));
    }
    text.push_str("and on the neighbour's:\n");
    let neighbour = world.lab.enter_command(world.neighbour.host())?;
    text.push_str(&format!(
        "  {neighbour} tcpdump -Xni eth0\n  {neighbour} ping 192.0.2.11\n"
    ));
    text.push_str("A shell instead of a command:\n");
    for machine in &world.machines {
        text.push_str(&format!(
            "  {} {} sh\n",
            machine.name(),
            world.lab.enter_command(&machine.host)?
        ));
    }
    text.push_str("Ctrl-C takes it down.\n");
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    if json {
        eprint!("{text}");
    } else {
        output::print(&text)?;
    }
    signals.forever().next();
    Ok(())
}
