//! Files by `std::fs`.

use std::any::Any;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::driver::{Disk, DiskFile, OpenOptions};
use super::os;

/// The machine's file system. Paths are as the process sees them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SystemFile(open(path, options)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Names that are not Unicode are left out: no path given here could name them.
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        os::sync_dir(Path::new(path))
    }

    fn is_private(&self, path: &str) -> io::Result<bool> {
        os::is_private(Path::new(path))
    }

    /// The file is created if it is absent, and stays when the lock ends, since removing it would race with the next
    /// holder. The lock is advisory, and goes with the process however it ends.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Any + Send>> {
        let options = OpenOptions {
            write: true,
            create: true,
            private: true,
            ..OpenOptions::default()
        };
        let file = open(path, options)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn open(path: &str, options: OpenOptions) -> io::Result<File> {
    let mut system = fs::OpenOptions::new();
    system
        .read(true)
        .write(options.write)
        .create(options.create);
    system
        .create_new(options.create_new)
        .truncate(options.truncate);
    if options.private {
        os::open_private(&mut system, Path::new(path))
    } else {
        system.open(path)
    }
}

struct SystemFile(File);

impl DiskFile for SystemFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match os::read_at(&self.0, offset, bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        os::write_all_at(&self.0, offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
