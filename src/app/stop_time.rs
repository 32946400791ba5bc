//! How long a stop may take before somebody ends the process by force.
//!
//! `drain.delay`, `drain.window` and `drain.timeout` are promises. systemd is asked for the time that
//! they take; nobody else can be asked, so it is said where they can't be kept.

use std::{path::Path, time::Duration};

/// Who ends a process whose stop takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ender {
    /// A unit that isn't `Type=notify`.
    Systemd,
    Kubernetes,
    Docker,
}

impl Ender {
    /// Who that is for this process, if it can be told.
    fn of_this_process() -> Option<Self> {
        let env = |name| std::env::var_os(name);
        let own = std::process::id();
        // Set for the service's own process alone, unlike INVOCATION_ID, which all its children see.
        if env("SYSTEMD_EXEC_PID").is_some_and(|pid| pid.to_str() == Some(&own.to_string())) {
            Some(Self::Systemd)
        } else if env("KUBERNETES_SERVICE_HOST").is_some() {
            Some(Self::Kubernetes)
        } else if own == 1 || Path::new("/.dockerenv").exists() {
            Some(Self::Docker)
        } else {
            None
        }
    }

    /// The time that it gives if nothing else is said, and where something else is said.
    fn time(self) -> (Duration, &'static str) {
        match self {
            Self::Systemd => (Duration::from_secs(90), "TimeoutStopSec= (Type=notify asks for it)"),
            Self::Kubernetes => (Duration::from_secs(30), "terminationGracePeriodSeconds"),
            Self::Docker => (Duration::from_secs(10), "docker stop --time, stop_grace_period"),
        }
    }
}

/// What is to be said of a stop that takes so long at the most, if it was not asked for.
fn warning(ender: Option<Ender>, at_most: Duration) -> Option<String> {
    let (given, setting) = ender?.time();
    (at_most > given).then(|| {
        format!(
            "the stop may take {} s (drain.delay, drain.window, drain.timeout), the process is ended \
             after {} s unless more is set ({setting}); clients that are left then are cut off",
            at_most.as_secs(),
            given.as_secs(),
        )
    })
}

/// Says so if the stop takes longer than it may. `asked`: the service manager gives the time.
pub(super) fn warn_if_too_long(at_most: Duration, asked: bool) {
    if asked {
        return;
    }
    if let Some(warning) = warning(Ender::of_this_process(), at_most) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_too_long_by_the_time_of_whoever_ends_the_process() {
        let seconds = Duration::from_secs;
        for (ender, fits, setting) in [
            (Ender::Systemd, 90, "TimeoutStopSec="),
            (Ender::Kubernetes, 30, "terminationGracePeriodSeconds"),
            (Ender::Docker, 10, "stop_grace_period"),
        ] {
            assert_eq!(warning(Some(ender), seconds(fits)), None);
            let said = warning(Some(ender), seconds(fits + 1)).unwrap();
            assert!(said.contains(setting) && said.contains("drain.window"), "{said}");
        }
        assert_eq!(warning(None, seconds(9999)), None, "nobody is known who would end it");
    }
}
