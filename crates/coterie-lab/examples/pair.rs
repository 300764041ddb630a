//! Two hosts and a wire between their bridges, as small as a lab gets: `pair` pings from one to the other and ends, `pair
//! --keep` stays until it is interrupted, and `pair --fail` ends by a panic while everything is up.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use coterie_lab::programs::Ping;
use coterie_lab::{CaptureOptions, Lab, LabOptions};

fn main() -> coterie_lab::Result<()> {
    coterie_lab::ensure_privileges()?;
    let lab = Lab::new(LabOptions::default())?;
    let (one, two) = (lab.bridge("rack-1")?, lab.bridge("rack-2")?);
    lab.link(&one, &two)?;
    let addresses = |number: u8| {
        [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")].map(|text| text.parse().expect("an address"))
    };
    let web = lab.host("web-1", &one, &addresses(1))?;
    let app = lab.host("app-1", &two, &addresses(2))?;
    let capture = lab.capture(&two, CaptureOptions::default())?;
    let pinged = Ping::new(app.ipv6().expect("it was given one")).count(3).from(&web)?;
    println!(
        "{} of {} echoes, {} frames on {}",
        pinged.received,
        pinged.sent,
        capture.totals().0,
        two.name()
    );

    // One program that is started as such, and one that has cut all ties to whoever started it.
    let listener = app.spawn("sleep", &["1000000"], &[])?;
    app.run(
        "sh",
        &["-c", "setsid sh -c 'sleep 1000001 & sleep 1000002' >/dev/null 2>&1 &"],
    )?
    .check()?;
    for host in lab.hosts() {
        println!("to be on {}: {} sh", host.name(), lab.enter_command(&host)?);
    }
    match std::env::args().nth(1).as_deref() {
        Some("--keep") => {
            println!("up; Ctrl-C ends it");
            listener.wait(std::time::Duration::from_secs(1_000_000))?;
        }
        Some("--fail") => panic!("this is what was asked for"),
        Some(other) => println!("nothing is known of {other}"),
        None => {}
    }
    Ok(())
}
