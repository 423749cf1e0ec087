//! What the operating system says of this process. Linux; elsewhere the figures are `NAN` or zero.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Everything that is in memory: private, shared with other processes, and files.
    pub resident: u64,
    /// Pages that belong to no file: heap, stacks, written data.
    pub anonymous: u64,
    /// Its share: a page that several processes have counts in parts.
    pub proportional: u64,
}

/// Memory of the process `pid`, or of this one with `"self"`.
pub fn memory_of(pid: &str) -> io::Result<Memory> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Memory {
        resident: kib_after(&status, "VmRSS:") * 1024,
        anonymous: kib_after(&rollup, "Anonymous:") * 1024,
        proportional: kib_after(&rollup, "Pss:") * 1024,
    })
}

/// What a process did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Its threads now.
    pub threads: u64,
    /// How often one of them was given a processor after it had waited for something.
    pub wakeups: u64,
    /// Processor time of its threads.
    pub cpu: Duration,
}

/// What the threads of the process `pid` that live now did so far.
pub fn activity_of(pid: &str) -> io::Result<Activity> {
    let mut activity = Activity::default();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let status = std::fs::read_to_string(path.join("status"))?;
        let stat = std::fs::read_to_string(path.join("schedstat"))?;
        let nanos = stat
            .split_whitespace()
            .next()
            .and_then(|nanos| nanos.parse().ok());
        activity.threads += 1;
        activity.wakeups += kib_after(&status, "voluntary_ctxt_switches:");
        activity.cpu += Duration::from_nanos(nanos.unwrap_or(0));
    }
    Ok(activity)
}

/// What the kernel holds for all TCP sockets of the machine, in bytes: what waits in them, and where the lists of its
/// allocator may be read, their own structures and those of their files.
pub fn kernel_sockets() -> u64 {
    const PAGE: u64 = 4096;
    const KEPT: [&str; 6] = [
        "TCP",
        "sock_inode_cache",
        "dentry",
        "filp",
        "eventpoll_epi",
        "tcp_bind_bucket",
    ];
    let waiting = || {
        let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
        let line = text.lines().find(|line| line.starts_with("TCP:"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    };
    let lists = std::fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let bytes_of = |line: &str| {
        let mut words = line.split_whitespace();
        let is_kept = KEPT.contains(&words.next()?);
        let (active, _, size): (u64, &str, u64) = (
            words.next()?.parse().ok()?,
            words.next()?,
            words.next()?.parse().ok()?,
        );
        is_kept.then_some(active * size)
    };
    waiting().unwrap_or(0) * PAGE + lists.lines().filter_map(bytes_of).sum::<u64>()
}

fn kib_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Processor time of this process so far, system calls included.
pub fn process_cpu() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

/// Processor time of this thread so far, system calls included.
pub fn thread_cpu() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time of the threads of this process whose names begin so, system calls included.
pub fn threads_cpu(name: &str) -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let time_of = |task: io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let comm = std::fs::read_to_string(path.join("comm")).ok()?;
        if !comm.starts_with(name) {
            return None;
        }
        let stat = std::fs::read_to_string(path.join("schedstat")).ok()?;
        stat.split_whitespace()
            .next()?
            .parse()
            .ok()
            .map(Duration::from_nanos)
    };
    tasks.filter_map(time_of).sum()
}

/// Allows as many open files as the hard limit does, and tells how many.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

/// Keeps this thread, and those that it starts from now on, on one processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(io::Error::from)
}

/// Lets this thread run on the first `count` processors.
pub fn unpin(count: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    (0..count).for_each(|cpu| set.set(cpu));
    sched_setaffinity(None, &set).map_err(io::Error::from)
}
