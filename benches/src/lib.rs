//! What the programs beside this folder share: [`harness`], and [`system`], what the operating system says of a
//! process; [`other`], a second process;
//! [`product`], the binaries.
#![forbid(unsafe_code)]

pub mod harness;
pub mod other;
pub mod product;
pub mod system;
