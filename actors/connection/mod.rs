//! x
mod cipher;
mod config;
mod error;
mod handshake;
mod hello;
mod noise;
mod preface;
#[cfg(test)]
mod tests;
pub use cipher::*;
pub use config::*;
pub use error::*;
pub use hello::*;
pub use noise::*;
pub use preface::*;
