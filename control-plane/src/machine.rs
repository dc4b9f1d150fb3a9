//! The limits that the machine sets for the gateway: open files and memory. `up` sizes Envoy by them, `doctor` shows
//! them.

use std::path::Path;

use config::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The files that Envoy may need for each connection of a sandbox: the connection itself, one to the upstream, and
/// reserve. So a third of the limit of files is for sandboxes.
pub const FILES_EACH: u64 = 3;

/// The least memory for Envoy's heap, in bytes. An idle Envoy with the filters' module needs a fifth of it.
pub const LEAST_HEAP: u64 = 256 << 20;

/// The hard limit of open files of this process, which its children inherit. `u64::MAX` without a limit.
pub fn files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises this process's own limit of open files to the hard limit, for the programs that it becomes or starts.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_files() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The limits for an Envoy that may open `files` files.
pub fn fitted(limits: &Limits, files: u64) -> Limits {
    let connections = u32::try_from(files / FILES_EACH).unwrap_or(u32::MAX).min(limits.connections);
    Limits { connections, ..limits.clone() }
}

/// The warning about a hard limit of `files` open files. `None` if Envoy may have all connections of `limits`.
pub fn too_few_files(limits: &Limits, files: u64) -> Option<String> {
    let fitted = fitted(limits, files).connections;
    let needed = u64::from(limits.connections) * FILES_EACH;
    (fitted < limits.connections).then(|| {
        format!(
            "the hard limit of open files is {files}, so all sandboxes together have {fitted} connections, not {}; raise the limit to {needed}",
            limits.connections
        )
    })
}

/// The heap that Envoy may use, in bytes: the configured size, or half of the memory that this process may use.
pub fn heap(limits: &Limits) -> u64 {
    limits.envoy_heap.unwrap_or_else(|| (memory(Path::new("/")) / 2).max(LEAST_HEAP))
}

/// The memory of the machine, or of the control groups of this process if that is less, in bytes. `root` is `/`.
fn memory(root: &Path) -> u64 {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let machine = total.map_or(LEAST_HEAP, |kib: u64| kib.saturating_mul(1024));
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| limit_of(root, line)).fold(machine, u64::min)
}

/// The limit of memory of the control group that `line` of `/proc/self/cgroup` names, and of the groups around it.
/// Version 2 has one line, `0::/path`. Version 1 has a line for each controller, such as `9:memory:/path`. In a container
/// the path may be the one outside; the container's own group is then at the top.
fn limit_of(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, own) = (parts.next()?, parts.next()?.strip_prefix('/')?);
    let top = root.join("sys/fs/cgroup");
    let (top, file) = if controllers.is_empty() {
        (top, "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (top.join("memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    let group = top.join(own);
    let groups = group.ancestors().take_while(|group| group.starts_with(&top));
    // A group without a limit has `max` in version 2, and a number beyond all memory in version 1.
    groups.filter_map(|group| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_files_is_for_sandboxes() {
        let limits = Limits::default();
        assert_eq!(fitted(&limits, 1_024).connections, 341);
        assert_eq!(fitted(&limits, 149_999).connections, 49_999);
        assert_eq!(fitted(&limits, u64::MAX), limits);
        assert!(too_few_files(&limits, 149_999).unwrap().contains("raise the limit to 150000"));
        assert_eq!(too_few_files(&limits, 150_000), None);
    }

    #[test]
    fn the_memory_is_that_of_the_machine_or_of_the_smallest_group() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
        write("proc/self/cgroup", "0::/user.slice/one\n");
        assert_eq!(memory(root.path()), 8 << 30);
        write("sys/fs/cgroup/user.slice/one/memory.max", "max\n");
        assert_eq!(memory(root.path()), 8 << 30);
        write("sys/fs/cgroup/user.slice/memory.max", "1073741824\n");
        assert_eq!(memory(root.path()), 1 << 30);
        write("sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(memory(root.path()), 512 << 20);
    }

    #[test]
    fn a_group_of_version_1_limits_the_memory_as_well() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:        8388608 kB\n");
        write(
            "proc/self/cgroup",
            "12:cpu,cpuacct:/docker/one\n9:memory:/docker/one\n1:name=systemd:/docker/one\n0::/\n",
        );
        write("sys/fs/cgroup/cpu,cpuacct/docker/one/memory.limit_in_bytes", "1\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(root.path()), 8 << 30);
        write("sys/fs/cgroup/memory/docker/one/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(memory(root.path()), 1 << 30);
        // As in a container, which sees its own group at the top.
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(memory(root.path()), 512 << 20);
    }
}
