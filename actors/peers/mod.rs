//! Who is connected.

mod id;

pub use id::PeerId;
