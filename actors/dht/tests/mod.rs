//! Tests of the machine as a whole.

mod attacks;
mod network;
mod rules;
mod swarm;
mod vectors;
