//! What the kernel says of a process.

use std::fs;

/// `/proc/<pid>/stat` counts in hundredths of a second on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds of all its threads so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold blanks; the numbers begin behind its bracket. `utime` and `stime` are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// The same of a process with its children, those included that ended.
pub(crate) fn family_cpu_seconds(pid: u32) -> f64 {
    let others = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let other: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{other}/stat")).ok()?;
        let fields: Vec<u64> =
            stat.rsplit_once(')')?.1.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        // `ppid` is field 4; `utime`, `stime`, `cutime` and `cstime` are 14 to 17.
        (other == pid || fields[0] == u64::from(pid)).then(|| fields[10..14].iter().sum::<u64>())
    });
    others.sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Begins `VmHWM` anew.
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// MB of one line of `/proc/<pid>/status`: `VmRSS` for now, `VmHWM` for the most that there ever was.
pub(crate) fn memory_mb(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// Processor seconds of the calling thread: other programs don't change it much.
pub(crate) fn own_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse::<u64>().unwrap() as f64 / 1e9
}
