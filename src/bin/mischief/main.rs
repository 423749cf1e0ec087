//! The `mischief` command.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]
#![allow(dead_code)]

mod args;
mod console;
mod failure;
mod logger;
mod output;
mod pending;

fn main() {}
