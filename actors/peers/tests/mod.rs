//! Tests of the whole machine.

mod machine;
mod race;
mod vectors;
