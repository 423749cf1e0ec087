//! Giving the memory of code that has been run back to the system.

use std::{fs, mem, ptr, slice};

/// Unmaps the pages of the program and its libraries that are only read: code and constants. They stay in the page cache
/// as long as the system has no better use for them, and are mapped again when they are touched.
///
/// Nothing happens while the process is traced: a debugger's breakpoints are changes to these pages, which would be lost.
pub fn release_code() {
    if is_traced() {
        return;
    }
    // SAFETY: the callback is made for this call; it keeps nothing of what it is given and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release_object), ptr::null_mut()) };
}

fn is_traced() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let tracer = lines.find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_none_or(|tracer| tracer.trim() != "0")
}

/// Releases the segments of one object that are not written to.
unsafe extern "C" fn release_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader's description is valid during the call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: there are so many headers, which stay as long as the object is loaded: during the call at least.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let place = |header: &Header| (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
    let dynamic = headers
        .iter()
        .find(|header| header.p_type == libc::PT_DYNAMIC);
    // SAFETY: a loaded object's dynamic section is in memory and complete.
    if dynamic.is_some_and(|header| unsafe { is_relocated(place(header), header.p_memsz as usize) })
    {
        return 0;
    }
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            release(place(header), header.p_memsz as usize);
        }
    }
    0
}

#[cfg(target_pointer_width = "64")]
type Header = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type Header = libc::Elf32_Phdr;

/// Whether the loader has changed code where it lies, so that it is not what the file holds any more: an entry
/// `DT_TEXTREL`, or the flag of that name in `DT_FLAGS` (System V ABI, "Dynamic Section").
///
/// # Safety
///
/// At `start` are `len` bytes of a dynamic section.
unsafe fn is_relocated(start: usize, len: usize) -> bool {
    const DT_TEXTREL: usize = 22;
    const DT_FLAGS: usize = 30;
    const DF_TEXTREL: usize = 4;
    let count = len / mem::size_of::<[usize; 2]>();
    // SAFETY: by the contract; an entry is two words, and the section is aligned to words.
    let entries = unsafe { slice::from_raw_parts(start as *const [usize; 2], count) };
    entries
        .iter()
        .take_while(|[tag, _]| *tag != 0)
        .any(|[tag, value]| *tag == DT_TEXTREL || *tag == DT_FLAGS && value & DF_TEXTREL != 0)
}

fn release(start: usize, len: usize) {
    // SAFETY: the call only reads a setting.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else {
        return;
    };
    let first = start - start % page;
    let end = (start + len).next_multiple_of(page);
    // SAFETY: the pages are a mapping of a file that nobody has written to, so they read the same when they are mapped
    // again. A kernel that does not want to says so, and nothing has changed.
    unsafe { libc::madvise(first as *mut _, end - first, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt;

    use super::*;

    static CONSTANTS: [u8; 1 << 20] = [7; 1 << 20];

    fn sum() -> usize {
        let bytes = black_box(&CONSTANTS);
        bytes.iter().map(|byte| usize::from(*byte)).sum()
    }

    /// How many pages of the constants are mapped: those whose entry in `pagemap` has bit 63.
    fn mapped() -> usize {
        const PAGE: usize = 4096;
        let pagemap = File::open("/proc/self/pagemap").expect("Linux has it");
        let first = CONSTANTS.as_ptr() as usize / PAGE;
        let pages = first..first + CONSTANTS.len() / PAGE;
        let is_mapped = |page: &usize| {
            let mut entry = [0; 8];
            let read = pagemap.read_exact_at(&mut entry, (page * 8) as u64);
            read.expect("each page has an entry");
            u64::from_ne_bytes(entry) >> 63 == 1
        };
        pages.filter(is_mapped).count()
    }

    #[test]
    fn what_has_been_used_goes_and_comes_back() {
        let before = sum();
        assert!(mapped() > 200);
        // Other threads of the test map what they need, and what lies near it, at the same time.
        let goes = || {
            release_code();
            mapped() < 100
        };
        assert!((0..1000).any(|_| goes()));
        assert_eq!(sum(), before);
    }
}
