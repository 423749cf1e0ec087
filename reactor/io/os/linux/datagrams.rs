//! Datagrams in batches, with all that the kernel tells of them (ip(7), ipv6(7), udp(7)).

use std::collections::VecDeque;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;

use socket2::{InterfaceIndexOrAddress, Socket};

use super::super::syscall;
use super::set_option;
use crate::io::driver::{Datagram, Ecn, Transmit};
use crate::io::udp::{Run, Segments, canonical, is_icmp_error};

/// Datagrams a system call.
const BATCH: usize = 16;
/// The least room for a datagram in the caller's buffer. What is longer continues in the spill.
const SLOT_MIN: usize = 2048;
/// No datagram is longer.
const DATAGRAM_MAX: usize = 65_536;
/// Most segments the kernel cuts one send into (`UDP_MAX_SEGMENTS`), and most bytes of them: an IP packet's 65,535
/// less the headers.
const RUN_MAX: Run = Run {
    segments: 64,
    bytes: 65_535 - 48,
};
/// Room for control messages: packet info, hop limit and traffic class of IPv6 take 88 bytes.
const CONTROL_WORDS: usize = 16;

/// Working memory for the datagrams of one driver.
///
/// A message has two places to receive into: a slot of the caller's buffer, and behind it a stretch of the spill, which
/// is address space without memory until a datagram longer than the slot touches it. Such a one is put together and
/// held for the next call, with those behind it, since the buffer may have no room for all of them at once.
pub(crate) struct Datagrams {
    messages: [libc::mmsghdr; BATCH],
    pieces: [[libc::iovec; 2]; BATCH],
    names: [Name; BATCH],
    controls: [Control; BATCH],
    spill: Vec<u8>,
    is_spill_used: bool,
    /// Fewer than [`BATCH`] a socket, since a socket's are delivered before more are received.
    held: VecDeque<Held>,
}

/// A datagram that has been received but not delivered.
struct Held {
    fd: RawFd,
    from: SocketAddr,
    info: PacketInfo,
    data: Vec<u8>,
}

// SAFETY: the pointers in `messages` and `pieces` are only used by the call that has set them.
unsafe impl Send for Datagrams {}

/// Room for an address of either family.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Room for control messages, aligned for their headers.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u64; CONTROL_WORDS]);

impl Datagrams {
    pub(crate) fn new() -> Box<Datagrams> {
        // SAFETY: all zeros is valid for the plain C structures in here.
        let (messages, pieces, names) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let controls = [Control([0; CONTROL_WORDS]); BATCH];
        Box::new(Datagrams {
            messages,
            pieces,
            names,
            controls,
            spill: Vec::new(),
            is_spill_used: false,
            held: VecDeque::new(),
        })
    }

    /// Sets the options by which the kernel tells where a datagram came in. Whether it can segment.
    pub(crate) fn prepare(socket: &Socket, is_v6: bool) -> io::Result<bool> {
        let fd = socket.as_fd();
        let on: libc::c_int = 1;
        if is_v6 {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, &on)?;
            // Kernels before 4.20 lack it; there a socket may see groups that others joined.
            let _ = socket.set_multicast_all_v6(false);
        } else {
            set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)?;
            set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, &on)?;
            set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, &on)?;
            socket.set_multicast_all_v4(false)?;
        }
        let none: libc::c_int = 0;
        Ok(set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, &none).is_ok())
    }

    /// Sets the interface that multicast leaves by.
    pub(crate) fn multicast_interface(socket: &Socket, is_v6: bool, index: u32) -> io::Result<()> {
        if is_v6 {
            return socket.set_multicast_if_v6(index);
        }
        let any = libc::in_addr { s_addr: 0 };
        let ifindex = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let request = libc::ip_mreqn {
            imr_multiaddr: any,
            imr_address: any,
            imr_ifindex: ifindex,
        };
        set_option(
            socket.as_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            &request,
        )
    }

    /// Joins or leaves a group of IPv4.
    pub(crate) fn membership_v4(
        socket: &Socket,
        group: Ipv4Addr,
        index: u32,
        join: bool,
    ) -> io::Result<()> {
        let interface = InterfaceIndexOrAddress::Index(index);
        if join {
            socket.join_multicast_v4_n(&group, &interface)
        } else {
            socket.leave_multicast_v4_n(&group, &interface)
        }
    }

    /// One batch, see [`crate::io::driver::Driver::udp_receive`].
    pub(crate) fn receive(
        &mut self,
        socket: &Socket,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> io::Result<usize> {
        let fd = socket.as_raw_fd();
        if !self.held.is_empty() {
            let delivered = self.deliver_held(fd, buffer, each);
            if delivered > 0 {
                return Ok(delivered);
            }
        }
        let slot = (buffer.len() / BATCH).max(SLOT_MIN.min(buffer.len()));
        if slot == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slots = (buffer.len() / slot).min(BATCH);
        if self.spill.is_empty() {
            // Zeroed memory of this size comes straight from the kernel and is not touched by the allocator.
            self.spill = vec![0; BATCH * DATAGRAM_MAX];
        }
        for index in 0..slots {
            self.expect_datagram(index, &mut buffer[index * slot..][..slot]);
        }
        let count = self.receive_filled(fd, slots)?;
        let mut delivered = 0;
        for index in 0..count {
            let message = &self.messages[index];
            let len = (message.msg_len as usize).min(DATAGRAM_MAX);
            // SAFETY: the kernel has written the name.
            let from = unsafe { self.names[index].decode(message.msg_hdr.msg_namelen) };
            // The sockets are of the two internet families, whose names have been written whole.
            let Some(from) = from else { continue };
            // SAFETY: the kernel has written the control messages and their length.
            let info = unsafe { PacketInfo::decode(&message.msg_hdr) };
            let in_slot = &mut buffer[index * slot..][..len.min(slot)];
            if len <= slot && self.held.back().is_none_or(|held| held.fd != fd) {
                each(info.datagram(from, in_slot));
                delivered += 1;
                continue;
            }
            let mut data = in_slot.to_vec();
            if len > slot {
                self.is_spill_used = true;
                data.extend_from_slice(&self.spill[index * DATAGRAM_MAX..][slot..len]);
            }
            self.held.push_back(Held {
                fd,
                from,
                info,
                data,
            });
        }
        match delivered {
            0 => Ok(self.deliver_held(fd, buffer, each)),
            _ => Ok(delivered),
        }
    }

    /// Receives into the first `slots` messages.
    fn receive_filled(&mut self, fd: RawFd, slots: usize) -> io::Result<usize> {
        loop {
            let messages = self.messages.as_mut_ptr();
            // SAFETY: the first `slots` messages have just been set to point to live memory of the stated lengths:
            // slots of the caller's buffer and places of `self`, which are borrowed until `receive` returns.
            let count = unsafe {
                syscall!(recvmmsg(
                    fd,
                    messages,
                    slots as libc::c_uint,
                    0,
                    ptr::null_mut()
                ))
            };
            match count {
                Err(error)
                    if is_icmp_error(&error) || error.kind() == io::ErrorKind::Interrupted =>
                {
                    continue;
                }
                count => return Ok(count? as usize),
            }
        }
    }

    /// Delivers what is held for a socket, as far as the buffer reaches.
    fn deliver_held(
        &mut self,
        fd: RawFd,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> usize {
        let mut room = buffer;
        let mut delivered = 0;
        while let Some(index) = self.held.iter().position(|held| held.fd == fd) {
            if delivered > 0 && self.held[index].data.len() > room.len() {
                break;
            }
            let Some(held) = self.held.remove(index) else {
                break;
            };
            // Only one that is longer than the whole buffer is cut, as a read into a short buffer is.
            let len = held.data.len().min(room.len());
            let (place, rest) = room.split_at_mut(len);
            place.copy_from_slice(&held.data[..len]);
            room = rest;
            each(held.info.datagram(held.from, place));
            delivered += 1;
        }
        delivered
    }

    /// Drops what is held for a socket that closes.
    pub(crate) fn forget(&mut self, socket: &Socket) {
        self.held.retain(|held| held.fd != socket.as_raw_fd());
    }

    /// Gives memory back that an idle driver does not need.
    pub(crate) fn release(&mut self) {
        if self.is_spill_used {
            self.spill = Vec::new();
            self.held.shrink_to_fit();
            self.is_spill_used = false;
        }
    }

    /// Sends, see [`crate::io::driver::Driver::udp_send`]. `segments` says whether the kernel segments for us, and is
    /// turned off for good when it turns out that it cannot on this path.
    pub(crate) fn send(
        &mut self,
        socket: &Socket,
        is_v6: bool,
        segments: &mut bool,
        transmits: &[Transmit<'_>],
    ) -> io::Result<usize> {
        let mut cursor = Segments::new(transmits);
        let mut is_segmenting = *segments;
        while !cursor.is_done() {
            let run = is_segmenting.then_some(RUN_MAX);
            let (count, is_segmented, ahead) = match self.fill(&cursor, run, is_v6) {
                Ok(filled) => filled,
                Err(error) => return cursor.outcome(error),
            };
            match self.send_filled(socket, count) {
                Ok(sent) if sent == count => cursor = ahead,
                Ok(sent) => (0..sent).for_each(|_| cursor.skip(run)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The interface cannot checksum segments, and will not learn it.
                    Some(libc::EIO) if is_segmented => (is_segmenting, *segments) = (false, false),
                    // This segment size is beyond what the path takes in one piece.
                    Some(libc::EINVAL | libc::EMSGSIZE) if is_segmented => is_segmenting = false,
                    // The datagram is lost as on the way; no edge would tell when there is room.
                    Some(libc::ENOBUFS | libc::ECONNREFUSED) => cursor.skip(run),
                    _ => return cursor.outcome(error),
                },
            }
        }
        Ok(transmits.len())
    }

    /// Prepares the next messages; how many, whether the first is segmented, and the cursor behind them.
    fn fill<'a>(
        &mut self,
        cursor: &Segments<'a>,
        run: Option<Run>,
        is_v6: bool,
    ) -> io::Result<(usize, bool, Segments<'a>)> {
        let mut ahead = cursor.clone();
        let mut is_segmented = false;
        let mut count = 0;
        while count < BATCH {
            let Some((transmit, chunk)) = ahead.peek(run) else {
                break;
            };
            let segment = transmit
                .segment_size
                .filter(|&size| usize::from(size) < chunk.len());
            match self.put_datagram(count, transmit, chunk, segment, is_v6) {
                // What comes before it is sent first; then it is the first itself.
                Err(_) if count > 0 => break,
                outcome => outcome?,
            }
            is_segmented |= count == 0 && segment.is_some();
            count += 1;
            ahead.skip(run);
        }
        Ok((count, is_segmented, ahead))
    }

    fn send_filled(&mut self, socket: &Socket, count: usize) -> io::Result<usize> {
        let messages = self.messages.as_mut_ptr();
        // By number, since musl's sendmmsg is a loop over sendmsg. The padding that musl has in these structures is
        // zero here, which makes them the kernel's.
        // SAFETY: the first `count` messages have just been set to point to memory that lives until this returns: the
        // data of the transmits and places of `self`.
        let sent = unsafe {
            syscall!(syscall(
                libc::SYS_sendmmsg,
                socket.as_raw_fd(),
                messages,
                count as libc::c_uint,
                libc::MSG_NOSIGNAL
            ))
        }?;
        // Between 1 and `count`.
        Ok(sent as usize)
    }

    fn expect_datagram(&mut self, index: usize, slot: &mut [u8]) {
        let tail =
            &mut self.spill[index * DATAGRAM_MAX..][..DATAGRAM_MAX][slot.len().min(DATAGRAM_MAX)..];
        self.pieces[index] = [
            libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            },
            libc::iovec {
                iov_base: tail.as_mut_ptr().cast(),
                iov_len: tail.len(),
            },
        ];
        let header = &mut self.messages[index].msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[index]).cast();
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_iov = self.pieces[index].as_mut_ptr();
        header.msg_iovlen = 2;
        header.msg_control = ptr::from_mut(&mut self.controls[index]).cast();
        header.msg_controllen = size_of::<Control>() as _;
        header.msg_flags = 0;
    }

    fn put_datagram(
        &mut self,
        index: usize,
        transmit: &Transmit<'_>,
        chunk: &[u8],
        segment: Option<u16>,
        is_v6: bool,
    ) -> io::Result<()> {
        let header = &mut self.messages[index].msg_hdr;
        header.msg_namelen = self.names[index].encode(canonical(transmit.to));
        header.msg_name = ptr::from_mut(&mut self.names[index]).cast();
        // The kernel only reads from it.
        self.pieces[index][0] = libc::iovec {
            iov_base: chunk.as_ptr().cast_mut().cast(),
            iov_len: chunk.len(),
        };
        header.msg_iov = self.pieces[index].as_mut_ptr();
        header.msg_iovlen = 1;
        header.msg_flags = 0;
        let mut control = ControlWriter {
            control: &mut self.controls[index],
            len: 0,
        };
        if transmit.source.is_some() || transmit.interface.is_some() {
            control.put_source(transmit, is_v6)?;
        }
        if transmit.ecn != Ecn::NotEct {
            let bits = libc::c_int::from(ecn_bits(transmit.ecn));
            match is_v6 {
                true => control.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, bits),
                false => control.put(libc::IPPROTO_IP, libc::IP_TOS, bits),
            }
        }
        if let Some(segment) = segment {
            control.put(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        header.msg_controllen = control.len as _;
        header.msg_control = match control.len {
            0 => ptr::null_mut(),
            _ => ptr::from_mut(&mut self.controls[index]).cast(),
        };
        Ok(())
    }
}

impl Name {
    /// # Safety
    ///
    /// `len` bytes of it have been written by the kernel.
    unsafe fn decode(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        let len = len as usize;
        // SAFETY: every bit pattern is valid for these plain structures, and the union is zeroed at first.
        let (v4, v6) = unsafe { (&self.v4, &self.v6) };
        let addr = match libc::c_int::from(v4.sin_family) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                // The flow label is of no use to anybody here and would make equal senders unequal.
                SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into()
            }
            _ => return None,
        };
        Some(canonical(addr))
    }

    fn encode(&mut self, addr: SocketAddr) -> libc::socklen_t {
        match addr {
            SocketAddr::V4(addr) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: in_addr(*addr.ip()),
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(addr) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: addr.ip().octets(),
                    },
                    sin6_scope_id: addr.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

/// What the control messages of a datagram say.
#[derive(Clone, Copy, Default)]
struct PacketInfo {
    to: Option<IpAddr>,
    interface: Option<u32>,
    ttl: Option<u8>,
    ecn: Ecn,
}

impl PacketInfo {
    fn datagram<'a>(&self, from: SocketAddr, data: &'a mut [u8]) -> Datagram<'a> {
        let PacketInfo {
            to,
            interface,
            ttl,
            ecn,
        } = *self;
        Datagram {
            from,
            to,
            interface,
            ttl,
            ecn,
            data,
        }
    }

    /// # Safety
    ///
    /// `header` points to control messages that the kernel has written.
    unsafe fn decode(header: &libc::msghdr) -> PacketInfo {
        let mut info = PacketInfo::default();
        // SAFETY: the kernel keeps each message within the given length and marks the end, which these follow.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !message.is_null() {
            // SAFETY: not null, so a whole header lies there.
            let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
            // SAFETY: the data of a message lies behind its header.
            let data = unsafe { libc::CMSG_DATA(message) };
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // SAFETY: this message carries an `in_pktinfo`.
                    let packet = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                    info.to = Some(Ipv4Addr::from(packet.ipi_addr.s_addr.to_ne_bytes()).into());
                    info.interface = u32::try_from(packet.ipi_ifindex).ok();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    // SAFETY: this message carries an `in6_pktinfo`.
                    let packet = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                    info.to = Some(IpAddr::from(packet.ipi6_addr.s6_addr).to_canonical());
                    info.interface = Some(packet.ipi6_ifindex as u32);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    // SAFETY: these messages carry an `int`.
                    let ttl = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                    info.ttl = u8::try_from(ttl).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    // SAFETY: this message carries one byte.
                    info.ecn = ecn_from_bits(unsafe { data.read() });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    // SAFETY: this message carries an `int`.
                    let class = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                    info.ecn = ecn_from_bits(class as u8);
                }
                _ => {}
            }
            // SAFETY: as for the first.
            message = unsafe { libc::CMSG_NXTHDR(header, message) };
        }
        info
    }
}

/// Writes control messages one behind the other.
struct ControlWriter<'a> {
    control: &'a mut Control,
    len: usize,
}

impl ControlWriter<'_> {
    fn put<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: these only calculate.
        let (space, len) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        assert!(
            self.len + space <= size_of::<Control>(),
            "the control messages of one datagram fit"
        );
        // SAFETY: all zeros is a valid header; `msg_control` is set to live memory below.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        header.cmsg_level = level;
        header.cmsg_type = kind;
        header.cmsg_len = len as _;
        // SAFETY: the assertion above leaves room for the header and the value behind it; `len` is a multiple of the
        // alignment, as `CMSG_SPACE` rounds up to it.
        unsafe {
            let place = ptr::from_mut(self.control).cast::<u8>().add(self.len);
            place.cast::<libc::cmsghdr>().write_unaligned(header);
            libc::CMSG_DATA(place.cast())
                .cast::<T>()
                .write_unaligned(value);
        }
        self.len += space;
    }

    /// Source address and interface.
    fn put_source(&mut self, transmit: &Transmit<'_>, is_v6: bool) -> io::Result<()> {
        let interface = transmit.interface.unwrap_or(0);
        match (is_v6, transmit.source.map(|source| source.to_canonical())) {
            (true, source @ (None | Some(IpAddr::V6(_)))) => {
                let source = if let Some(IpAddr::V6(ip)) = source {
                    ip
                } else {
                    Ipv6Addr::UNSPECIFIED
                };
                let addr = libc::in6_addr {
                    s6_addr: source.octets(),
                };
                let info = libc::in6_pktinfo {
                    ipi6_addr: addr,
                    ipi6_ifindex: interface as _,
                };
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            (false, source @ (None | Some(IpAddr::V4(_)))) => {
                let source = if let Some(IpAddr::V4(ip)) = source {
                    ip
                } else {
                    Ipv4Addr::UNSPECIFIED
                };
                let info = libc::in_pktinfo {
                    ipi_ifindex: interface as _,
                    ipi_spec_dst: in_addr(source),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "source address of the other family",
                ));
            }
        }
        Ok(())
    }
}

fn ecn_bits(ecn: Ecn) -> u8 {
    match ecn {
        Ecn::NotEct => 0b00,
        Ecn::Ect1 => 0b01,
        Ecn::Ect0 => 0b10,
        Ecn::Ce => 0b11,
    }
}

fn ecn_from_bits(class: u8) -> Ecn {
    match class & 0b11 {
        0b01 => Ecn::Ect1,
        0b10 => Ecn::Ect0,
        0b11 => Ecn::Ce,
        _ => Ecn::NotEct,
    }
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
