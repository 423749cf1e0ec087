//! What all Unix systems share: interfaces and files.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::syscall;
use crate::io::driver::Interface;

/// The interfaces with their addresses, in the order of their indices.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let list = AddressList::new()?;
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in list.iter() {
        // SAFETY: the system gives every entry a name, a string with an end, that lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        let interface = found
            .entry(name.to_string_lossy().into_owned())
            .or_insert_with_key(|key| {
                // The flags have another width on each system; those asked for are among the lower 16 bits.
                let has = |flag: libc::c_int| entry.ifa_flags as libc::c_int & flag != 0;
                Interface {
                    name: key.clone(),
                    // SAFETY: a string with an end is all that the call asks for.
                    index: unsafe { libc::if_nametoindex(entry.ifa_name) },
                    is_up: has(libc::IFF_UP) && has(libc::IFF_RUNNING),
                    is_loopback: has(libc::IFF_LOOPBACK),
                    is_multicast: has(libc::IFF_MULTICAST),
                    addrs: Vec::new(),
                }
            });
        // SAFETY: both are null or point to an address of the list.
        if let Some(addr) = unsafe { ip_of(entry.ifa_addr) } {
            // SAFETY: as above.
            let mask = unsafe { ip_of(entry.ifa_netmask) };
            interface.addrs.push((
                addr,
                mask.map_or(if addr.is_ipv4() { 32 } else { 128 }, prefix_len),
            ));
        }
    }
    let mut interfaces: Vec<_> = found.into_values().collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// The result of `getifaddrs`.
struct AddressList(*mut libc::ifaddrs);

impl AddressList {
    fn new() -> io::Result<AddressList> {
        let mut head = std::ptr::null_mut();
        // SAFETY: the call writes one pointer to `head`.
        unsafe { syscall!(getifaddrs(&mut head)) }?;
        Ok(AddressList(head))
    }

    fn iter(&self) -> impl Iterator<Item = &libc::ifaddrs> {
        // SAFETY: the entries are linked up to a null pointer and live until `freeifaddrs`, which waits for `self`.
        let first = unsafe { self.0.as_ref() };
        // SAFETY: as above.
        std::iter::successors(first, |entry| unsafe { entry.ifa_next.as_ref() })
    }
}

impl Drop for AddressList {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `getifaddrs` and is freed once.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// The IP address in a socket address, if it is one.
///
/// # Safety
///
/// `addr` is null or points to a socket address that is as long as its family says.
unsafe fn ip_of(addr: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = unsafe { addr.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`.
            let addr = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(addr.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`.
            let addr = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(addr.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

fn prefix_len(mask: IpAddr) -> u8 {
    // At most 128 ones fit.
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    ones as u8
}

/// Reads at an offset without moving a cursor.
pub(crate) fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    file.read_at(bytes, offset)
}

/// Writes all of `bytes` at an offset without moving a cursor.
pub(crate) fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Opens a file that only its owner can read and write, also if it was there with more rights. File systems such as FAT
/// know no owners and refuse to change rights: there the file is as open as any other ([`is_private`] tells).
pub(crate) fn open_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(0o600).open(path)?;
    let mut permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o600);
        match file.set_permissions(permissions) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(file)
}

/// Whether only its owner has rights to a file.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(path.metadata()?.permissions().mode() & 0o077 == 0)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
