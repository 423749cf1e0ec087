//! Files in memory.
//!
//! A file is what was written to it. Beside that, each file and each directory keeps the steps that no `sync` has made
//! durable, with what is needed to take them back: so a crash can lose what a real disk may lose. Directories are
//! durable at once. A disk can also be full, and refuse to read, write or sync by chance.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::power::Unsynced;
use super::prng::Prng;
use crate::io::driver::{Disk, DiskFile, OpenOptions};
use crate::random::Random;

/// A file may not grow beyond this many bytes: a wild offset must not take the test machine's memory.
const FILE_SIZE_MAX: u64 = 1 << 30;

/// Steps of a file, and of all names, that a crash may take back. A system that is never told to sync writes the
/// oldest ones to the disk in the end, and so does this one.
const UNSYNCED_MAX: usize = 4096;

/// What is written at once or not at all when the power fails.
const SECTOR: usize = 512;

/// The disk of one node. Clones of the `Arc` are the same disk.
pub struct SimDisk {
    files: Arc<Mutex<Files>>,
    /// Which of the machine's programs, one after another, it was opened by. `None`: it is looked at from outside, where
    /// neither crashes nor faults are felt.
    process: Option<u32>,
}

/// How often a disk fails: probabilities, 0 at first. A failed write may have written the first part of its bytes. What a
/// failed sync was to make durable is durable in no part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DiskFaults {
    /// Of reading, opening and listing.
    pub read: f64,
    /// Of writing, creating, renaming and removing.
    pub write: f64,
    /// Of syncing a file or a directory.
    pub sync: f64,
}

struct Files {
    /// How many programs were ended by force: the handles of those are dead.
    process: u32,
    faults: DiskFaults,
    /// Bytes that all files together may have.
    capacity: u64,
    prng: Prng,
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    /// Files by path.
    names: BTreeMap<String, u64>,
    /// Directories by path; the root is the empty path.
    directories: BTreeSet<String>,
    /// Steps on names that are not durable yet, oldest first.
    unsynced_names: VecDeque<NameStep>,
    /// Who holds the lock of a file, as a number that is never given twice: a guard from before a crash must not
    /// release the lock of who came after.
    locks: BTreeMap<u64, u64>,
    locks_given: u64,
}

#[derive(Default)]
struct Inode {
    data: Vec<u8>,
    /// Steps on the data that are not durable yet, oldest first.
    unsynced: VecDeque<DataStep>,
    /// Names, open files, locks and steps that lead to it. It is forgotten with the last.
    refs: u32,
}

/// A change of a file's bytes: what stood there before.
struct DataStep {
    offset: usize,
    old: Vec<u8>,
    old_len: usize,
    /// How many bytes it wrote; 0 if it set the file's length.
    covered: usize,
}

/// A change of a name: what it named before, and what it names since.
struct NameStep {
    path: String,
    old: Option<u64>,
    new: Option<u64>,
}

impl SimDisk {
    /// Its faults are drawn from `prng`.
    pub(super) fn new(prng: Prng) -> SimDisk {
        let files = Files {
            process: 0,
            faults: DiskFaults::default(),
            capacity: u64::MAX,
            prng,
            inodes: BTreeMap::new(),
            inodes_made: 0,
            names: BTreeMap::new(),
            directories: BTreeSet::from([String::new()]),
            unsynced_names: VecDeque::new(),
            locks: BTreeMap::new(),
            locks_given: 0,
        };
        SimDisk {
            files: Arc::new(Mutex::new(files)),
            process: None,
        }
    }

    /// The same disk as a program sees it.
    pub(super) fn opened_by(&self, process: u32) -> SimDisk {
        SimDisk {
            files: self.files.clone(),
            process: Some(process),
        }
    }

    /// Ends what programs hold: handles are dead, locks are free.
    pub(super) fn end_process(&self) {
        let mut files = self.lock_files();
        files.process += 1;
        files.locks.clear();
    }

    /// What a power cut does.
    pub(super) fn lose(&self, unsynced: Unsynced) {
        match unsynced {
            Unsynced::Kept => {}
            Unsynced::Lost => self.lose_unsynced(),
            Unsynced::Torn => self.lock_files().tear(),
        }
    }

    /// Makes the disk fail from now on for the machine's programs. Tests that look at it from outside, through
    /// [`SimNode::disk`](super::SimNode::disk), are not concerned.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock_files().faults = faults;
    }

    /// How many bytes all files together may have; no limit at first. Beyond it, writing fails as on a full disk, with
    /// as much written as there was room for.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock_files().capacity = bytes;
    }

    /// Takes back everything that was not synced, as a power failure may do: bytes written since the last
    /// [`DiskFile::sync`] of each file, and files created, renamed or removed since the last [`Disk::sync_dir`] of
    /// their directory. Locks are gone, as those who held them are.
    pub fn lose_unsynced(&self) {
        let mut files = self.lock_files();
        while let Some(step) = files.unsynced_names.pop_back() {
            files.set_name(&step.path, step.old);
            files.forget_step(&step);
        }
        for inode in files.inodes.values_mut() {
            for step in std::mem::take(&mut inode.unsynced).into_iter().rev() {
                inode.take_back(step);
            }
        }
        files.locks.clear();
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.lock_files().used()
    }

    fn lock_files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    fn access(&self, access: Access) -> io::Result<MutexGuard<'_, Files>> {
        let mut files = self.lock_files();
        files.check(self.process, access)?;
        Ok(files)
    }
}

/// What an operation does, for the faults that it may meet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Sync,
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    // A job that panicked between two steps leaves files as a real one would leave them.
    files
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Disk for SimDisk {
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let path = normal(path);
        let is_read = !(options.create || options.create_new || options.truncate);
        let kind = if is_read { Access::Read } else { Access::Write };
        let mut files = self.access(kind)?;
        let inode = files.open(&path, options)?;
        files.hold(inode);
        if options.truncate {
            files.inode(inode).set_len(0);
        }
        let is_writable = options.write;
        Ok(Box::new(SimFile {
            files: self.files.clone(),
            inode,
            is_writable,
            process: self.process,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut files = self.access(Access::Write)?;
        if files.directories.contains(&from) || files.directories.contains(&to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let inode = *files.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
        files.check_parent(&to)?;
        if from != to {
            files.name(&to, Some(inode));
            files.name(&from, None);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = normal(path);
        let mut files = self.access(Access::Write)?;
        if files.directories.contains(&path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !files.names.contains_key(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.name(&path, None);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let path = normal(path);
        let files = self.access(Access::Read)?;
        if !files.directories.contains(&path) {
            let is_file = files.names.contains_key(&path);
            let kind = if is_file {
                io::ErrorKind::NotADirectory
            } else {
                io::ErrorKind::NotFound
            };
            return Err(kind.into());
        }
        let entries = files.names.keys().chain(files.directories.iter());
        let mut names: Vec<String> = entries
            .filter(|entry| !entry.is_empty() && parent(entry) == path)
            .map(|entry| last_part(entry).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let path = normal(path);
        let mut files = self.access(Access::Write)?;
        let ends = path
            .char_indices()
            .filter(|(_, c)| *c == '/')
            .map(|(at, _)| at);
        let prefixes: Vec<&str> = ends.chain([path.len()]).map(|end| &path[..end]).collect();
        if let Some(file) = prefixes
            .iter()
            .find(|prefix| files.names.contains_key(**prefix))
        {
            let is_last = *file == path;
            let kind = if is_last {
                io::ErrorKind::AlreadyExists
            } else {
                io::ErrorKind::NotADirectory
            };
            return Err(kind.into());
        }
        files
            .directories
            .extend(prefixes.into_iter().map(str::to_owned));
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let path = normal(path);
        let mut files = self.access(Access::Sync)?;
        if !files.directories.contains(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let steps = std::mem::take(&mut files.unsynced_names);
        let (durable, rest): (VecDeque<_>, VecDeque<_>) = steps
            .into_iter()
            .partition(|step| parent(&step.path) == path);
        files.unsynced_names = rest;
        for step in &durable {
            files.forget_step(step);
        }
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Any + Send>> {
        let path = normal(path);
        let mut files = self.access(Access::Write)?;
        let options = OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let inode = files.open(&path, options)?;
        if files.locks.contains_key(&inode) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        files.locks_given += 1;
        let ticket = files.locks_given;
        files.locks.insert(inode, ticket);
        files.hold(inode);
        Ok(Box::new(LockGuard {
            files: self.files.clone(),
            inode,
            ticket,
        }))
    }
}

impl Files {
    /// Fails what a dead program does, and by chance what a living one does.
    fn check(&mut self, process: Option<u32>, access: Access) -> io::Result<()> {
        let Some(process) = process else {
            return Ok(());
        };
        if process != self.process {
            return Err(disk_error());
        }
        let probability = match access {
            Access::Read => self.faults.read,
            Access::Write => self.faults.write,
            Access::Sync => self.faults.sync,
        };
        if self.prng.chance(probability) {
            return Err(disk_error());
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let sizes = self.inodes.values().map(|inode| inode.data.len() as u64);
        sizes.sum()
    }

    /// By how many bytes a file may grow.
    fn room(&self) -> u64 {
        match self.capacity {
            u64::MAX => u64::MAX,
            capacity => capacity.saturating_sub(self.used()),
        }
    }

    /// A power cut in the middle of writing back: some of what was not synced is on the disk. Names change in the
    /// order of the file system's journal, bytes in none.
    fn tear(&mut self) {
        let steps = self.unsynced_names.len() as u64;
        let kept = self.prng.below(steps + 1);
        for _ in kept..steps {
            let step = self.unsynced_names.pop_back().expect("so many there are");
            self.set_name(&step.path, step.old);
            self.forget_step(&step);
        }
        for step in std::mem::take(&mut self.unsynced_names) {
            self.forget_step(&step);
        }
        for inode in self.inodes.values_mut() {
            inode.tear(&mut self.prng);
        }
    }

    fn open(&mut self, path: &str, options: OpenOptions) -> io::Result<u64> {
        if self.directories.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !options.write && (options.create || options.create_new || options.truncate) {
            // As the standard library has it.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(inode) = self.names.get(path) {
            if options.create_new {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            return Ok(*inode);
        }
        self.check_parent(path)?;
        if !options.create && !options.create_new {
            return Err(io::ErrorKind::NotFound.into());
        }

        self.inodes_made += 1;
        let inode = self.inodes_made;
        self.inodes.insert(inode, Inode::default());
        self.name(path, Some(inode));
        Ok(inode)
    }

    fn check_parent(&self, path: &str) -> io::Result<()> {
        let parent = parent(path);
        if self.directories.contains(parent) {
            return Ok(());
        }
        let is_file = self.names.contains_key(parent);
        let kind = if is_file {
            io::ErrorKind::NotADirectory
        } else {
            io::ErrorKind::NotFound
        };
        Err(kind.into())
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes
            .get_mut(&inode)
            .expect("an inode lives while something names or opens it")
    }

    /// Lets a name stand for another file, or for none, and remembers how to take that back.
    fn name(&mut self, path: &str, new: Option<u64>) {
        let old = self.names.get(path).copied();
        for inode in [old, new].into_iter().flatten() {
            self.hold(inode);
        }
        self.set_name(path, new);
        let path = path.to_owned();
        let durable = push_bounded(&mut self.unsynced_names, NameStep { path, old, new });
        if let Some(step) = durable {
            self.forget_step(&step);
        }
    }

    fn set_name(&mut self, path: &str, inode: Option<u64>) {
        let before = match inode {
            Some(inode) => {
                self.hold(inode);
                self.names.insert(path.to_owned(), inode)
            }
            None => self.names.remove(path),
        };
        if let Some(before) = before {
            self.let_go(before);
        }
    }

    /// A step can no longer be taken back, or has been.
    fn forget_step(&mut self, step: &NameStep) {
        for inode in [step.old, step.new].into_iter().flatten() {
            self.let_go(inode);
        }
    }

    fn hold(&mut self, inode: u64) {
        self.inode(inode).refs += 1;
    }

    fn let_go(&mut self, inode: u64) {
        let entry = self.inode(inode);
        entry.refs -= 1;
        if entry.refs == 0 {
            self.inodes.remove(&inode);
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let old_len = self.data.len();
        let end = offset + bytes.len();
        let covered = offset.min(old_len)..end.min(old_len);
        let old = self.data[covered].to_vec();
        push_bounded(
            &mut self.unsynced,
            DataStep {
                offset,
                old,
                old_len,
                covered: bytes.len(),
            },
        );
        if end > old_len {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(bytes);
    }

    fn set_len(&mut self, len: usize) {
        let old_len = self.data.len();
        let old = self.data[len.min(old_len)..].to_vec();
        let offset = len;
        push_bounded(
            &mut self.unsynced,
            DataStep {
                offset,
                old,
                old_len,
                covered: 0,
            },
        );
        self.data.resize(len, 0);
    }

    /// Takes all steps back and does some of them again: any of them, and up to one of those in part.
    fn tear(&mut self, prng: &mut Prng) {
        let mut again = Vec::new();
        for step in std::mem::take(&mut self.unsynced).into_iter().rev() {
            let end = (step.offset + step.covered).min(self.data.len());
            let new = self.data[step.offset.min(end)..end].to_vec();
            again.push((step.offset, new, self.data.len()));
            self.take_back(step);
        }
        let torn = prng.below(again.len() as u64 + 1) as usize;
        for (number, (offset, mut new, len)) in again.into_iter().rev().enumerate() {
            if number == torn {
                let sectors = (new.len() / SECTOR) as u64;
                new.truncate(prng.below(sectors + 1) as usize * SECTOR);
            } else if prng.chance(0.5) {
                continue;
            }
            let end = offset + new.len();
            if new.is_empty() {
                // The file's length is the file system's own and written like a name.
                self.data.resize(len, 0);
                continue;
            }
            if self.data.len() < end {
                self.data.resize(end, 0);
            }
            self.data[offset..end].copy_from_slice(&new);
        }
    }

    fn take_back(&mut self, step: DataStep) {
        self.data.resize(step.old_len, 0);
        if !step.old.is_empty() {
            self.data[step.offset..step.offset + step.old.len()].copy_from_slice(&step.old);
        }
    }
}

struct SimFile {
    files: Arc<Mutex<Files>>,
    inode: u64,
    is_writable: bool,
    process: Option<u32>,
}

impl SimFile {
    fn access(&self, access: Access) -> io::Result<MutexGuard<'_, Files>> {
        let mut files = lock(&self.files);
        files.check(self.process, access)?;
        Ok(files)
    }

    /// Writes the first bytes of what a failing write was to write.
    fn write_part(&self, offset: u64, bytes: &[u8]) {
        let mut files = lock(&self.files);
        let count = files.prng.below(bytes.len() as u64 + 1).min(files.room());
        if count > 0 && self.process == Some(files.process) {
            let bytes = &bytes[..count as usize];
            files.inode(self.inode).write(offset as usize, bytes);
        }
    }

    fn check_write(&self, end: Option<u64>) -> io::Result<()> {
        if !self.is_writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if end.is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut files = self.access(Access::Read)?;
        let data = &files.inode(self.inode).data;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(data.len());
        let count = bytes.len().min(data.len() - start);
        bytes[..count].copy_from_slice(&data[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_write(offset.checked_add(bytes.len() as u64))?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut files = match self.access(Access::Write) {
            Ok(files) => files,
            Err(error) => {
                self.write_part(offset, bytes);
                return Err(error);
            }
        };
        let end = offset + bytes.len() as u64;
        let growth = end.saturating_sub(files.inode(self.inode).data.len() as u64);
        let missing = growth.saturating_sub(files.room());
        let fits = (bytes.len() as u64).saturating_sub(missing) as usize;
        if fits > 0 {
            let inode = files.inode(self.inode);
            inode.write(offset as usize, &bytes[..fits]);
        }
        if missing > 0 {
            return Err(disk_full());
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut files = self.access(Access::Read)?;
        Ok(files.inode(self.inode).data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_write(Some(len))?;
        let mut files = self.access(Access::Write)?;
        let growth = len.saturating_sub(files.inode(self.inode).data.len() as u64);
        if growth > files.room() {
            return Err(disk_full());
        }
        files.inode(self.inode).set_len(len as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut files = self.access(Access::Sync)?;
        files.inode(self.inode).unsynced.clear();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.files).let_go(self.inode);
    }
}

struct LockGuard {
    files: Arc<Mutex<Files>>,
    inode: u64,
    ticket: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut files = lock(&self.files);
        if files.locks.get(&self.inode) == Some(&self.ticket) {
            files.locks.remove(&self.inode);
        }
        files.let_go(self.inode);
    }
}

/// What a broken disk answers, with the number that the system gives it.
fn disk_error() -> io::Error {
    // EIO, and ERROR_IO_DEVICE.
    io::Error::from_raw_os_error(if cfg!(windows) { 1117 } else { 5 })
}

/// What a full disk answers, with the number that the system gives it.
fn disk_full() -> io::Error {
    // ENOSPC, and ERROR_DISK_FULL.
    io::Error::from_raw_os_error(if cfg!(windows) { 112 } else { 28 })
}

/// Adds a step, and gives back the one that becomes durable for it.
fn push_bounded<T>(steps: &mut VecDeque<T>, step: T) -> Option<T> {
    let durable = if steps.len() == UNSYNCED_MAX {
        steps.pop_front()
    } else {
        None
    };
    steps.push_back(step);
    durable
}

/// A path without empty parts and `.`, with `..` taken up; relative paths start at the root.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}
