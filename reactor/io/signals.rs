//! The signals by which a system asks a process to end.

use std::io;

/// Catches the signals that ask the process to end: SIGTERM, and SIGINT as from Ctrl-C.
///
/// It takes them for the whole process, so it belongs into programs, never into libraries.
#[derive(Debug)]
pub struct Termination(system::Termination);

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: a service manager or `kill`.
    Terminate,
}

impl Termination {
    /// Starts catching them. From now on they do not end the process by themselves.
    pub fn catch() -> io::Result<Termination> {
        system::Termination::catch().map(Termination)
    }

    /// Blocks until one of them comes, or returns one that came since the last call. Several of a kind may be one.
    pub fn wait(&mut self) -> Signal {
        self.0.wait()
    }
}

#[cfg(unix)]
mod system {
    use std::io;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::Signal;

    #[derive(Debug)]
    pub(super) struct Termination(Signals);

    impl Termination {
        pub(super) fn catch() -> io::Result<Termination> {
            Signals::new([SIGINT, SIGTERM]).map(Termination)
        }

        pub(super) fn wait(&mut self) -> Signal {
            loop {
                match self.0.wait().next() {
                    Some(SIGINT) => return Signal::Interrupt,
                    Some(_) => return Signal::Terminate,
                    None => {}
                }
            }
        }
    }
}

/// Windows runs handlers, but lets nobody wait for them without unsafe code; so the flags that they set are looked at
/// ten times a second.
#[cfg(not(unix))]
mod system {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use signal_hook::consts::{SIGINT, SIGTERM};

    use super::Signal;

    const LOOK_EVERY: Duration = Duration::from_millis(100);

    #[derive(Debug)]
    pub(super) struct Termination {
        interrupted: Arc<AtomicBool>,
        terminated: Arc<AtomicBool>,
    }

    impl Termination {
        pub(super) fn catch() -> io::Result<Termination> {
            let [interrupted, terminated] = Default::default();
            signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
            signal_hook::flag::register(SIGTERM, Arc::clone(&terminated))?;
            Ok(Termination {
                interrupted,
                terminated,
            })
        }

        pub(super) fn wait(&mut self) -> Signal {
            loop {
                for (flag, signal) in [
                    (&self.interrupted, Signal::Interrupt),
                    (&self.terminated, Signal::Terminate),
                ] {
                    if flag.swap(false, Ordering::AcqRel) {
                        return signal;
                    }
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}
