//! Windows. Written after its manuals, not run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use if_addrs::{IfAddr, IfOperStatus};
use socket2::{Domain, SockAddr, Socket, Type};

pub(crate) use super::portable::Datagrams;
use crate::io::driver::Interface;

/// Listeners cannot share a port.
pub(crate) const REUSE_PORT_BALANCES: bool = false;

/// There are no signals to keep away.
pub(crate) const SEND_FLAGS: i32 = 0;

/// Nanoseconds since the first call. The performance counter behind `Instant` goes on during suspend.
pub(crate) fn clock_nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // 584 years fit.
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Not told here; a suspend shows by its missed deadlines.
pub(crate) fn suspended_nanos() -> u64 {
    0
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

/// Sets the options of a stream. What is unsent cannot be limited.
pub(crate) fn prepare_stream(socket: &Socket, _unsent_max: u32) -> io::Result<()> {
    socket.set_tcp_nodelay(true)
}

/// Not needed: ports of ended connections can be bound, while the option would let programs steal open ones.
pub(crate) fn reuse_address(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Lets a socket share its port with others that have this set.
pub(crate) fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Nothing: here the option would let any program take the listener's port over.
pub(crate) fn allow_sharing(_listener: &Socket) -> io::Result<()> {
    Ok(())
}

/// The port is chosen in `bind`.
pub(crate) fn bind_without_port(_socket: &Socket) {}

/// Something beside the sockets that a driver watches: nothing here.
#[derive(Debug)]
pub enum Watch {}

impl Watch {
    /// Nothing tells of suspend here. A deadline can be late by what was left of it.
    pub(crate) fn clock() -> Option<Watch> {
        None
    }

    /// Changes come by callback on a thread of the system, not through a selector.
    pub(crate) fn interfaces() -> io::Result<Watch> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "list the interfaces from time to time instead",
        ))
    }

    /// There is no clock watch.
    pub(crate) fn drain_clock(&self) {
        match *self {}
    }

    /// There is no interface watch.
    pub(crate) fn drain_interfaces(&self) -> bool {
        match *self {}
    }
}

/// The interfaces with their addresses, in the order of their indices. One without addresses is not listed.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<(u32, String), Interface> = BTreeMap::new();
    for entry in if_addrs::get_if_addrs()? {
        let index = entry.index.unwrap_or(0);
        let (is_up, is_loopback) = (entry.oper_status == IfOperStatus::Up, entry.is_loopback());
        let interface = found
            .entry((index, entry.name.clone()))
            .or_insert_with(|| Interface {
                name: entry.name.clone(),
                index,
                is_up,
                is_loopback,
                is_multicast: !entry.is_p2p,
                addrs: Vec::new(),
            });
        interface.addrs.push(match entry.addr {
            IfAddr::V4(addr) => (addr.ip.into(), addr.prefixlen),
            IfAddr::V6(addr) => (addr.ip.into(), addr.prefixlen),
        });
    }
    Ok(found.into_values().collect())
}

/// Reads at an offset. The file's cursor moves, which nobody uses.
pub(crate) fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    file.seek_read(bytes, offset)
}

/// Writes all of `bytes` at an offset.
pub(crate) fn write_all_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A profile's directories are private to their user already.
pub(crate) fn open_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.open(path)
}

/// Access is by lists that are inherited from the directory; there is no mode to look at.
pub(crate) fn is_private(_path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Gives back the memory of code that has been run; here the system does so by itself.
pub fn release_code() {}

/// Directories cannot be synchronised; the file system keeps their entries in order.
pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}
