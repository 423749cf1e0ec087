//! Packets as the bytes that they would be on a wire: IP, TCP, UDP and ICMP headers with their checksums.
//!
//! The world itself has no use for them; captures do.

use std::net::{IpAddr, SocketAddr};

use super::packet::{
    Body, HOPS, IPV4_HEADER, IPV6_HEADER, IcmpError, Packet, Protocol, Unreachable,
};
use super::segment::Segment;
use crate::io::driver::Ecn;

/// What endpoints shift the windows that they tell by (RFC 7323 §2), as Linux does for buffers of our sizes.
const WINDOW_SHIFT: u8 = 7;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;

/// Appends a packet to `out`, from its IP header on.
pub(super) fn encode(packet: &Packet, out: &mut Vec<u8>) {
    let (source, target) = (packet.source, packet.target);
    let protocol = match (&packet.body, target) {
        (Body::Tcp(_), _) => PROTOCOL_TCP,
        (Body::Udp(_), _) => PROTOCOL_UDP,
        (Body::Icmp(_), SocketAddr::V4(_)) => PROTOCOL_ICMP,
        (Body::Icmp(_), SocketAddr::V6(_)) => PROTOCOL_ICMPV6,
    };
    let start = out.len();
    let header = Header {
        source: source.ip(),
        target: target.ip(),
        protocol,
        ttl: packet.ttl,
        ecn: packet.ecn,
        number: packet.number,
        size: packet.size(),
    };
    header.encode(out);
    let body = out.len();
    match &packet.body {
        Body::Tcp(segment) => encode_segment(segment, source.port(), target.port(), out),
        Body::Udp(datagram) => {
            out.extend(source.port().to_be_bytes());
            out.extend(target.port().to_be_bytes());
            let len = 8 + datagram.data.len();
            out.extend((len as u16).to_be_bytes());
            out.extend([0; 2]);
            out.extend(&datagram.data);
        }
        Body::Icmp(error) => encode_error(error, out),
    }
    debug_assert_eq!(out.len() - start, packet.size());
    let checksum = match protocol {
        // ICMP over IPv4 alone does not cover the addresses (RFC 792).
        PROTOCOL_ICMP => finish(add(0, &out[body..])),
        _ => finish(add(header.pseudo(out.len() - body), &out[body..])),
    };
    let (at, checksum) = match protocol {
        PROTOCOL_TCP => (body + 16, checksum),
        // RFC 768: 0 would mean that there is none.
        PROTOCOL_UDP => (body + 6, if checksum == 0 { 0xffff } else { checksum }),
        _ => (body + 2, checksum),
    };
    out[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// What an IP header says.
struct Header {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    ttl: u8,
    ecn: Ecn,
    number: u32,
    /// Bytes of the whole packet.
    size: usize,
}

impl Header {
    fn encode(&self, out: &mut Vec<u8>) {
        let ecn = match self.ecn {
            Ecn::NotEct => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        };
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let start = out.len();
                out.extend([0x45, ecn]);
                out.extend((self.size as u16).to_be_bytes());
                out.extend((self.number as u16).to_be_bytes());
                // Nothing is ever fragmented.
                out.extend([0x40, 0, self.ttl, self.protocol, 0, 0]);
                out.extend(source.octets());
                out.extend(target.octets());
                let checksum = finish(add(0, &out[start..]));
                out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            }
            (source, target) => {
                out.extend([0x60, ecn << 4, 0, 0]);
                out.extend(((self.size - IPV6_HEADER) as u16).to_be_bytes());
                out.extend([self.protocol, self.ttl]);
                out.extend(octets(source));
                out.extend(octets(target));
            }
        }
    }

    /// The sum over the header that checksums of higher layers cover (RFC 9293 §3.1, RFC 8200 §8.1).
    fn pseudo(&self, len: usize) -> u32 {
        let mut sum = u32::from(self.protocol) + (len >> 16) as u32 + (len & 0xffff) as u32;
        for addr in [self.source, self.target] {
            sum = match addr {
                IpAddr::V4(addr) => add(sum, &addr.octets()),
                IpAddr::V6(addr) => add(sum, &addr.octets()),
            };
        }
        sum
    }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn encode_segment(segment: &Segment, source: u16, target: u16, out: &mut Vec<u8>) {
    let at = |isn: u32, position: u64| isn.wrapping_add(1).wrapping_add(position as u32);
    let seq = if segment.syn {
        segment.isn
    } else if segment.probe {
        // As Linux asks for room: with a byte that has been acknowledged long since.
        at(segment.isn, segment.seq).wrapping_sub(1)
    } else {
        at(segment.isn, segment.seq)
    };
    let acknowledged = if segment.ack {
        at(segment.peer_isn, segment.acknowledged)
    } else {
        0
    };
    let room = segment.edge.saturating_sub(segment.acknowledged);
    let window = if segment.syn {
        room
    } else {
        room.div_ceil(1 << WINDOW_SHIFT)
    };
    let has_data = !segment.data.is_empty();
    let flags = [segment.fin, segment.syn, segment.rst, has_data, segment.ack];
    let bits = flags
        .iter()
        .rev()
        .fold(0, |bits, flag| bits << 1 | u8::from(*flag));
    let words = (20 + segment.options_len()) / 4;
    out.extend(source.to_be_bytes());
    out.extend(target.to_be_bytes());
    out.extend(seq.to_be_bytes());
    out.extend(acknowledged.to_be_bytes());
    out.extend([(words as u8) << 4, bits]);
    out.extend((window.min(u16::MAX.into()) as u16).to_be_bytes());
    out.extend([0; 4]);
    if segment.syn {
        // Maximum segment size (RFC 9293 §3.2), a no-op, window scale (RFC 7323 §2.2).
        out.extend([2, 4]);
        out.extend((segment.mss.min(u16::MAX.into()) as u16).to_be_bytes());
        out.extend([1, 3, 3, WINDOW_SHIFT]);
    }
    out.extend(&segment.data);
}

/// Types and codes of RFC 792, RFC 1191, RFC 1812 and RFC 4443.
fn encode_error(error: &IcmpError, out: &mut Vec<u8>) {
    let is_v4 = error.target.is_ipv4();
    let (kind, code) = match (error.kind, is_v4) {
        (Unreachable::Host, true) => (3, 1),
        (Unreachable::Port, true) => (3, 3),
        (Unreachable::TooBig(_), true) => (3, 4),
        (Unreachable::Prohibited, true) => (3, 13),
        (Unreachable::Host, false) => (1, 3),
        (Unreachable::Port, false) => (1, 4),
        (Unreachable::TooBig(_), false) => (2, 0),
        (Unreachable::Prohibited, false) => (1, 1),
    };
    let mtu = match error.kind {
        Unreachable::TooBig(mtu) if is_v4 => mtu.min(u16::MAX.into()),
        Unreachable::TooBig(mtu) => mtu,
        _ => 0,
    };
    out.extend([kind, code, 0, 0]);
    out.extend(mtu.to_be_bytes());
    let (protocol, header) = match error.protocol {
        Protocol::Tcp => (
            PROTOCOL_TCP,
            error.isn.wrapping_add(1).wrapping_add(error.seq as u32),
        ),
        Protocol::Udp => {
            let ip = if is_v4 { IPV4_HEADER } else { IPV6_HEADER };
            (PROTOCOL_UDP, ((error.size - ip) as u32) << 16)
        }
    };
    let quoted = Header {
        source: error.source.ip(),
        target: error.target.ip(),
        protocol,
        ttl: HOPS,
        ecn: Ecn::NotEct,
        number: 0,
        size: error.size,
    };
    quoted.encode(out);
    out.extend(error.source.port().to_be_bytes());
    out.extend(error.target.port().to_be_bytes());
    out.extend(header.to_be_bytes());
}

/// Adds bytes to an internet checksum (RFC 1071).
fn add(mut sum: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    sum
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
