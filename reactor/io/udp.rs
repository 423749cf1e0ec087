//! UDP sockets: opening them, and what their sending and receiving has in common on all systems.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::driver::{Transmit, UdpOptions};
use super::os;
use super::os::Datagrams;
use super::socket::{explain_bind, explain_family};

/// Opens and binds a socket. The flag says whether the kernel segments for us.
pub(crate) fn bind(addr: SocketAddr, options: UdpOptions) -> io::Result<(Socket, bool)> {
    let socket = os::open_socket(Domain::for_address(addr), Type::DGRAM)
        .map_err(|error| explain_family(addr, error))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.share_port {
        socket.set_reuse_address(true)?;
        os::share_port(&socket)?;
    }
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size as usize)?;
    }
    if let Some(size) = options.send_buffer {
        socket.set_send_buffer_size(size as usize)?;
    }
    if options.broadcast && addr.is_ipv4() {
        socket.set_broadcast(true)?;
    }
    let segments = Datagrams::prepare(&socket, addr.is_ipv6())?;
    socket
        .bind(&addr.into())
        .map_err(|error| explain_bind(addr, error))?;
    Ok((socket, segments))
}

/// Joins or leaves a group. Joining twice and leaving twice is no error.
pub(crate) fn membership(
    socket: &Socket,
    group: IpAddr,
    interface: u32,
    join: bool,
) -> io::Result<()> {
    let outcome = match (group.to_canonical(), join) {
        (IpAddr::V4(group), join) => Datagrams::membership_v4(socket, group, interface, join),
        (IpAddr::V6(group), true) => socket.join_multicast_v6(&group, interface),
        (IpAddr::V6(group), false) => socket.leave_multicast_v6(&group, interface),
    };
    match outcome {
        Err(error) if join && error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Err(error) if !join && error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        outcome => outcome,
    }
}

/// Sets how multicast is sent.
pub(crate) fn multicast(
    socket: &Socket,
    is_v6: bool,
    ttl: u8,
    loopback: bool,
    interface: Option<u32>,
) -> io::Result<()> {
    if is_v6 {
        socket.set_multicast_hops_v6(u32::from(ttl))?;
        socket.set_multicast_loop_v6(loopback)?;
    } else {
        socket.set_multicast_ttl_v4(u32::from(ttl))?;
        socket.set_multicast_loop_v4(loopback)?;
    }
    interface.map_or(Ok(()), |index| {
        Datagrams::multicast_interface(socket, is_v6, index)
    })
}

/// The address without its v4-mapped form.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) if addr.is_ipv6() => SocketAddr::new(ip.into(), addr.port()),
        _ => addr,
    }
}

/// Whether a receive error only tells that something sent earlier has not arrived (ICMP).
pub(crate) fn is_icmp_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

/// What the kernel takes as one send and cuts into segments itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) segments: usize,
    pub(crate) bytes: usize,
}

/// Walks over transmits in pieces of one send each: a datagram, or a run of equal ones.
#[derive(Clone)]
pub(crate) struct Segments<'a> {
    transmits: &'a [Transmit<'a>],
    /// The transmit at hand.
    index: usize,
    /// Bytes of it that are done.
    offset: usize,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(transmits: &'a [Transmit<'a>]) -> Segments<'a> {
        Segments {
            transmits,
            index: 0,
            offset: 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.index == self.transmits.len()
    }

    /// The next piece. Without `run` it is a single datagram.
    pub(crate) fn peek(&self, run: Option<Run>) -> Option<(&'a Transmit<'a>, &'a [u8])> {
        let transmit = self.transmits.get(self.index)?;
        let rest = &transmit.data[self.offset..];
        let len = match transmit.segment_size.map(usize::from) {
            None | Some(0) => rest.len(),
            Some(size) => size * run.map_or(1, |run| run.segments.min(run.bytes / size).max(1)),
        };
        Some((transmit, &rest[..len.min(rest.len())]))
    }

    /// Passes over what [`Segments::peek`] gave for the same `run`.
    pub(crate) fn skip(&mut self, run: Option<Run>) {
        let Some((transmit, piece)) = self.peek(run) else {
            return;
        };
        self.offset += piece.len();
        if self.offset == transmit.data.len() {
            self.index += 1;
            self.offset = 0;
        }
    }

    /// What to answer when sending ends with an error here. It concerns the first transmit or comes again; a transmit
    /// that has been begun counts as taken, its rest is lost, since taking it again would send its beginning twice.
    pub(crate) fn outcome(&self, error: io::Error) -> io::Result<usize> {
        match self.index + usize::from(self.offset > 0) {
            0 => Err(error),
            taken => Ok(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(transmits: &[Transmit<'_>], run: Option<Run>) -> Vec<(usize, usize)> {
        let mut cursor = Segments::new(transmits);
        let mut pieces = Vec::new();
        while let Some((_, piece)) = cursor.peek(run) {
            pieces.push((cursor.index, piece.len()));
            cursor.skip(run);
        }
        assert!(cursor.is_done());
        pieces
    }

    #[test]
    fn transmits_are_cut_into_datagrams_or_runs() {
        let to = "127.0.0.1:9".parse().expect("an address");
        let data = [0; 2500];
        let whole = Transmit::new(to, &data[..700]);
        let cut = Transmit {
            segment_size: Some(1000),
            ..Transmit::new(to, &data)
        };
        let empty = Transmit::new(to, &[]);
        let all = [
            whole,
            cut,
            empty,
            Transmit {
                segment_size: Some(0),
                ..whole
            },
        ];
        assert_eq!(
            pieces(&all, None),
            [(0, 700), (1, 1000), (1, 1000), (1, 500), (2, 0), (3, 700)]
        );
        let run = Some(Run {
            segments: 64,
            bytes: 65_000,
        });
        assert_eq!(pieces(&all, run), [(0, 700), (1, 2500), (2, 0), (3, 700)]);
        let run = Some(Run {
            segments: 2,
            bytes: 65_000,
        });
        assert_eq!(pieces(&[cut], run), [(0, 2000), (0, 500)]);
        let run = Some(Run {
            segments: 64,
            bytes: 10,
        });
        assert_eq!(
            pieces(&[cut], run).len(),
            3,
            "a run is at least one segment"
        );
    }

    #[test]
    fn a_transmit_once_begun_is_taken() {
        let to = "127.0.0.1:9".parse().expect("an address");
        let data = [0; 2500];
        let transmits = [Transmit {
            segment_size: Some(1000),
            ..Transmit::new(to, &data)
        }; 2];
        let blocked = || io::Error::from(io::ErrorKind::WouldBlock);
        let mut cursor = Segments::new(&transmits);
        assert!(cursor.outcome(blocked()).is_err());
        cursor.skip(None);
        assert_eq!(cursor.outcome(blocked()).expect("begun"), 1);
        cursor.skip(None);
        cursor.skip(None);
        assert_eq!(cursor.outcome(blocked()).expect("done"), 1);
        cursor.skip(None);
        assert_eq!(cursor.outcome(blocked()).expect("begun"), 2);
    }

    #[test]
    fn mapped_addresses_become_plain_ones() {
        let mapped = "[::ffff:192.0.2.1]:5".parse().expect("an address");
        assert_eq!(
            canonical(mapped),
            "192.0.2.1:5".parse().expect("an address")
        );
        let plain = "[fe80::1%3]:5".parse().expect("an address");
        assert_eq!(canonical(plain), plain);
    }
}
