//! Captures of what crosses the network, in the pcapng format that Wireshark and tshark read.
//!
//! Each machine is an interface of its own with the machine's name, and packets are raw IP (`LINKTYPE_RAW`): there is no
//! link layer in a world.

use std::io::{self, Write};

use super::map::FastMap;
use super::node::{MachineId, wall_nanos};
use super::packet::{Loss, Packet};
use super::state::State;
use super::wire;
use super::world::{SimNode, SimWorld};
use crate::time::Instant;

// Block types and option codes of the pcapng specification (draft-ietf-opsawg-pcapng).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_USER_APPLICATION: u16 = 4;
const OPTION_INTERFACE_NAME: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_PACKET_FLAGS: u16 = 2;
/// Packets begin with an IP header of either version.
const LINK_TYPE_RAW: u16 = 101;
/// Time stamps count nanoseconds.
const NANOSECONDS: u8 = 9;

/// Which way a packet goes at the interface where it is captured, as the lowest bits of its flags.
#[derive(Clone, Copy)]
enum Direction {
    Inbound = 1,
    Outbound = 2,
}

pub(super) struct Capture {
    /// The one machine whose packets are taken, sent and received; else all that are sent.
    machine: Option<MachineId>,
    writer: Box<dyn Write>,
    interfaces: FastMap<MachineId, u32>,
    /// A block that is being made; kept for its room.
    block: Vec<u8>,
    /// The first error of the writer, after which nothing more is written.
    error: Option<io::Error>,
}

impl SimWorld {
    /// Writes every packet from now on as pcapng: once for each link that it takes, where it is sent, those included
    /// that are lost on the way. A packet whose loss is decided there and then carries the reason as its comment; the
    /// readable trace tells the others. A datagram to a group is written once for each receiver.
    ///
    /// The writer gets two or three calls for each packet, so it should have a buffer.
    pub fn capture_to(&self, writer: impl Write + 'static) {
        self.state().add_capture(None, Box::new(writer));
    }

    /// Ends all captures, those of machines too. Tells the first error that a writer has had; its file ends there.
    pub fn end_captures(&self) -> io::Result<()> {
        let captures = std::mem::take(&mut self.state().captures);
        let mut result = Ok(());
        for mut capture in captures {
            let end = match capture.error.take() {
                Some(error) => Err(error),
                None => capture.writer.flush(),
            };
            result = result.and(end);
        }
        result
    }
}

impl SimNode {
    /// Writes what this machine sends and receives from now on as pcapng, as a capturing program on it would see it:
    /// packets sent whatever becomes of them, and those that come in, also if no socket takes them. See
    /// [`SimWorld::capture_to`].
    pub fn capture_to(&self, writer: impl Write + 'static) {
        let mut state = self.world().state();
        state.add_capture(Some(self.id()), Box::new(writer));
    }
}

impl State {
    fn add_capture(&mut self, machine: Option<MachineId>, writer: Box<dyn Write>) {
        let mut capture = Capture {
            machine,
            writer,
            interfaces: FastMap::default(),
            block: Vec::new(),
            error: None,
        };
        capture.begin(self.seed);
        self.captures.push(capture);
    }

    pub(super) fn capture_sent(&mut self, packet: &Packet, loss: Option<Loss>) {
        self.capture(packet, packet.from, Direction::Outbound, loss);
    }

    pub(super) fn capture_received(&mut self, packet: &Packet) {
        self.capture(packet, packet.to, Direction::Inbound, None);
    }

    fn capture(
        &mut self,
        packet: &Packet,
        at: MachineId,
        direction: Direction,
        loss: Option<Loss>,
    ) {
        let time = wall_nanos(Instant::ZERO + self.elapsed(), 0);
        let name = || self.network.name_of(at);
        for capture in &mut self.captures {
            let is_wanted = match capture.machine {
                Some(machine) => machine == at,
                None => matches!(direction, Direction::Outbound),
            };
            if is_wanted && capture.error.is_none() {
                let interface = capture.interface(at, name);
                capture.packet(packet, interface, time, direction, loss);
            }
        }
    }
}

impl Capture {
    fn begin(&mut self, seed: u64) {
        let block = &mut self.block;
        block.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        // Version 1.0, and a section of unknown length.
        block.extend(1u16.to_le_bytes());
        block.extend(0u16.to_le_bytes());
        block.extend(u64::MAX.to_le_bytes());
        let comment = format!("simulated world of seed {seed}");
        option(block, OPTION_COMMENT, comment.as_bytes());
        option(block, OPTION_USER_APPLICATION, b"mischief-reactor");
        option(block, OPTION_END, &[]);
        self.write_block(SECTION_HEADER);
    }

    /// The number of a machine's interface, which is described when it is first needed.
    fn interface(&mut self, machine: MachineId, name: impl Fn() -> String) -> u32 {
        if let Some(number) = self.interfaces.get(&machine) {
            return *number;
        }
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(machine, number);
        let block = &mut self.block;
        block.extend(LINK_TYPE_RAW.to_le_bytes());
        block.extend([0; 2]);
        // No limit to what is captured of a packet.
        block.extend(0u32.to_le_bytes());
        option(block, OPTION_INTERFACE_NAME, name().as_bytes());
        option(block, OPTION_TIME_RESOLUTION, &[NANOSECONDS]);
        option(block, OPTION_END, &[]);
        self.write_block(INTERFACE_DESCRIPTION);
        number
    }

    fn packet(
        &mut self,
        packet: &Packet,
        interface: u32,
        time: u64,
        direction: Direction,
        loss: Option<Loss>,
    ) {
        let block = &mut self.block;
        let size = packet.size() as u32;
        block.extend(interface.to_le_bytes());
        block.extend(((time >> 32) as u32).to_le_bytes());
        block.extend((time as u32).to_le_bytes());
        block.extend(size.to_le_bytes());
        block.extend(size.to_le_bytes());
        wire::encode(packet, block);
        pad(block);
        option(
            block,
            OPTION_PACKET_FLAGS,
            &(direction as u32).to_le_bytes(),
        );
        if let Some(loss) = loss {
            option(block, OPTION_COMMENT, format!("lost: {loss}").as_bytes());
        }
        option(block, OPTION_END, &[]);
        self.write_block(ENHANCED_PACKET);
    }

    /// Writes the block that is in `block` up to its last option.
    fn write_block(&mut self, kind: u32) {
        // Kind, length, and the length once more at the end.
        let length = (self.block.len() as u32 + 12).to_le_bytes();
        self.block.extend(length);
        let head = [kind.to_le_bytes(), length].concat();
        let result = self.writer.write_all(&head);
        let result = result.and_then(|()| self.writer.write_all(&self.block));
        self.error = result.err();
        self.block.clear();
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    pad(block);
}

/// Fills up to a multiple of four bytes.
fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}
