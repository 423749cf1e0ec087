//! The `mischief` command: a node for people and for programs, a demonstration, and the identity.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod args;
mod console;
mod demo;
mod dht;
mod failure;
mod id;
mod json;
mod logger;
mod mdns;
mod node;
mod output;
mod pending;
mod requests;

use std::process::ExitCode;

use args::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse_or_exit().command {
        Command::Node(args) => node::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Id(args) => id::run(&args),
        Command::Dht(args) => dht::run(&args),
        Command::Mdns(args) => mdns::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logger::say("error", &failure.message);
            ExitCode::from(failure.code)
        }
    }
}
