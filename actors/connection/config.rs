//! What all connections of a node have in common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::ByteBudget;

use super::cipher::Suite;
use super::noise::{NetworkKey, StaticKey};
use super::preface::{Preface, ProtocolHash, WIRE_VERSIONS};
use crate::identity::Identity;

/// The smallest window that may be announced. Any record of 16 KiB has to fit four times.
pub const WINDOW_MIN: u32 = 64 * 1024;
/// The largest window that may be announced.
pub const WINDOW_MAX: u32 = 16 * 1024 * 1024;
/// The most that [`Connection::set_message_max`](super::Connection::set_message_max) can allow.
pub const MESSAGE_MAX_TRUSTED: u32 = 16 * 1024 * 1024;
/// Bytes for reassembly that a node has by default.
pub const REASSEMBLY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Shared by all connections of a node behind one pointer. To change something for later connections, make another.
#[derive(Debug)]
pub struct Config {
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// The Noise static key.
    pub static_key: StaticKey,
    /// The key of a private network. Both sides must have the same or none.
    pub network_key: Option<NetworkKey>,
    /// What is said in clear.
    pub preface: Preface,
    /// Whether this machine has AES in hardware. Never looked up here, so that a run can be repeated elsewhere.
    pub aes_hardware: bool,
    /// Offer to send frames in clear, without encryption or integrity.
    #[cfg(feature = "lab-plaintext")]
    pub lab_plaintext: bool,
    /// Feature bits of the subsystems.
    pub features: u64,
    /// Where this node listens; the first 16 are announced.
    pub listen: Vec<SocketAddr>,
    /// A name for people; not announced if longer than 64 bytes or with control characters.
    pub name: Option<String>,
    /// Name and version of the program; likewise.
    pub agent: String,
    /// Bytes and counts.
    pub limits: ConnectionLimits,
    /// Times.
    pub timing: ConnectionTiming,
    /// What messages larger than their window draw on.
    pub reassembly: ByteBudget,
    /// Fill frames up to a multiple of 64 bytes, to hide the sizes of small messages.
    pub padding: bool,
}

impl Config {
    /// A node with defaults for the rest: no network key, ChaChaPoly only, default limits, a budget of its own.
    pub fn new(identity: Arc<Identity>, static_key: StaticKey, protocol: ProtocolHash) -> Config {
        Config {
            identity,
            static_key,
            network_key: None,
            preface: Preface::new(WIRE_VERSIONS, protocol),
            aes_hardware: false,
            #[cfg(feature = "lab-plaintext")]
            lab_plaintext: false,
            features: 0,
            listen: Vec::new(),
            name: None,
            agent: concat!("mischief/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: ConnectionLimits::default(),
            timing: ConnectionTiming::default(),
            reassembly: ByteBudget::new(REASSEMBLY_BYTES_MAX),
            padding: false,
        }
    }

    /// The suites that this node offers, best first.
    pub(crate) fn suites(&self) -> impl Iterator<Item = Suite> {
        #[cfg(feature = "lab-plaintext")]
        let plaintext = self.lab_plaintext.then_some(Suite::Plaintext);
        #[cfg(not(feature = "lab-plaintext"))]
        let plaintext = None;
        let aes = self.aes_hardware.then_some(Suite::Aes256Gcm);
        plaintext.into_iter().chain(aes).chain([Suite::ChaChaPoly])
    }
}

/// Bytes and counts of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Window of each stream in bytes, whole records counted; announced to the peer. 64 KiB to 16 MiB.
    pub window: u32,
    /// The largest body of a message accepted from a peer in bytes; announced to the peer.
    pub message_max: u32,
    /// A message is queued whole while fewer bytes than this wait for the peer.
    pub send_queue_high: usize,
    /// [`Event::Drained`](super::Event::Drained) comes when the queue has fallen to this after it was full.
    pub send_queue_low: usize,
    /// The same as `send_queue_high` for gossip.
    pub gossip_queue_high: usize,
    /// The same as `send_queue_high` for each bulk stream.
    pub bulk_queue_high: usize,
    /// Bulk streams that the peer may have open at once; announced to the peer.
    pub bulk_streams_max: u16,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            window: 256 * 1024,
            message_max: 1024 * 1024,
            send_queue_high: 1024 * 1024,
            send_queue_low: 512 * 1024,
            gossip_queue_high: 256 * 1024,
            bulk_queue_high: 256 * 1024,
            bulk_streams_max: 64,
        }
    }
}

/// Times of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTiming {
    /// The whole handshake, from the first byte to `Accept`.
    pub handshake: Duration,
    /// A ping is sent when nothing has come for this long.
    pub keep_alive: Duration,
    /// A ping is missed when nothing has come for this long after it; the second one in a row ends the connection.
    pub ping_timeout: Duration,
    /// Each of these a frame that has begun must grow by 1 KiB, and a message that draws on the budget by 16 KiB.
    pub progress: Duration,
    /// How long a close may take to send what is queued, which is then dropped; and how long to hear the peer's end.
    pub close: Duration,
    /// A key is replaced after this long.
    pub rekey: Duration,
    /// A key is replaced after this many frames.
    pub rekey_frames: u32,
    /// Buffers are kept for this long after the last use.
    pub linger: Duration,
}

impl Default for ConnectionTiming {
    fn default() -> ConnectionTiming {
        ConnectionTiming {
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            progress: Duration::from_secs(10),
            close: Duration::from_secs(3),
            rekey: Duration::from_secs(3600),
            rekey_frames: 1 << 20,
            linger: Duration::from_secs(2),
        }
    }
}
