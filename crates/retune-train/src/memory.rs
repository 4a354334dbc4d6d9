//! The memory of this process, and how much the machine leaves it. Linux tells; elsewhere nothing is known.

use std::path::{Path, PathBuf};

use retune_tensor::release_memory;

/// Bytes of this process that are in memory now, with as little of them free as the allocator can do.
pub fn used_bytes() -> Option<u64> {
    release_memory();
    resident_bytes()
}

/// Bytes of this process that are in memory now.
pub fn resident_bytes() -> Option<u64> {
    field_of(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that this process may still take: what the machine has available, or less if a control group allows less.
pub fn available_bytes() -> Option<u64> {
    let machine = field_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_room(Path::new("/sys/fs/cgroup"), &groups);
    machine.into_iter().chain(group).min()
}

/// The value of a field in kibibytes, in bytes.
fn field_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The least that the control groups of a process leave it. `groups` is its `/proc/self/cgroup`, `root` where control
/// groups are mounted; version 2 and version 1.
fn group_room(root: &Path, groups: &str) -> Option<u64> {
    let folders = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if number == "0" {
            return Some((root.to_owned(), root.join(path)));
        }
        let memory = controllers.split(',').any(|controller| controller == "memory");
        memory.then(|| (root.join("memory"), root.join("memory").join(path)))
    });
    let lowest = folders.flat_map(|(top, folder)| ancestors(&top, folder));
    lowest.filter_map(|folder| room_in(&folder)).min()
}

/// A group's folder and those of all groups above it. In a container the group's own path may not be there.
fn ancestors(top: &Path, folder: PathBuf) -> Vec<PathBuf> {
    folder.ancestors().take_while(|folder| folder.starts_with(top)).map(Path::to_owned).collect()
}

/// What one control group has left; `None` if it has no limit. Cached file contents, which give way, don't count.
fn room_in(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |names: [&str; 2]| names.iter().find_map(|name| read(name)?.trim().parse::<u64>().ok());
    // Version 1 writes "no limit" as a number near 2⁶³, version 2 as a word.
    let limit = number(["memory.max", "memory.limit_in_bytes"]).filter(|&limit| limit < 1 << 60)?;
    let used = number(["memory.current", "memory.usage_in_bytes"])?;
    let statistics = read("memory.stat").unwrap_or_default();
    let cached = ["inactive_file ", "total_inactive_file "].iter().find_map(|name| {
        let line = statistics.lines().find(|line| line.starts_with(name))?;
        line[name.len()..].trim().parse::<u64>().ok()
    });
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn the_tightest_control_group_above_a_process_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("memory.max", "max\n"),
                ("memory.current", "900\n"),
                ("a/memory.max", "1000\n"),
                ("a/memory.current", "700\n"),
                ("a/memory.stat", "anon 500\ninactive_file 200\n"),
                ("a/b/memory.max", "5000\n"),
                ("a/b/memory.current", "600\n"),
            ],
        );
        assert_eq!(group_room(root.path(), "0::/a/b\n"), Some(500));
        assert_eq!(group_room(root.path(), "0::/\n"), None);
        // A path of the host that the container does not see.
        assert_eq!(group_room(root.path(), "0::/a/of/the/host\n"), Some(500));
    }

    #[test]
    fn version_1_of_control_groups_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.usage_in_bytes", "5\n"),
                ("memory/job/memory.limit_in_bytes", "4096\n"),
                ("memory/job/memory.usage_in_bytes", "96\n"),
            ],
        );
        let groups = "3:cpu,cpuacct:/job\n2:memory:/job\n";
        assert_eq!(group_room(root.path(), groups), Some(4000));
        assert_eq!(group_room(root.path(), "2:memory:/\n"), None);
    }

    #[test]
    fn fields_are_kibibytes() {
        assert_eq!(field_of("VmPeak:\t  1 kB\nVmRSS:\t  1024 kB\n", "VmRSS:"), Some(1 << 20));
        assert_eq!(field_of("", "VmRSS:"), None);
    }
}
