//! The `mischief` command.
fn main() {}
