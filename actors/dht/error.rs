//! What can go wrong on our side. What others do wrong is counted, see [`Stats`](super::Stats).

use super::item::ItemError;

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// [`OPERATIONS_MAX`](super::OPERATIONS_MAX) are being carried out.
    #[error("too many orders at a time: wait for some to end")]
    Busy,
    /// No socket is open, or none of the family that is needed.
    #[error("the DHT has no socket for this")]
    NoSocket,
    /// The value cannot be stored.
    #[error("{0}")]
    Item(#[from] ItemError),
}

/// Why a saved table cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It is not what [`Dht::save`](super::Dht::save) writes.
    #[error("the saved routing table is damaged")]
    Damaged,
    /// It was written by a later version.
    #[error("the saved routing table is of a later version")]
    Version,
}
