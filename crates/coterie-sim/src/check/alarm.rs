//! An alarm wakes somebody: each must have its cause in the world.

use coterie_proto::node::Alarm;

use super::{Breach, Promise};

/// What there is in the world to be alarmed about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Causes {
    /// The named peer runs twice.
    pub twin: bool,
    /// The issuer, or who says so, told something: old things may be among it.
    pub told: bool,
    /// This machine was forked.
    pub forked: bool,
    /// Somebody's static key was revoked.
    pub revoked: bool,
}

/// Judges an alarm.
///
/// # Errors
/// It has no cause.
pub fn judge(alarm: &Alarm, causes: Causes) -> Result<(), Breach> {
    let justified = match alarm {
        Alarm::Twin(_) => causes.twin,
        Alarm::Rollback => causes.told,
        // Everything in the world is signed by its one enclave.
        Alarm::Foreign => false,
        Alarm::Forked => causes.forked,
        Alarm::RevokedKnocked => causes.revoked,
    };
    if justified {
        Ok(())
    } else {
        Err(Breach::new(Promise::Alarm, format!("{alarm:?} without a cause")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn false_alarms_are_noticed() {
        let none = Causes::default();
        for alarm in [Alarm::Rollback, Alarm::Foreign, Alarm::Forked, Alarm::RevokedKnocked] {
            assert!(judge(&alarm, none).is_err());
        }
        assert!(judge(&Alarm::Rollback, Causes { told: true, ..none }).is_ok());
        assert!(judge(&Alarm::Forked, Causes { forked: true, ..none }).is_ok());
    }
}
