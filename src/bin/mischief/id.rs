//! `mischief id`: shows who this machine's node is, and makes it somebody if it is nobody yet.

use std::sync::Arc;

use mischief::Identity;
use mischief::data_dir::DataDir;
use mischief::identity_file;
use mischief_reactor::io::{SystemDisk, SystemRandom};

use crate::args::IdArgs;
use crate::failure::Failure;
use crate::node;

pub(crate) fn run(args: &IdArgs) -> Result<(), Failure> {
    let directory = node::directory(args.data_dir.as_deref())?;
    // A running node holds the directory's lock, and reading needs none.
    let stored = identity_file::load(&SystemDisk, &directory).map_err(Failure::new)?;
    let is_new = stored.is_none();
    let seed = match stored {
        Some(seed) => seed,
        None => {
            let directory =
                DataDir::open(Arc::new(SystemDisk), &directory).map_err(Failure::new)?;
            identity_file::load_or_create(&directory, &mut SystemRandom).map_err(Failure::new)?
        }
    };
    let peer = Identity::from_seed(&seed).peer_id();
    let text = match args.json {
        true => {
            let object = serde_json::json!({
                "peer_id": peer.to_string(),
                "data_dir": directory,
                "created": is_new,
            });
            format!("{object}\n")
        }
        false => format!("{peer}\n"),
    };
    crate::output::print(&text)
}
