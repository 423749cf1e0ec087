//! How the DHT is to be.

use super::storage::StorageLimits;

/// Whether we answer others (BEP 43).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// As soon as it is proven that others reach us: by a query from a stranger, or by our own that came back to us at the
    /// address that others see.
    #[default]
    Auto,
    /// Never: others are told not to keep us.
    Client,
    /// Always.
    Server,
}

/// Settings and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DhtConfig {
    /// Whether we answer others.
    pub role: Role,
    /// Whether ids have to fit addresses (BEP 42) for nodes to be stored on and to end lookups. On unless a test shows why.
    pub checks_ids: bool,
    /// Bytes a second that are sent on the average, answers and queries together, with the headers of IP and UDP. After a
    /// silence three times as much at once.
    pub upload_rate: u32,
    /// What others may store with us.
    pub storage: StorageLimits,
}

impl Default for DhtConfig {
    fn default() -> DhtConfig {
        DhtConfig {
            role: Role::Auto,
            checks_ids: true,
            upload_rate: 8000,
            storage: StorageLimits::default(),
        }
    }
}
