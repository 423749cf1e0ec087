//! A network that heals: three nodes meet through one of them, which then goes away for good. The other two stay connected,
//! and find each other again when one of them is restarted, although nobody tells it an address.
//!
//! ```sh
//! cargo run --example healing
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mischief::{Node, NodeEvent, PeerId};

/// A test that runs this example on a loaded machine has to wait as well.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("mischief-healing-{}", std::process::id()));
    let shown = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    shown
}

/// The whole example; the nodes keep what they know below `folder`.
fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let bootstrap = start(folder.join("bootstrap"))?;
    let ann = start(folder.join("ann"))?;
    let bob = start(folder.join("bob"))?;
    let address = bootstrap.listen_addrs()[0].to_string();
    println!("ann and bob know one address: {address}");
    ann.connect(&address).wait()?;
    bob.connect(&address).wait()?;
    until_connected(&ann, &bob.id())?;
    println!("the node there has told them of each other, and they are connected");

    bootstrap.stop(Duration::from_secs(5));
    drop(bootstrap);
    println!(
        "it is gone for good; ann and bob are still connected: {}",
        ann.is_connected(&bob.id())
    );

    let id = bob.id();
    bob.stop(Duration::from_secs(5));
    drop(bob);
    let bob = start(folder.join("bob"))?;
    assert_eq!(bob.id(), id, "it is who it was");
    until_connected(&bob, &ann.id())?;
    println!("bob was restarted, on another port, and has found ann again");

    ann.send_text(&bob.id(), "we are still here").wait()?;
    println!("the network has healed");
    Ok(())
}

fn start(data_dir: PathBuf) -> Result<Node, mischief::StartError> {
    Node::builder()
        .data_dir(data_dir)
        .listen("127.0.0.1:0")
        .protocol("healing", "1.0")
        .exchange(true)
        .start()
}

/// Waits until a peer is connected.
fn until_connected(node: &Node, peer: &PeerId) -> Result<(), Box<dyn Error>> {
    let mut events = node.events();
    while !node.is_connected(peer) {
        match events.next_timeout(PATIENCE)? {
            Some(NodeEvent::Network(notice)) => println!("  {}: {notice}", node.id().short()),
            Some(_) => {}
            None => return Err("the node has stopped".into()),
        }
    }
    Ok(())
}
