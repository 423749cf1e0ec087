//! A disk in memory that can lose power, for the tests of what is kept in files.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use mischief_reactor::io::driver::{Disk, DiskFile, OpenOptions};

/// What survives is what was synced: the bytes of a file by its own sync, its name by the directory's.
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<File>,
    locks: BTreeSet<String>,
    is_read_only: bool,
    knows_no_owners: bool,
    operations_left: Option<u32>,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    is_private: bool,
}

impl MemoryDisk {
    pub(crate) fn new() -> Arc<MemoryDisk> {
        Arc::new(MemoryDisk(Arc::default()))
    }

    /// Writes a durable file that everybody may read.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state();
        let file = File {
            bytes: bytes.to_owned(),
            durable: bytes.to_owned(),
            is_private: false,
        };
        state.files.push(file);
        let index = state.files.len() - 1;
        state.names.insert(path.to_owned(), index);
        state.durable_names.insert(path.to_owned(), index);
    }

    pub(crate) fn set_private(&self, path: &str, is_private: bool) {
        let mut state = self.state();
        let index = state.names[path];
        state.files[index].is_private = is_private;
    }

    pub(crate) fn make_read_only(&self) {
        self.state().is_read_only = true;
    }

    /// From now on no file is private, as on FAT.
    pub(crate) fn know_no_owners(&self) {
        self.state().knows_no_owners = true;
    }

    /// Lets this many more operations through and fails all later ones, until [`MemoryDisk::restart`].
    pub(crate) fn crash_after(&self, operations: u32) {
        self.state().operations_left = Some(operations);
    }

    /// Comes back with what was durable.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        state.operations_left = None;
        state.names = state.durable_names.clone();
        state.locks.clear();
        for file in &mut state.files {
            file.bytes = file.durable.clone();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with the lock held")
    }

    fn changing(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operate()?;
        match state.is_read_only {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(state),
        }
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let mut state = if options.write {
            self.changing()?
        } else {
            self.state()
        };
        let index = match state.find(path) {
            Ok(_) if options.create_new => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(index) => index,
            Err(_) if options.create || options.create_new => {
                state.files.push(File {
                    is_private: options.private,
                    ..File::default()
                });
                let index = state.files.len() - 1;
                state.names.insert(path.to_owned(), index);
                index
            }
            Err(error) => return Err(error),
        };
        if options.truncate {
            state.files[index].bytes.clear();
        }
        Ok(Box::new(Open {
            state: self.0.clone(),
            index,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        let index = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        state.find(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let folder = format!("{path}/");
        let state = self.state();
        Ok(state
            .names
            .keys()
            .filter_map(|name| Some(name.strip_prefix(&folder)?.to_owned()))
            .collect())
    }

    fn create_dir_all(&self, _path: &str) -> io::Result<()> {
        self.changing().map(drop)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        let folder = format!("{path}/");
        let durable: Vec<(String, usize)> = state
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(&folder))
            .map(|(name, index)| (name.clone(), *index))
            .collect();
        state
            .durable_names
            .retain(|name, _| !name.starts_with(&folder));
        state.durable_names.extend(durable);
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Any + Send>> {
        let mut state = self.changing()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock {
            state: self.0.clone(),
            path: path.to_owned(),
        }))
    }

    fn is_private(&self, path: &str) -> io::Result<bool> {
        let state = self.state();
        Ok(state.files[state.find(path)?].is_private && !state.knows_no_owners)
    }
}

struct Open {
    state: Arc<Mutex<State>>,
    index: usize,
}

impl Open {
    fn with<T>(&self, act: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        let mut state = self
            .state
            .lock()
            .expect("no test panics with the lock held");
        state.operate()?;
        Ok(act(&mut state.files[self.index]))
    }
}

impl DiskFile for Open {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.with(|file| {
            let from = (offset as usize).min(file.bytes.len());
            let count = bytes.len().min(file.bytes.len() - from);
            bytes[..count].copy_from_slice(&file.bytes[from..from + count]);
            count
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|file| {
            let end = offset as usize + bytes.len();
            file.bytes.resize(end.max(file.bytes.len()), 0);
            file.bytes[offset as usize..end].copy_from_slice(bytes);
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|file| file.bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|file| file.bytes.resize(len as usize, 0))
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|file| file.durable = file.bytes.clone())
    }
}

struct Lock {
    state: Arc<Mutex<State>>,
    path: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            state.locks.remove(&self.path);
        }
    }
}
