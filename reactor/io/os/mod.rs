//! What differs between operating systems: one file each, all with the same items.
//!
//! `linux` is complete. `bsd` (macOS, the BSDs, illumos) and `windows` lack the datagram details and send and receive
//! one datagram a call through `portable`. Only Linux has been run.

#[cfg(unix)]
mod unix;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub use linux::*;

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod bsd;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub use bsd::*;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::*;

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
#[cfg_attr(test, allow(dead_code, reason = "on Linux only its own tests use it"))]
mod portable;

/// Calls a function of libc that answers -1 for an error in `errno`. To be used within `unsafe`, with the reason why
/// its arguments are valid.
#[cfg(unix)]
macro_rules! syscall {
    ($function:ident ( $($argument:expr),* $(,)? )) => {{
        let result = libc::$function($($argument),*);
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}
#[cfg(unix)]
pub(crate) use syscall;
