//! Tests of the whole machine.

mod race;
