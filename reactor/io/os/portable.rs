//! Datagrams one at a time, with no more than every system tells: who sent it.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{SockAddr, Socket};

use crate::io::driver::{Datagram, Ecn, Transmit};
use crate::io::udp::{Segments, canonical, is_icmp_error};

/// Datagrams a call.
const BATCH: usize = 16;
/// Bytes of the largest datagram there is.
const DATAGRAM_MAX: usize = 65_536;

/// Stateless here.
pub(crate) struct Datagrams;

impl Datagrams {
    pub(crate) fn new() -> Box<Datagrams> {
        Box::new(Datagrams)
    }

    /// Nothing to set, and nobody segments for us.
    pub(crate) fn prepare(_socket: &Socket, _is_v6: bool) -> io::Result<bool> {
        Ok(false)
    }

    /// Sets the interface that multicast leaves by.
    pub(crate) fn multicast_interface(socket: &Socket, is_v6: bool, index: u32) -> io::Result<()> {
        if is_v6 {
            socket.set_multicast_if_v6(index)
        } else {
            socket.set_multicast_if_v4(&addr_of(index)?)
        }
    }

    /// Joins or leaves a group of IPv4.
    pub(crate) fn membership_v4(
        socket: &Socket,
        group: Ipv4Addr,
        index: u32,
        join: bool,
    ) -> io::Result<()> {
        let interface = addr_of(index)?;
        if join {
            socket.join_multicast_v4(&group, &interface)
        } else {
            socket.leave_multicast_v4(&group, &interface)
        }
    }

    /// Up to a batch, see [`crate::io::driver::Driver::udp_receive`].
    pub(crate) fn receive(
        &mut self,
        socket: &Socket,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> io::Result<usize> {
        let mut count = 0;
        let mut buffer = buffer;
        // What does not fit is cut off, so a further one is only received where any fits.
        while count == 0 || count < BATCH && buffer.len() >= DATAGRAM_MAX {
            // SAFETY: `recv_from` never writes anything uninitialised, and `u8` has the layout of its `MaybeUninit`.
            let room =
                unsafe { &mut *(std::ptr::from_mut::<[u8]>(buffer) as *mut [MaybeUninit<u8>]) };
            match socket.recv_from(room) {
                Ok((len, from)) => {
                    let Some(from) = from.as_socket() else {
                        continue;
                    };
                    let (from, data) = (canonical(from), buffer.split_off_mut(..len));
                    let data = data.expect("the system writes no further than it was told");
                    each(Datagram {
                        from,
                        to: None,
                        interface: None,
                        ttl: None,
                        ecn: Ecn::NotEct,
                        data,
                    });
                    count += 1;
                }
                Err(error)
                    if is_icmp_error(&error) || error.kind() == io::ErrorKind::Interrupted =>
                {
                    continue;
                }
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Holds no memory.
    pub(crate) fn release(&mut self) {}

    /// Holds no datagrams.
    pub(crate) fn forget(&mut self, _socket: &Socket) {}

    /// Sends, see [`crate::io::driver::Driver::udp_send`]. Source, interface and congestion bits are left to the
    /// system.
    pub(crate) fn send(
        &mut self,
        socket: &Socket,
        _is_v6: bool,
        _segments: &mut bool,
        transmits: &[Transmit<'_>],
    ) -> io::Result<usize> {
        let mut cursor = Segments::new(transmits);
        while let Some((transmit, chunk)) = cursor.peek(None) {
            match socket.send_to(chunk, &SockAddr::from(canonical(transmit.to))) {
                Ok(_) => cursor.skip(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if is_full(&error) || error.kind() == io::ErrorKind::ConnectionRefused =>
                {
                    cursor.skip(None)
                }
                Err(error) => return cursor.outcome(error),
            }
        }
        Ok(transmits.len())
    }
}

/// Whether the system has dropped a datagram because a queue is full (`ENOBUFS`): it is lost as on the way, and no edge
/// would tell when there is room.
fn is_full(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(libc::ENOBUFS);
    #[cfg(not(unix))]
    return error.raw_os_error() == Some(10055);
}

/// An address of an interface, by which systems without interface indices in IPv4 options know it.
fn addr_of(index: u32) -> io::Result<Ipv4Addr> {
    if index == 0 {
        return Ok(Ipv4Addr::UNSPECIFIED);
    }
    let interfaces = super::interfaces()?;
    let interface = interfaces.iter().find(|interface| interface.index == index);
    let mut addrs = interface.into_iter().flat_map(|interface| &interface.addrs);
    let addr = addrs.find_map(|(addr, _)| {
        if let IpAddr::V4(addr) = addr {
            Some(*addr)
        } else {
            None
        }
    });
    addr.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the interface has no IPv4 address",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};

    use super::*;
    use crate::io::udp;

    fn bound(ip: IpAddr) -> (Socket, SocketAddr) {
        let addr = SocketAddr::new(ip, 0);
        let (socket, _) = udp::bind(addr, Default::default()).expect("binds");
        let addr = socket.local_addr().expect("bound").as_socket();
        (socket, addr.expect("an IP address"))
    }

    /// Receives until `want` datagrams are there. Loopback delivers within the send, so nothing has to be waited for.
    fn receive(socket: &Socket, want: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 65536];
        while all.len() < want {
            let mut each =
                |datagram: Datagram<'_>| all.push((datagram.from, datagram.data.to_vec()));
            let count = Datagrams.receive(socket, &mut buffer, &mut each);
            assert!((1..=BATCH).contains(&count.expect("datagrams are there")));
        }
        let error = Datagrams
            .receive(socket, &mut buffer, &mut |_| ())
            .expect_err("no more");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        all
    }

    #[test]
    fn datagrams_come_through_whole_and_in_order() {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let (receiver, to) = bound(ip);
            let (sender, from) = bound(ip);
            let data: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
            let run = Transmit {
                segment_size: Some(1000),
                ..Transmit::new(to, &data[..19_500])
            };
            let large = Transmit::new(to, &data);
            let transmits = [large, run, Transmit::new(to, b"")];
            let sent = Datagrams.send(&sender, ip.is_ipv6(), &mut false, &transmits);
            assert_eq!(sent.expect("sends"), 3);
            let received = receive(&receiver, 22);
            assert!(received.iter().all(|(addr, _)| *addr == from));
            assert_eq!(received[0].1, data);
            let run: Vec<u8> = received[1..21]
                .iter()
                .flat_map(|(_, data)| data.clone())
                .collect();
            assert_eq!(run, data[..19_500]);
            assert!(received[21].1.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_sent_is_told_for_the_first() {
        let (receiver, to) = bound(Ipv4Addr::LOCALHOST.into());
        let (sender, _) = bound(Ipv4Addr::LOCALHOST.into());
        let bad = Transmit::new("[::1]:9".parse().expect("an address"), b"bad");
        let good = Transmit::new(to, b"good");
        assert!(
            Datagrams
                .send(&sender, false, &mut false, &[bad, good])
                .is_err()
        );
        let sent = Datagrams.send(&sender, false, &mut false, &[good, bad]);
        assert_eq!(sent.expect("the first goes"), 1);
        assert_eq!(receive(&receiver, 1)[0].1, b"good");
    }

    #[test]
    fn interfaces_are_known_by_their_addresses() {
        let loopback = super::super::interfaces().expect("listed");
        let loopback = loopback
            .iter()
            .find(|interface| interface.is_loopback)
            .expect("there is one");
        assert!(
            addr_of(loopback.index)
                .expect("it has an address")
                .is_loopback()
        );
        assert_eq!(addr_of(0).expect("none is chosen"), Ipv4Addr::UNSPECIFIED);
        assert_eq!(
            addr_of(u32::MAX).expect_err("there is none").kind(),
            io::ErrorKind::AddrNotAvailable
        );
        let (socket, _) = bound(Ipv4Addr::UNSPECIFIED.into());
        let group = Ipv4Addr::new(224, 0, 0, 199);
        Datagrams::membership_v4(&socket, group, loopback.index, true).expect("joins");
        Datagrams::membership_v4(&socket, group, loopback.index, false).expect("leaves");
        Datagrams::multicast_interface(&socket, false, loopback.index).expect("set");
    }
}
