//! Descriptors that outlive a process, and news of a copied machine.

#![expect(
    unsafe_code,
    reason = "a child of this test takes descriptors by number, as a service does"
)]

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;

use coterie_io::generation::{Generation, Paths};
use coterie_io::memory::{Journal, Sealed, passed_descriptors, store_descriptor};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::namespace::say;

fn copy(of: impl AsFd) -> OwnedFd {
    of.as_fd().try_clone_to_owned().expect("a descriptor is left")
}

#[test]
fn a_sealed_memfd_can_be_read_and_not_changed() {
    let sealed = Sealed::new("test", b"identity").expect("memory");
    let file = File::from(copy(&sealed));
    let denied =
        |result: io::Result<()>| assert_eq!(result.expect_err("sealed").kind(), io::ErrorKind::PermissionDenied);
    denied(file.write_all_at(b"x", 0));
    denied(file.write_all_at(b"x", 8));
    denied(file.set_len(4));
    denied(file.set_len(40));
    assert_eq!(sealed.read().expect("read"), b"identity");
    let again = Sealed::from_descriptor(copy(&sealed)).expect("sealed");
    assert_eq!(again.read().expect("read"), b"identity");
}

#[test]
fn a_journal_is_written_in_place_and_keeps_its_size() {
    let journal = Journal::create("test", 64).expect("memory");
    journal.write(32, b"slot").expect("written");
    let again = Journal::from_descriptor(copy(&journal)).expect("a journal");
    let mut bytes = [0; 6];
    again.read(31, &mut bytes).expect("read");
    assert_eq!((&bytes, again.size()), (b"\0slot\0", 64));
    for (offset, length) in [(61, 4), (64, 1), (u64::MAX, 1)] {
        let error = journal.write(offset, &vec![1; length]).expect_err("beyond the end");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            journal.read(offset, &mut vec![0; length]).expect_err("beyond").kind(),
            io::ErrorKind::InvalidInput
        );
    }
    let file = File::from(copy(&journal));
    assert_eq!(
        file.set_len(65).expect_err("sealed").kind(),
        io::ErrorKind::PermissionDenied
    );
}

#[test]
fn descriptors_of_another_kind_are_refused() {
    let file = || OwnedFd::from(tempfile::tempfile().expect("a file"));
    let invalid = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    invalid(Sealed::from_descriptor(file()).expect_err("a file"));
    invalid(Journal::from_descriptor(file()).expect_err("a file"));
    let (sealed, journal) = (
        Sealed::new("s", b"").expect("memory"),
        Journal::create("j", 8).expect("memory"),
    );
    invalid(Journal::from_descriptor(copy(&sealed)).expect_err("sealed"));
    invalid(Sealed::from_descriptor(copy(&journal)).expect_err("not sealed"));
}

const CHILD: &str = "COTERIE_TEST_CHILD";

/// Runs this very test in a process of its own, in the role that `CHILD` names.
fn child(test: &str, role: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("the test's own program"));
    child
        .args([&format!("memory::{test}"), "--exact", "--nocapture"])
        .env(CHILD, role);
    child
}

#[test]
fn the_service_manager_is_given_a_descriptor_and_gives_it_back() {
    match std::env::var(CHILD).as_deref() {
        Ok("store") => {
            let sealed = Sealed::new("identity", b"who I am").expect("memory");
            assert!(store_descriptor("identity", &sealed).expect("stored"));
            return;
        }
        Ok("restore") => {
            // SAFETY: this process does nothing else, and nothing in it has looked for passed descriptors.
            let mut passed = unsafe { passed_descriptors() }.expect("passed");
            let (name, descriptor) = passed.pop().expect("one descriptor");
            assert_eq!((name.as_str(), passed.len()), ("identity", 0));
            let sealed = Sealed::from_descriptor(descriptor).expect("the memfd that was stored");
            assert_eq!(sealed.read().expect("read"), b"who I am");
            return;
        }
        Ok(_) | Err(_) => {}
    }
    let test = "the_service_manager_is_given_a_descriptor_and_gives_it_back";
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    assert!(
        child(test, "store")
            .env("NOTIFY_SOCKET", &path)
            .status()
            .expect("run")
            .success()
    );

    let mut text = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &manager,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    );
    let length = received.expect("received").bytes;
    assert_eq!(&text[..length], b"FDSTORE=1\nFDNAME=identity\nFDPOLL=0\n");
    let mut kept = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        RecvAncillaryMessage::ScmCredentials(_) | _ => Vec::new(),
    });
    let kept = kept.next().expect("a descriptor came with it");

    // LISTEN_PID is the child's own number, which a shell that becomes the child knows.
    // Not 3 itself, which would stay close-on-exec.
    let kept = rustix::io::fcntl_dupfd_cloexec(&kept, 10).expect("a descriptor is left");
    let number = kept.as_raw_fd();
    let restore = child(test, "restore");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(restore.get_program())
        .args(restore.get_args());
    shell
        .env(CHILD, "restore")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "identity");
    // SAFETY: between fork and exec, the child makes one system call on a descriptor that the parent keeps open.
    unsafe {
        shell.pre_exec(move || {
            if libc::dup2(number, 3) == -1 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
    assert!(shell.status().expect("run").success());
}

#[test]
fn memory_is_not_dumped() {
    let test = "memory_is_not_dumped";
    if std::env::var(CHILD).is_ok() {
        coterie_io::memory::forbid_dumps().expect("set");
        let dumpable = rustix::process::dumpable_behavior().expect("read");
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
        match coterie_io::memory::lock_process_memory() {
            Ok(()) => {
                let status = std::fs::read_to_string("/proc/self/status").expect("read");
                let locked = status.lines().find(|line| line.starts_with("VmLck:")).expect("listed");
                assert!(!locked.contains(" 0 kB"), "{locked}");
            }
            Err(error) => say(&format!("memory cannot be locked here: {error}")),
        }
        return;
    }
    assert!(child(test, "yes").status().expect("run").success());
}

#[test]
fn a_new_identifier_is_a_new_generation() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identifier");
    let table = |identifier: u8| [&[0; 40][..], &[identifier; 16], &[0; 8]].concat();
    std::fs::write(&path, table(1)).expect("written");
    let mut generation = Generation::open(&Paths {
        identifier: Some(path.clone()),
        ..Paths::default()
    })
    .expect("opened");
    assert_eq!(generation.sources(), ["identifier"]);
    assert!(!generation.changed().expect("read"));
    std::fs::write(&path, table(2)).expect("written");
    assert!(generation.changed().expect("read"));
    assert!(!generation.changed().expect("read"), "told once");
    std::fs::write(&path, []).expect("written");
    generation
        .changed()
        .expect_err("a source that cannot be read is not silence");
}

#[test]
fn the_clock_device_counts_generations_or_disruptions() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("clock");
    let page = |disruption: u8, flags: u64, counter: u8| {
        let mut page = [0; 4_096];
        page[16] = disruption;
        page[24..32].copy_from_slice(&flags.to_le_bytes());
        page[104] = counter;
        page
    };
    let open = || {
        Generation::open(&Paths {
            clock: Some(path.clone()),
            ..Paths::default()
        })
        .expect("opened")
    };
    std::fs::write(&path, page(1, 0, 0)).expect("written");
    let mut generation = open();
    assert_eq!(generation.sources(), ["clock"]);
    std::fs::write(&path, page(2, 0, 0)).expect("written");
    assert!(generation.changed().expect("read"));

    // With a counter of its own, a disruption alone, as by a live migration, is no new generation.
    std::fs::write(&path, page(2, 1 << 8, 5)).expect("written");
    let mut generation = open();
    std::fs::write(&path, page(3, 1 << 8, 5)).expect("written");
    assert!(!generation.changed().expect("read"));
    std::fs::write(&path, page(3, 1 << 8, 6)).expect("written");
    assert!(generation.changed().expect("read"));
}

#[test]
fn the_kernel_says_that_the_machine_was_forked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let line = "5,900,1000,-;random: crng reseeded due to virtual machine fork\n";
    std::fs::write(&path, line).expect("written");
    let mut generation = Generation::open(&Paths {
        kernel_log: Some(path.clone()),
        ..Paths::default()
    })
    .expect("opened");
    assert_eq!(generation.sources(), ["kernel-log"]);
    assert!(generation.log_descriptor().is_some());
    assert!(!generation.changed().expect("read"), "what was said before counted");

    let mut log = File::options().append(true).open(&path).expect("opened");
    log.write_all(b"12,901,1001,-;a program writes virtual machine fork\n6,902,1002,-;eth0: link up\n")
        .expect("written");
    assert!(!generation.changed().expect("read"));
    let (first, second) = line.as_bytes().split_at(40);
    log.write_all(first).expect("written");
    assert!(!generation.changed().expect("read"));
    log.write_all(second).expect("written");
    assert!(generation.changed().expect("read"));
    assert!(!generation.changed().expect("read"), "told once");
}

#[test]
fn a_machine_without_sources_has_none() {
    let nowhere = Some("/nowhere/at/all".into());
    let paths = Paths {
        identifier: nowhere.clone(),
        kernel_log: nowhere.clone(),
        clock: nowhere,
    };
    let mut generation = Generation::open(&paths).expect("opened");
    assert!(generation.sources().is_empty());
    assert!(!generation.changed().expect("nothing to read"));
    let mut real = Generation::open(&Paths::system()).expect("opened");
    assert!(
        !real.changed().expect("read"),
        "this machine was copied during the test"
    );
}
