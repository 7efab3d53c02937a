//! How much memory this process may use. Look here for the files of the operating system that say
//! so.

use std::fs;

use crate::limits::MEMORY_BYTES_UNKNOWN;

const CGROUPS: &str = "/sys/fs/cgroup";

/// The memory of the smallest cgroup that this process is in, or of the machine, in bytes.
pub(super) fn memory_bytes() -> usize {
    memory_from(|path| fs::read_to_string(path).ok())
}

fn memory_from(read: impl Fn(&str) -> Option<String>) -> usize {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(line, &read));
    let machine = read("/proc/meminfo").as_deref().and_then(total_of);
    // Without limit, a cgroup has a number that is larger than any machine.
    limits.chain(machine).min().unwrap_or(MEMORY_BYTES_UNKNOWN)
}

/// The limit of a group and of those above it, from its line `ID:CONTROLLERS:PATH`. Version 2 has
/// no controllers in that line.
fn group_limit(line: &str, read: &impl Fn(&str) -> Option<String>) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (root, files): (String, &[&str]) = if controllers.is_empty() {
        (CGROUPS.to_owned(), &["memory.max", "memory.high"])
    } else if controllers.split(',').any(|it| it == "memory") {
        (format!("{CGROUPS}/memory"), &["memory.limit_in_bytes"])
    } else {
        return None;
    };
    // In a container the group may be mounted as the root, whatever its path is.
    let mut path = path.trim_end_matches('/');
    let mut found: Option<usize> = None;
    loop {
        for file in files {
            let text = read(&format!("{root}{path}/{file}"));
            // "max" is no limit.
            let limit = text.and_then(|text| text.trim().parse::<usize>().ok());
            found = found.min(limit).or(found).or(limit);
        }
        match path.rfind('/') {
            Some(at) => path = &path[..at],
            None => return found,
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: usize) {
        let read = |path: &str| {
            files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(memory_from(read), expected, "{files:?}");
    }

    #[test]
    fn the_smallest_limit_counts() {
        const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\n");
        const MACHINE: usize = 1000 * 1024;
        check(&[], MEMORY_BYTES_UNKNOWN);
        check(&[MEMINFO], MACHINE);
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        let max = |text| ("/sys/fs/cgroup/a/b/memory.max", text);
        check(&[MEMINFO, v2, max("max\n")], MACHINE);
        check(&[MEMINFO, v2, max("5000\n")], 5000);
        check(&[MEMINFO, v2, max("5000"), ("/sys/fs/cgroup/a/memory.max", "4000")], 4000);
        check(&[MEMINFO, v2, max("5000"), ("/sys/fs/cgroup/a/b/memory.high", "3000")], 3000);
        check(&[MEMINFO, v2, max("max"), ("/sys/fs/cgroup/memory.max", "6000")], 6000);
        check(&[MEMINFO, ("/proc/self/cgroup", "0::/"), ("/sys/fs/cgroup/memory.max", "7")], 7);
        let v1 = ("/proc/self/cgroup", "4:cpu:/a\n3:x,memory:/a\n0::/");
        let limit = |text| ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", text);
        check(&[MEMINFO, v1, limit("9223372036854771712\n")], MACHINE);
        check(&[MEMINFO, v1, limit("8000\n")], 8000);
        check(&[v1, limit("broken"), ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9")], 9);
        check(&[MEMINFO, ("/proc/self/cgroup", "nonsense\n:\n")], MACHINE);
    }
}
