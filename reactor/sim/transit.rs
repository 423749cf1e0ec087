//! The way of a packet: from the machine that makes it over links and routers to the machine that it is for, or to
//! where it is lost.

use std::net::{IpAddr, SocketAddr};

use super::node::MachineId;
use super::packet::{
    Body, HOPS, IPV4_HEADER, IPV6_HEADER, Loss, Packet, Protocol, TCP_HEADER, Unreachable,
};
use super::queue::Event;
use super::state::State;
use super::trace::Kind;
use crate::io::driver::Ecn;

impl State {
    /// Sends a unicast packet that a machine has made.
    pub(super) fn route(
        &mut self,
        from: MachineId,
        source: SocketAddr,
        target: SocketAddr,
        ecn: Ecn,
        body: Body,
    ) {
        let realm = self.network.realm_of(from);
        let packet = Packet {
            from,
            to: from,
            origin: from,
            realm,
            source,
            target,
            ttl: HOPS,
            ecn,
            number: self.next_number(),
            is_shaped: false,
            body,
        };
        // A socket whose address the machine has lost meanwhile still sends, to nobody.
        if !self.node(from).owns(source.ip()) {
            return self.lose(&packet, Loss::NoRoute);
        }
        self.send_on(from, realm, packet);
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.packets_made = self.packets_made.wrapping_add(1);
        self.packets_made
    }

    /// Sends a packet over one link.
    pub(super) fn transmit(&mut self, mut packet: Packet) {
        self.stats.packets_sent += 1;
        if let Body::Tcp(segment) = &mut packet.body
            && segment.syn
        {
            let mtu = self.network.mtu(packet.from, packet.to) as usize;
            let payload = mtu.saturating_sub(headers(packet.target.ip()));
            segment.mss = segment.mss.min(u32::try_from(payload).unwrap_or(u32::MAX));
        }
        self.note_packet(Kind::Sent, &packet);
        let size = packet.size();
        match self
            .network
            .plan(&packet, size, self.now, &mut self.network_prng)
        {
            Ok(plan) => {
                if !self.captures.is_empty() {
                    self.capture_sent(&packet, None);
                }
                if let Some(again_at) = plan.again_at {
                    let copy = Box::new(packet.clone());
                    self.queue.push(again_at, Event::Arrival(copy));
                }
                self.queue.push(plan.at, Event::Arrival(Box::new(packet)));
            }
            Err(loss) => {
                if !self.captures.is_empty() {
                    self.capture_sent(&packet, Some(loss));
                }
                self.lose(&packet, loss);
                if loss == Loss::TooLarge {
                    let mtu = self.network.mtu(packet.from, packet.to);
                    self.send_error(packet.from, &packet, Unreachable::TooBig(mtu));
                }
            }
        }
    }

    /// Takes a packet that has crossed a link. What comes back is for a socket of this machine.
    pub(super) fn arrive(&mut self, mut packet: Packet) -> Option<Packet> {
        if self.network.is_cut(packet.from, packet.to) {
            self.lose(&packet, Loss::Partition);
            return None;
        }
        if self.network.is_down(packet.from, packet.to, self.now) {
            self.lose(&packet, Loss::LinkDown);
            return None;
        }
        match self.network.pass_down(&packet, self.now) {
            None => {}
            Some(Ok(at)) => {
                packet.is_shaped = true;
                self.queue.push(at, Event::Arrival(Box::new(packet)));
                return None;
            }
            Some(Err(loss)) => {
                self.lose(&packet, loss);
                return None;
            }
        }
        if !self.node(packet.to).power.receives() {
            self.lose(&packet, Loss::Asleep);
            return None;
        }
        if !self.captures.is_empty() {
            self.capture_received(&packet);
        }
        if let Some(router) = self.network.router_of(packet.to) {
            self.forward(router, packet);
            return None;
        }
        // Two machines that have no link with each other can be cut off from each other all the same.
        if packet.origin != packet.from && self.network.is_cut(packet.origin, packet.to) {
            self.lose(&packet, Loss::Partition);
            return None;
        }
        Some(packet)
    }

    /// Tells the sender of a packet why it went no further, if the world's machines do that.
    pub(super) fn send_error(&mut self, at: MachineId, packet: &Packet, kind: Unreachable) {
        if !self.sends_icmp || !packet.is_unicast() {
            return;
        }
        let Some(error) = packet.error(kind) else {
            return;
        };
        let answer = Packet {
            from: at,
            to: at,
            origin: at,
            source: SocketAddr::new(packet.target.ip(), 0),
            target: SocketAddr::new(packet.source.ip(), 0),
            realm: packet.realm,
            ttl: HOPS,
            ecn: Ecn::NotEct,
            number: self.next_number(),
            is_shaped: false,
            body: Body::Icmp(error),
        };
        if packet.from == at {
            // What a box cannot send on it tells itself, and so whom it sent it for.
            return self.transmit(answer);
        }
        self.send_on(at, packet.realm, answer);
    }

    /// Takes an error message to the socket that it concerns. As with real drivers, UDP sockets hear nothing of it.
    pub(super) fn deliver_error(&mut self, packet: &Packet) {
        let Body::Icmp(error) = packet.body else {
            return;
        };
        self.note_delivery(packet);
        if error.protocol != Protocol::Tcp {
            return;
        }
        let pair = (error.source, error.target);
        if let Some(key) = self.node(packet.to).streams.get(&pair).copied()
            && let Some(endpoint) = self.tcp.get_mut(key)
        {
            endpoint.handle_error(&error, self.now, &mut self.socket_prng);
            self.flush(key);
        }
    }

    pub(super) fn note_delivery(&mut self, packet: &Packet) {
        self.stats.packets_delivered += 1;
        self.note_packet(Kind::Delivered, packet);
    }

    pub(super) fn lose(&mut self, packet: &Packet, loss: Loss) {
        self.stats.packets_lost += 1;
        self.trace.note(Kind::Lost, &[loss as u64]);
        if self.trace.is_read() {
            self.trace_packet(&format!("lost ({loss})"), packet);
        }
    }

    fn note_packet(&mut self, kind: Kind, packet: &Packet) {
        let ends = [packet.from, packet.to].map(|node| u64::from(node.0));
        let ports = u64::from(packet.source.port()) << 16 | u64::from(packet.target.port());
        self.trace.note(kind, &[ends[0], ends[1], ports]);
        match &packet.body {
            Body::Tcp(segment) => {
                self.trace.note(kind, &[segment.shape()]);
                self.trace.bytes(&segment.data);
            }
            Body::Udp(body) => self.trace.bytes(&body.data),
            Body::Icmp(error) => self.trace.note(kind, &[error.protocol as u64, error.seq]),
        }
        if self.trace.is_read() {
            let verb = if matches!(kind, Kind::Sent) {
                "send"
            } else {
                "recv"
            };
            self.trace_packet(verb, packet);
        }
    }

    fn trace_packet(&mut self, what: &str, packet: &Packet) {
        let [from, to] = [packet.from, packet.to].map(|node| self.network.name_of(node));
        self.trace_line(|| format!("{what} {from} > {to} {packet}"));
    }
}

/// Bytes of the headers of a TCP packet to an address.
pub(super) fn headers(target: IpAddr) -> usize {
    let ip = if target.is_ipv4() {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    ip + TCP_HEADER
}
