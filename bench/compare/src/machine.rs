//! The machine and the date of a comparison, for the results. Look here for what a result says
//! about where it was taken.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::programs::{Programs, version};

/// The machine of a result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// Whether the server ran on core 0, and everything else on core 1.
    pub(crate) is_pinned: bool,
    /// Versions of Redis and nginx.
    pub(crate) versions: Vec<String>,
}

pub(crate) fn describe(programs: &Programs) -> Machine {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nginx = version("/usr/sbin/nginx", &["-v"]).or_else(|| version("nginx", &["-v"]));
    let redis = version("redis-server", &["--version"]);
    let redis = redis.map(|text| text.split(" sha=").next().unwrap_or_default().to_owned());
    Machine {
        cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
        memory_gib: total_gib(&memory),
        kernel: plain_kernel(kernel.trim()),
        is_pinned: programs.is_pinned,
        versions: [redis, nginx].into_iter().flatten().collect(),
    }
}

/// The kernel version without the suffix of a distribution or host.
fn plain_kernel(release: &str) -> String {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    release[..end].to_owned()
}

fn total_gib(meminfo: &str) -> f64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / f64::from(1 << 20)
}

/// Today's date as `YYYY-MM-DD`, in UTC.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    date(seconds / 86_400)
}

/// The date of a day since 1970. Years start in March, so that a leap day is the last day of its
/// year.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_computed() {
        let check = |days: u64, expected: &str| assert_eq!(date(days), expected);
        check(0, "1970-01-01");
        check(59, "1970-03-01");
        check(11_016, "2000-02-29");
        check(20_781, "2026-11-24");
    }

    #[test]
    fn kernel_and_memory_are_parsed() {
        assert_eq!(plain_kernel("6.1.0-18-cloud-amd64"), "6.1.0");
        assert_eq!(plain_kernel("6.18.44"), "6.18.44");
        let gib = total_gib("MemTotal:       16777216 kB\nMemFree: 1 kB\n");
        assert!((gib - 16.0).abs() < 1e-9);
    }
}
