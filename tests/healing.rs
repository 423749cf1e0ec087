//! The example of a network that heals, run as it stands.

#[path = "../examples/healing.rs"]
mod healing;

#[test]
fn the_example_runs() {
    healing::main().expect("the network heals");
}
