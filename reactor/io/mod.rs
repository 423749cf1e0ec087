//! Below the actors: drivers, sockets, files, timers, buffers, wakers and the offload pool.
//!
//! - `driver`: the contract between the actors and the outside world.
//! - `system`: that contract on a real machine, over any selector (`select`): `mio` or `polling`.
//! - `socket`, `udp`, `disk`, `resolver`: its parts. `os`: what differs between systems, and all of its calls.
//! - `offload`: threads for blocking work. `wheel`: timers.
//! - `memory`: the accounting of what traffic makes us hold. `buffer`: pooled buffers and payloads, counted there.
//! - `doorbell`: a descriptor by which loops that are not ours are woken. `signals`: how a system ends a program.

mod buffer;
mod disk;
pub mod doorbell;
pub mod driver;
pub mod memory;
#[cfg(feature = "driver-mio")]
mod mio;
mod offload;
mod os;
#[cfg(feature = "driver-polling")]
mod polling;
mod random;
mod resolver;
mod select;
pub mod signals;
mod socket;
mod system;
mod udp;
pub mod wheel;

use std::io;

pub use buffer::{BUFFER_BYTES_MAX, Buffer, BufferPool, POOLED_MAX, Payload};
pub use disk::SystemDisk;
#[cfg(feature = "driver-mio")]
pub use mio::{MioDriver, MioSelector};
pub use offload::{
    OFFLOAD_QUEUE_MAX, OFFLOAD_THREADS_DEFAULT, OFFLOAD_THREADS_MAX, OffloadPool, OffloadStats,
};
pub use os::{Watch, release_code};
#[cfg(feature = "driver-polling")]
pub use polling::{PollingDriver, PollingSelector};
pub use random::SystemRandom;
pub use resolver::SystemResolver;
pub use select::{Direction, Event, Interest, Selector, WAKER};
pub use system::{Shared, SystemDriver};

use crate::DriverKind;
use driver::Driver;

/// One driver for each of `cores` cores, with files, names and the threads for blocking work in common.
pub(crate) fn start_drivers(
    kind: DriverKind,
    cores: usize,
) -> io::Result<Vec<Box<dyn Driver + Send>>> {
    let shared = Shared::new();
    (0..cores).map(|_| start_driver(kind, &shared)).collect()
}

fn start_driver(kind: DriverKind, shared: &Shared) -> io::Result<Box<dyn Driver + Send>> {
    match kind {
        #[cfg(feature = "driver-mio")]
        DriverKind::Default | DriverKind::Mio => Ok(Box::new(MioDriver::new(shared)?)),
        #[cfg(feature = "driver-polling")]
        DriverKind::Polling => Ok(Box::new(PollingDriver::new(shared)?)),
        #[cfg(all(feature = "driver-polling", not(feature = "driver-mio")))]
        DriverKind::Default => Ok(Box::new(PollingDriver::new(shared)?)),
        #[cfg(not(any(feature = "driver-mio", feature = "driver-polling")))]
        DriverKind::Default => {
            let _ = shared;
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "built without a driver of this machine",
            ))
        }
    }
}
