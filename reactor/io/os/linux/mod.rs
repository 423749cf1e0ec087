//! Linux and Android.

mod code;
mod datagrams;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use socket2::{Domain, SockAddr, Socket, Type};

use super::syscall;
pub(crate) use super::unix::{
    interfaces, is_private, open_private, read_at, sync_dir, write_all_at,
};
pub use code::release_code;
pub(crate) use datagrams::Datagrams;

/// Whether listeners that share a port are given the connections evenly.
pub(crate) const REUSE_PORT_BALANCES: bool = true;

/// Flags for sending on a stream: a connection that is gone is an error, never a signal.
pub(crate) const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;

/// Nanoseconds of the clock that goes on during suspend.
pub(crate) fn clock_nanos() -> u64 {
    read_clock(monotonic_clock()).unwrap_or(0)
}

/// For how long the machine has been suspended since it started.
pub(crate) fn suspended_nanos() -> u64 {
    clock_nanos().saturating_sub(read_clock(libc::CLOCK_MONOTONIC).unwrap_or(0))
}

/// `CLOCK_BOOTTIME`, or `CLOCK_MONOTONIC` where a kernel or sandbox lacks the former. Decided once, since the two
/// must never be mixed in one process.
fn monotonic_clock() -> libc::clockid_t {
    static CLOCK: OnceLock<libc::clockid_t> = OnceLock::new();
    *CLOCK.get_or_init(|| match read_clock(libc::CLOCK_BOOTTIME) {
        Ok(_) => libc::CLOCK_BOOTTIME,
        Err(_) => libc::CLOCK_MONOTONIC,
    })
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
    Socket::new(domain, kind.nonblocking(), None)
}

/// Takes a connection as a non-blocking socket. It has its listener's options, those of [`prepare_stream`] too.
pub(crate) fn accept(listener: &Socket) -> io::Result<(Socket, SockAddr)> {
    listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
}

/// Sets the options of a stream. On a listener they are handed down to what it accepts.
pub(crate) fn prepare_stream(socket: &Socket, unsent_max: u32) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(unsent_max)
}

/// Lets a socket be bound to the port of a connection that has just ended.
pub(crate) fn reuse_address(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Lets a socket share its port with others that have this set and belong to the same user.
pub(crate) fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// Lets others join the port of a listener: further listeners, and connections that leave from it.
pub(crate) fn allow_sharing(listener: &Socket) -> io::Result<()> {
    share_port(listener)
}

/// Leaves the choice of the port to `connect`, which can then use one port towards many remotes.
pub(crate) fn bind_without_port(socket: &Socket) {
    // Only saves ports: without it the bind still works.
    let _ = set_option(
        socket.as_fd(),
        libc::IPPROTO_IP,
        libc::IP_BIND_ADDRESS_NO_PORT,
        &1,
    );
}

fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes at `value`, which is that long.
    unsafe {
        syscall!(setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len
        ))
    }?;
    Ok(())
}

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`, which libc does not have for Android (rtnetlink(7)).
const NETLINK_GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Something beside the sockets that a driver watches.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Becomes ready when the machine wakes from suspend or the wall clock is set. `epoll_wait` measures its time-out
    /// with a clock that stands still in suspend, so without this a deadline that passed meanwhile would be late by
    /// all that was left of it.
    pub(crate) fn clock() -> Option<Watch> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: no pointers.
        let fd = unsafe { syscall!(timerfd_create(libc::CLOCK_REALTIME, flags)) }.ok()?;
        // SAFETY: the call has just made this descriptor, nobody else owns it.
        let watch = Watch(unsafe { OwnedFd::from_raw_fd(fd) });
        watch.arm_clock().ok().map(|()| watch)
    }

    /// Becomes ready when an interface or an address comes, goes or changes.
    pub(crate) fn interfaces() -> io::Result<Watch> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers.
        let fd = unsafe { syscall!(socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE)) }?;
        // SAFETY: the call has just made this descriptor, nobody else owns it.
        let watch = Watch(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: all zeros is a valid `sockaddr_nl`.
        let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        addr.nl_groups = NETLINK_GROUPS;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes at `addr`, which is that long.
        unsafe { syscall!(bind(fd, std::ptr::from_ref(&addr).cast(), len)) }?;
        Ok(watch)
    }

    /// Takes what made a clock watch ready. It stays armed.
    pub(crate) fn drain_clock(&self) {
        let mut expirations = [0u8; 8];
        // SAFETY: the kernel writes at most the eight bytes of `expirations`. The outcome does not matter: after a
        // step of the clock it is `ECANCELED`.
        let _ = unsafe {
            syscall!(read(
                self.0.as_raw_fd(),
                expirations.as_mut_ptr().cast(),
                expirations.len()
            ))
        };
    }

    /// Takes all notices of an interface watch; whether there was one. Their contents are not needed, and one that
    /// found the socket's buffer full (`ENOBUFS`) counts as well.
    pub(crate) fn drain_interfaces(&self) -> bool {
        let mut notice = [0u8; 4096];
        let mut changed = false;
        loop {
            // SAFETY: the kernel writes at most the length of `notice`.
            match unsafe {
                syscall!(recv(
                    self.0.as_raw_fd(),
                    notice.as_mut_ptr().cast(),
                    notice.len(),
                    0
                ))
            } {
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return changed,
                Ok(_) => changed = true,
            }
        }
    }

    fn arm_clock(&self) -> io::Result<()> {
        // SAFETY: all zeros is a valid `itimerspec`.
        let mut never: libc::itimerspec = unsafe { std::mem::zeroed() };
        never.it_value.tv_sec = libc::time_t::MAX;
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the kernel reads one `itimerspec`; it is allowed to have no place for the old one.
        unsafe {
            syscall!(timerfd_settime(
                self.0.as_raw_fd(),
                flags,
                &never,
                std::ptr::null_mut()
            ))
        }?;
        Ok(())
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
