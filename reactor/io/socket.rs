//! TCP sockets: opening them with their options.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::driver::{ListenOptions, ReusePort};
use super::os;
use super::udp::canonical;

/// Unsent bytes the kernel keeps of a connection. More would only be beyond the reach of our priorities.
pub(crate) const UNSENT_MAX: u32 = 128 * 1024;

/// Connections that are passed over in one accept because they ended while they waited.
const DEAD_ACCEPTS_MAX: usize = 64;

/// Opens a listening socket.
pub(crate) fn listen(addr: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    if options.reuse_port == ReusePort::Join && !os::REUSE_PORT_BALANCES {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system does not share a port between listeners",
        ));
    }
    let socket = open_stream(addr)?;
    os::reuse_address(&socket)?;
    if options.reuse_port == ReusePort::Join {
        os::share_port(&socket)?;
    }
    socket
        .bind(&addr.into())
        .map_err(|error| explain_bind(addr, error))?;
    if options.reuse_port == ReusePort::First {
        os::allow_sharing(&socket)?;
    }
    os::prepare_stream(&socket, UNSENT_MAX)?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    socket
        .listen(backlog)
        .map_err(|error| explain_bind(addr, error))?;
    Ok(socket)
}

/// Takes a waiting connection and the canonical address of its other end.
///
/// Errors that belong to a waiting connection rather than to the listener are passed over, as accept(2) advises.
pub(crate) fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let mut passed = 0;
    loop {
        match os::accept(listener) {
            Ok((socket, addr)) => {
                let addr = addr.as_socket().ok_or(io::ErrorKind::InvalidData)?;
                return Ok((socket, canonical(addr)));
            }
            Err(error) if is_dead_connection(&error) && passed < DEAD_ACCEPTS_MAX => passed += 1,
            Err(error) => return Err(error),
        }
    }
}

fn is_dead_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}

/// Starts to connect. `local` without a port only chooses the address; with one, the port is shared with a listener
/// that allows it.
pub(crate) fn connect(remote: SocketAddr, local: Option<SocketAddr>) -> io::Result<Socket> {
    let remote = canonical(remote);
    let socket = open_stream(remote)?;
    os::prepare_stream(&socket, UNSENT_MAX)?;
    if let Some(local) = local.map(canonical) {
        if local.port() == 0 {
            os::bind_without_port(&socket);
        } else {
            os::reuse_address(&socket)?;
            os::share_port(&socket)?;
        }
        socket
            .bind(&local.into())
            .map_err(|error| explain_bind(local, error))?;
    }
    match socket.connect(&remote.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(socket),
    }
}

/// An interrupted connect goes on in the background as well.
fn is_under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn open_stream(addr: SocketAddr) -> io::Result<Socket> {
    let socket = os::open_socket(Domain::for_address(addr), Type::STREAM)
        .map_err(|error| explain_family(addr, error))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A kernel without IPv6 says so already when the socket is opened.
pub(crate) fn explain_family(addr: SocketAddr, error: io::Error) -> io::Error {
    #[cfg(unix)]
    let is_absent = matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT)
    );
    #[cfg(not(unix))]
    let is_absent = error.raw_os_error() == Some(10047);
    if is_absent && addr.is_ipv6() {
        return io::Error::new(
            io::ErrorKind::Unsupported,
            format!("cannot use {addr}: this system has no IPv6"),
        );
    }
    error
}

/// Adds the address to the two usual errors of a bind.
pub(crate) fn explain_bind(addr: SocketAddr, error: io::Error) -> io::Error {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use",
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "not permitted",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("cannot bind to {addr}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_kernel_without_ipv6_is_named_as_such() {
        let absent = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let error = explain_family("[::]:0".parse().expect("an address"), absent());
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("no IPv6"), "{error}");
        let error = explain_family("0.0.0.0:0".parse().expect("an address"), absent());
        assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
    }

    #[test]
    fn accept_passes_over_dead_connections_only() {
        #[cfg(unix)]
        {
            assert!(is_dead_connection(&io::Error::from_raw_os_error(
                libc::ECONNABORTED
            )));
            assert!(!is_dead_connection(&io::Error::from_raw_os_error(
                libc::EMFILE
            )));
            assert!(!is_dead_connection(&io::Error::from_raw_os_error(
                libc::ENFILE
            )));
        }
        assert!(!is_dead_connection(&io::ErrorKind::WouldBlock.into()));
    }

    #[test]
    fn options_reach_the_kernel() {
        let listener = listen(
            "127.0.0.1:0".parse().expect("an address"),
            ListenOptions::default(),
        )
        .expect("listens");
        let addr = listener
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an IP address");
        let client = connect(addr, None).expect("connects");
        let (server, _) = loop {
            // Loopback connects within the call; only a signal could come between.
            if let Ok(accepted) = accept(&listener) {
                break accepted;
            }
        };
        for socket in [&client, &server] {
            assert!(socket.tcp_nodelay().expect("readable"));
            assert!(socket.nonblocking().expect("readable"));
            #[cfg(any(target_os = "linux", target_os = "android"))]
            assert_eq!(socket.tcp_notsent_lowat().expect("readable"), UNSENT_MAX);
        }
    }
}
