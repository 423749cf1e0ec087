//! What the programs beside this folder share: [`harness`], which runs measurements and prints figures; [`orders`], what a
//! process of nodes can be told, and [`session`], which tells two of them; [`system`], what the operating system says of a
//! process; [`other`], a second process; [`product`], the binaries; [`results`], [`report`] and [`plot`], what becomes of the
//! figures.
#![forbid(unsafe_code)]

pub mod harness;
pub mod orders;
pub mod other;
pub mod plot;
pub mod product;
pub mod report;
pub mod results;
pub mod session;
pub mod system;
