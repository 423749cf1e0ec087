//! Whole nodes on simulated machines: what has to hold whatever the network and the peers do.
//!
//! Every test runs from seeds and says so. A failure prints its seed and the command that runs that seed alone;
//! `MISCHIEF_SEED` names another one.

mod bare;
mod dialling;
mod ending;
mod flow;
mod intruders;
mod keeping;
mod lifetime;
mod meeting;
mod net;
mod requests;
mod simultaneous;
