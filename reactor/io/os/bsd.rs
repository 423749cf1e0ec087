//! macOS, the BSDs, illumos and what else is Unix. Written after their manuals, not run.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, Socket, Type};

pub(crate) use super::portable::Datagrams;
use super::syscall;
pub(crate) use super::unix::{
    interfaces, is_private, open_private, read_at, sync_dir, write_all_at,
};

/// Listeners can share a port here, but the last one gets all connections.
pub(crate) const REUSE_PORT_BALANCES: bool = false;

/// Flags for sending on a stream: a connection that is gone is an error, never a signal. Apple's systems have a
/// socket option for it, which `socket2` sets.
#[cfg(target_vendor = "apple")]
pub(crate) const SEND_FLAGS: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;

/// The clock that goes on during suspend.
#[cfg(target_os = "openbsd")]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(target_os = "openbsd"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// The clock that stands still during suspend, where it is another one.
#[cfg(target_vendor = "apple")]
const AWAKE_CLOCK: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
#[cfg(target_os = "openbsd")]
const AWAKE_CLOCK: libc::clockid_t = libc::CLOCK_UPTIME;
#[cfg(not(any(target_vendor = "apple", target_os = "openbsd")))]
const AWAKE_CLOCK: libc::clockid_t = CLOCK;

/// Nanoseconds of the clock that goes on during suspend.
pub(crate) fn clock_nanos() -> u64 {
    read_clock(CLOCK).unwrap_or(0)
}

/// For how long the machine has been suspended since it started; always zero where the system does not tell.
pub(crate) fn suspended_nanos() -> u64 {
    if AWAKE_CLOCK == CLOCK {
        return 0;
    }
    clock_nanos().saturating_sub(read_clock(AWAKE_CLOCK).unwrap_or(0))
}

fn read_clock(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec`.
    unsafe { syscall!(clock_gettime(clock, &mut time)) }?;
    // These clocks never stand below zero.
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A non-blocking socket that child processes do not inherit.
pub(crate) fn open_socket(domain: Domain, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes a connection as a non-blocking socket with the options of a stream.
pub(crate) fn accept(listener: &Socket) -> io::Result<(Socket, SockAddr)> {
    let (socket, addr) = listener.accept()?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok((socket, addr))
}

/// Sets the options of a stream. Only Apple's systems limit what is unsent.
pub(crate) fn prepare_stream(socket: &Socket, _unsent_max: u32) -> io::Result<()> {
    socket.set_tcp_nodelay(true)
}

/// Lets a socket be bound to the port of a connection that has just ended.
pub(crate) fn reuse_address(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Lets a socket share its port with others that have this set.
pub(crate) fn share_port(socket: &Socket) -> io::Result<()> {
    #[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
    socket.set_reuse_port(true)?;
    #[cfg(any(target_os = "solaris", target_os = "illumos"))]
    socket.set_reuse_address(true)?;
    Ok(())
}

/// Lets others join the port of a listener: connections that leave from it.
pub(crate) fn allow_sharing(listener: &Socket) -> io::Result<()> {
    share_port(listener)
}

/// These systems choose the port in `bind`.
pub(crate) fn bind_without_port(_socket: &Socket) {}

/// Something beside the sockets that a driver watches: here a routing socket (route(4)).
#[derive(Debug)]
pub struct Watch(Socket);

/// Types of the messages that tell of interfaces and addresses.
#[cfg(target_os = "netbsd")]
const NOTICES: [u8; 3] = [0x14, 0x16, 0x17];
#[cfg(not(target_os = "netbsd"))]
const NOTICES: [u8; 3] = [0x0c, 0x0d, 0x0e];

/// Gives back the memory of code that has been run; here the system does so by itself.
pub fn release_code() {}

impl Watch {
    /// No system here tells when it wakes from suspend. A deadline can be late by what was left of it.
    pub(crate) fn clock() -> Option<Watch> {
        None
    }

    /// Becomes ready when an interface or an address comes, goes or changes.
    pub(crate) fn interfaces() -> io::Result<Watch> {
        let socket = Socket::new(Domain::from(libc::PF_ROUTE), Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Watch(socket))
    }

    /// There is no clock watch.
    pub(crate) fn drain_clock(&self) {}

    /// Takes all notices; whether one was about an interface or an address. Routes come this way as well.
    pub(crate) fn drain_interfaces(&self) -> bool {
        let mut notice = [0u8; 4096];
        let mut is_changed = false;
        loop {
            match (&self.0).read(&mut notice) {
                // Length (2 bytes), version and type begin a message on all of these systems.
                Ok(len) if len >= 4 => is_changed |= NOTICES.contains(&notice[3]),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_changed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return is_changed,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
