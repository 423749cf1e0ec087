//! Why a call failed.

use std::io;

use mischief_actors::connection::endpoint::AddrError;
use mischief_actors::mdns::MdnsError;
use mischief_actors::peers;
use mischief_actors::peers::actor::UpkeepError;
use mischief_reactor::AskError;

use crate::data_dir::DataDirError;
use crate::identity_file::IdentityError;

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be read.
    #[error(transparent)]
    BadAddr(#[from] AddrError),
    /// Nobody was there, or one of the two nodes did not want the connection.
    #[error(transparent)]
    Failed(#[from] peers::ConnectError),
    /// No answer of this node itself.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl ConnectError {
    /// The stable name of this error in the machine interface.
    pub fn kind(&self) -> &'static str {
        match self {
            ConnectError::BadAddr(error) => error.kind(),
            ConnectError::Failed(error) => error.kind(),
            ConnectError::Node(error) => error.kind(),
        }
    }
}

impl From<AskError> for ConnectError {
    fn from(error: AskError) -> ConnectError {
        ConnectError::Node(NodeError::from(error))
    }
}

/// Why a node did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The peer is not connected.
    #[error("the peer is not connected")]
    NotConnected,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The node has too much to do.
    #[error("the node is busy: {0}")]
    Busy(AskError),
    /// No answer in time.
    #[error("{0}")]
    TimedOut(AskError),
    /// A core thread must not wait.
    #[error("a core thread must not wait")]
    OnCoreThread,
    /// It was not done.
    #[error(transparent)]
    Upkeep(UpkeepError),
}

impl NodeError {
    /// The stable name of this error in the machine interface.
    pub fn kind(&self) -> &'static str {
        match self {
            NodeError::NotConnected => "gone",
            NodeError::Stopped => "stopping",
            NodeError::Busy(_) => "busy",
            NodeError::TimedOut(_) => "timeout",
            NodeError::OnCoreThread => "internal",
            NodeError::Upkeep(error) => error.kind(),
        }
    }
}

impl From<AskError> for NodeError {
    fn from(error: AskError) -> NodeError {
        match error {
            AskError::NoReply => NodeError::Stopped,
            AskError::OnCoreThread => NodeError::OnCoreThread,
            AskError::TimedOut { .. } => NodeError::TimedOut(error),
            error => NodeError::Busy(error),
        }
    }
}

/// Which peer the beginning of an id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// None.
    #[error("no connected peer has an id that begins like that")]
    None,
    /// More than one.
    #[error("the ids of {0} connected peers begin like that")]
    Several(usize),
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address to listen on cannot be read.
    #[error("cannot listen on {text:?}: {error}")]
    BadListenAddr {
        /// What was given.
        text: String,
        /// What is wrong with it.
        error: AddrError,
    },
    /// The system refused an address to listen on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The type under which to announce the node cannot be one.
    #[error(transparent)]
    BadMdns(MdnsError),
    /// The application's protocol has no name or version, or too long a one.
    #[error(
        "a protocol has a name and a version, each of 1 to 64 bytes without control characters"
    )]
    BadProtocol,
    /// The node's own name is too long or not printable.
    #[error("a name has 1 to 64 bytes without control characters")]
    BadName,
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cores did not start.
    #[error(transparent)]
    Runtime(#[from] mischief_reactor::StartError),
    /// An actor did not start.
    #[error("an actor of the node did not start: {0}")]
    Actor(#[from] mischief_reactor::SpawnError),
    /// The runtime did not answer: it is shutting down, or this is one of its core threads.
    #[error("the runtime does not answer: {0}")]
    NoAnswer(#[from] AskError),
}
