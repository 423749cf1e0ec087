//! Below the actors: drivers, sockets, files, timers, buffers, wakers and the offload pool.

pub mod driver;
