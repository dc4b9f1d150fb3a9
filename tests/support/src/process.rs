//! Facts about a process from /proc, and signals. Called by the gateway handle and by the tests.

use rustix::process::{Pid, kill_process, setpriority_process};

pub use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;

/// Sends `signal` to the process `pid`.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether `pid` still exists. A zombie counts: while its other threads exit, its sockets are open.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some()
}

/// Whether every thread of `pid` is stopped. SIGSTOP takes effect a moment after it was sent.
pub fn stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.filter_map(Result::ok).all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    })
}

/// The running child of `parent` whose name is `name`.
pub fn child_named(parent: u32, name: &str) -> Option<u32> {
    let wanted = |stat: Stat| stat.parent == parent && stat.name == name && !matches!(stat.state.as_str(), "Z" | "X");
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| stat(*pid).is_some_and(wanted))
}

/// Gives the calling thread the lowest priority.
pub fn lowest_priority() {
    // It applies to the calling thread alone: setpriority(2), "C library/kernel differences".
    setpriority_process(None, 19).unwrap();
}

/// The processes whose working directory is `directory` or below it.
pub fn working_in(directory: &Path) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory)))
        .collect()
}

/// The peak resident memory of `pid`, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM in /proc/PID/status");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The processor time of all threads of `pid`.
pub fn cpu_time(pid: u32) -> Duration {
    // User and system time are fields 14 and 15 (proc(5)), in ticks of 1/100 s on every Linux here. Counted from 0 at
    // the state, which follows the name's parenthesis, they are 11 and 12.
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

struct Stat {
    name: String,
    state: String,
    parent: u32,
}

/// proc(5): `pid (comm) state ppid …`. `comm` may contain any bytes, so the last parenthesis counts.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    Some(Stat { name: name.to_owned(), state: fields.next()?.to_owned(), parent: fields.next()?.parse().ok()? })
}
