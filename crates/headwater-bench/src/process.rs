//! Processor time and memory of processes, from Linux's `/proc`. Look here for the source of a
//! report's figures.

use std::fs;

use crate::error::{Context as _, Error};

/// Whether this system has the figures.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");

/// The memory of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// The proportional set size: pages that several processes share count in part.
    pub pss_bytes: u64,
    /// The resident set size: shared pages count in each process.
    pub rss_bytes: u64,
}

/// The processor time that processes have used since they started, over all threads, in
/// nanoseconds.
///
/// This is the sum of the scheduler's accounts of the running threads. The account of a thread that
/// has exited is gone, but `/proc/PID/stat` includes it, in clock ticks of 10 ms; so the larger one
/// counts.
///
/// # Errors
/// When a process has exited, or this is not Linux.
pub fn cpu_ns(pids: &[u32]) -> Result<u64, Error> {
    pids.iter().map(|pid| cpu_ns_of(*pid)).sum()
}

/// The memory that processes hold now.
///
/// # Errors
/// When a process has exited, or this is not Linux.
pub fn memory(pids: &[u32]) -> Result<Memory, Error> {
    let mut sum = Memory::default();
    for pid in pids {
        let text = read(*pid, "smaps_rollup")?;
        let memory = parse_memory(&text).ok_or_else(|| not_understood(*pid, "smaps_rollup"))?;
        sum.pss_bytes += memory.pss_bytes;
        sum.rss_bytes += memory.rss_bytes;
    }
    Ok(sum)
}

fn cpu_ns_of(pid: u32) -> Result<u64, Error> {
    let stat = read(pid, "stat")?;
    let coarse_ns = parse_stat(&stat).ok_or_else(|| not_understood(pid, "stat"))?;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context(gone(pid))?;
    let mut fine_ns = 0;
    for task in tasks {
        let file = task.context(gone(pid))?.path().join("schedstat");
        // The thread may have exited, and a kernel may be built without these accounts.
        let text = fs::read_to_string(file).unwrap_or_default();
        fine_ns += parse_schedstat(&text).unwrap_or(0);
    }
    Ok(choose(fine_ns, coarse_ns))
}

/// The more complete of both figures. Two ticks of slack, since both times of `stat` are rounded.
fn choose(fine_ns: u64, coarse_ns: u64) -> u64 {
    if coarse_ns > fine_ns + 2 * TICK_NS { coarse_ns } else { fine_ns }
}

/// USER_HZ is 100 on every architecture that Linux runs on today.
const TICK_NS: u64 = 10_000_000;

fn read(pid: u32, file: &str) -> Result<String, Error> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).context(gone(pid))
}

fn gone(pid: u32) -> String {
    format!("cannot measure process {pid}, which may have exited")
}

fn not_understood(pid: u32, file: &str) -> Error {
    Error::Failed(format!("cannot measure process {pid}: unknown format of /proc/{pid}/{file}"))
}

/// utime and stime, the 14th and 15th field. The name before them may contain spaces and
/// parentheses.
fn parse_stat(text: &str) -> Option<u64> {
    let after_name = &text[text.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) * TICK_NS)
}

fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn parse_memory(text: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    Some(Memory { pss_bytes: 1024 * kib("Pss:")?, rss_bytes: 1024 * kib("Rss:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_parsed() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 9 8 7 6 150 25 3 2 20 0 1 0 99 1000 10";
        assert_eq!(parse_stat(stat), Some(1_750_000_000));
        assert_eq!(parse_schedstat("247166 12 3\n"), Some(247_166));
        let rollup =
            "5555-7777 ---p 0 00:00 0 [rollup]\nRss:   1732 kB\nPss:    299 kB\nPss_Dirty: 1 kB\n";
        let memory = Memory { pss_bytes: 299 << 10, rss_bytes: 1732 << 10 };
        assert_eq!(parse_memory(rollup), Some(memory));
        for text in ["", "42", "42 (x) S 1"] {
            assert_eq!(parse_stat(text), None, "{text}");
            assert_eq!(parse_memory(text), None, "{text}");
        }
    }

    #[test]
    fn exited_threads_are_counted() {
        assert_eq!(choose(5_000_000, 0), 5_000_000);
        assert_eq!(choose(995_000_000, 1_010_000_000), 995_000_000);
        assert_eq!(choose(5_000_000, 1_000_000_000), 1_000_000_000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn processor_time_of_this_process_grows() {
        let pids = [std::process::id()];
        let before = cpu_ns(&pids).expect("this process");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut sum = 0_u64;
        while cpu_ns(&pids).expect("this process") < before + 30_000_000 {
            assert!(std::time::Instant::now() < until, "20 s without 30 ms of processor time");
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
        let memory = memory(&pids).expect("this process");
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.pss_bytes > 100_000, "{memory:?}");
    }

    #[test]
    fn an_exited_process_is_an_error() {
        let error = cpu_ns(&[u32::MAX]).expect_err("no such process").to_string();
        assert!(error.contains("which may have exited"), "{error}");
    }
}
