//! A memory limit for one visit: to find out whether a case runs under it.
//!
//! Where the coordinator may make control groups (version 2), the worker moves into one of its own whose
//! `memory.max` is the limit and which has no swap; if it needs more, the kernel kills it. Elsewhere the
//! worker lowers its `RLIMIT_AS`, and an allocation beyond it fails. That limit counts address space, not
//! memory in use: mapped files, the program itself and the stacks of its threads are in it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::journal::{FailureKind, MemoryLimit};
use crate::units::Bytes;

/// Where the control groups of version 2 are mounted.
const GROUPS: &str = "sys/fs/cgroup";

/// A limit and what enforces it, for a worker to put itself under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCap {
    /// The limit.
    pub limit: Bytes,
    /// What enforces it.
    pub enforcement: Enforcement,
}

/// What enforces a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// A control group in this folder.
    ControlGroup(PathBuf),
    /// `RLIMIT_AS`; why no control group.
    AddressSpace(String),
}

impl MemoryCap {
    /// A cap for the next worker, with the control group that enforces it if there can be one. `root` is in
    /// the place of `/`, and `name` that of the group among its siblings.
    pub fn prepare(root: &Path, name: &str, limit: Bytes) -> (Self, Option<ControlGroup>) {
        match ControlGroup::create(root, name, limit) {
            Ok(group) => {
                let enforcement = Enforcement::ControlGroup(group.0.clone());
                (MemoryCap { limit, enforcement }, Some(group))
            }
            Err(why) => (MemoryCap { limit, enforcement: Enforcement::AddressSpace(why) }, None),
        }
    }

    /// Puts this process under the limit, for good.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn enter(&self) -> Result<()> {
        match &self.enforcement {
            Enforcement::ControlGroup(dir) => {
                let path = dir.join("cgroup.procs");
                fs::write(&path, std::process::id().to_string())
                    .map_err(|e| Error::environment(format!("cannot join {}: {e}", path.display())))
            }
            Enforcement::AddressSpace(_) => limit_address_space(self.limit),
        }
    }

    /// The limit as journals and messages have it.
    pub fn describe(&self) -> MemoryLimit {
        let enforced_by = match &self.enforcement {
            Enforcement::ControlGroup(_) => "memory.max of a control group, no swap".to_owned(),
            Enforcement::AddressSpace(why) => format!("RLIMIT_AS, address space (no control group: {why})"),
        };
        MemoryLimit { bytes: self.limit, enforced_by }
    }

    /// The end of a worker under this cap as it is recorded: whether it was the limit that ended it.
    pub fn judge(
        &self,
        group: Option<&ControlGroup>,
        kind: FailureKind,
        reason: String,
    ) -> (FailureKind, String) {
        // What the standard library says before it aborts, and how a thread fails whose stack finds no
        // room (EAGAIN) or another mapping (ENOMEM).
        const REFUSALS: [&str; 5] =
            ["memory allocation of ", "code: 11, ", "code: 12, ", "(os error 11)", "(os error 12)"];
        if kind != FailureKind::Crashed {
            return (kind, reason);
        }
        let limited = match (&self.enforcement, group) {
            (Enforcement::ControlGroup(_), Some(group)) => group.oom_kills() > 0,
            (Enforcement::ControlGroup(_), None) => false,
            (Enforcement::AddressSpace(_), _) => REFUSALS.iter().any(|text| reason.contains(text)),
        };
        if limited { (FailureKind::MemoryLimit, format!("{self}: {reason}")) } else { (kind, reason) }
    }
}

impl fmt::Display for MemoryCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemoryLimit { bytes, enforced_by } = self.describe();
        write!(f, "does not run in {} ({enforced_by})", bytes.exact())
    }
}

#[cfg(target_os = "linux")]
fn limit_address_space(limit: Bytes) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Some(limit.0);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })
        .map_err(|e| Error::environment(format!("cannot set RLIMIT_AS: {e}")))
}

/// Other systems have the limit and do not keep to it.
#[cfg(not(target_os = "linux"))]
fn limit_address_space(_: Bytes) -> Result<()> {
    Err(Error::environment("memory_limit cannot be enforced here; it needs Linux"))
}

/// A control group for one worker, removed when it is dropped; by then the worker is gone.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// A group below this process's own, or beside it: a group that has processes cannot share out its
    /// memory among groups below it, except the root.
    fn create(root: &Path, name: &str, limit: Bytes) -> Result<Self, String> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.ok_or("this system has no control groups of version 2")?;
        let mut why = None;
        for parent in Path::new(own).ancestors().take(2) {
            let parent: PathBuf = root.join(GROUPS).join(parent).components().collect();
            match ControlGroup::create_in(&parent, name, limit) {
                Ok(group) => return Ok(group),
                Err(e) => _ = why.get_or_insert(e),
            }
        }
        Err(why.unwrap_or_default())
    }

    fn create_in(parent: &Path, name: &str, limit: Bytes) -> Result<Self, String> {
        let shared_out = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        if !shared_out.split_whitespace().any(|controller| controller == "memory") {
            return Err(format!("memory is not delegated in {}", parent.display()));
        }
        // To move a process the system wants the common parent's list to be writable, too.
        let list = parent.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&list).map_err(|e| format!("{}: {e}", list.display()))?;
        let dir = parent.join(name);
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let group = ControlGroup(dir);
        let set = |file: &str, value: String| {
            let path = group.0.join(file);
            fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))
        };
        set("memory.max", limit.0.to_string())?;
        // A kernel without swap has no such file.
        if let Err(e) = set("memory.swap.max", "0".to_owned())
            && group.0.join("memory.swap.max").exists()
        {
            return Err(e);
        }
        Ok(group)
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        kills.unwrap_or(0)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The kernel takes a moment to empty a group whose process has ended. A group that stays is empty,
        // costs nothing, and has a name of its own.
        for _ in 0..20 {
            match fs::remove_dir(&self.0) {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Bytes = Bytes(64 << 20);

    /// A simulated system: the process's own group and what its parents delegate.
    fn system(own: &str, groups: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/cgroup"), own).unwrap();
        for (path, controllers) in groups {
            let dir = root.path().join(GROUPS).join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), controllers).unwrap();
            fs::write(dir.join("cgroup.procs"), "").unwrap();
        }
        root
    }

    #[test]
    fn a_delegated_parent_gets_a_group() {
        let root = system(
            "4:memory:/x\n0::/a.slice/b.scope\n",
            &[("a.slice", "cpu memory pids\n"), ("a.slice/b.scope", "\n")],
        );
        let (cap, group) = MemoryCap::prepare(root.path(), "bitjoule-1", LIMIT);
        let dir = root.path().join(GROUPS).join("a.slice/bitjoule-1");
        assert_eq!(cap.enforcement, Enforcement::ControlGroup(dir.clone()));
        let file = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((file("memory.max"), file("memory.swap.max")), ("67108864".into(), "0".into()));
        cap.enter().unwrap();
        assert_eq!(file("cgroup.procs"), std::process::id().to_string());

        let killed = || (FailureKind::Crashed, "killed by signal 9".to_owned());
        let judge = |(kind, reason)| cap.judge(group.as_ref(), kind, reason);
        assert_eq!(judge(killed()), killed(), "killed by someone else");
        fs::write(dir.join("memory.events"), "low 0\noom 1\noom_kill 1\noom_group_kill 0\n").unwrap();
        let (kind, reason) = judge(killed());
        assert_eq!(kind, FailureKind::MemoryLimit);
        assert!(reason.contains("64 MiB (memory.max") && reason.contains("signal 9"), "{reason}");
        let timed_out = (FailureKind::TimedOut, "60 s".to_owned());
        assert_eq!(judge(timed_out.clone()), timed_out);
        // As the kernel has it, a group's files go with it.
        for name in ["memory.max", "memory.swap.max", "cgroup.procs", "memory.events"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        drop(group);
        assert!(!dir.exists());
    }

    #[test]
    fn without_delegation_the_address_space_is_limited() {
        let why = |root: &tempfile::TempDir| match MemoryCap::prepare(root.path(), "x", LIMIT) {
            (MemoryCap { enforcement: Enforcement::AddressSpace(why), .. }, None) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(&system("4:memory:/x\n", &[])).contains("version 2"));
        assert!(why(&system("0::/a/b\n", &[("a", "cpu\n"), ("a/b", "")])).contains("not delegated in"));
        // Hybrid systems have version 2 without controllers.
        assert!(why(&system("0::/\n", &[])).contains("not delegated in"));
        let locked = system("0::/a/b\n", &[("a", "memory\n")]);
        fs::remove_file(locked.path().join(GROUPS).join("a/cgroup.procs")).unwrap();
        assert!(!why(&locked).is_empty());
        assert!(!locked.path().join(GROUPS).join("a/x").exists());
    }

    #[test]
    fn refused_memory_is_told_from_other_crashes() {
        let cap = MemoryCap { limit: LIMIT, enforcement: Enforcement::AddressSpace("why".into()) };
        let judge = |reason: &str| cap.judge(None, FailureKind::Crashed, reason.to_owned()).0;
        for reason in [
            "the worker was killed by signal 6: memory allocation of 16777216 bytes failed",
            "ended with 101: failed to allocate an alternative stack: Cannot allocate memory (os error 12)",
            "ended with 101: panicked: the system starts a thread: Os { code: 11, kind: WouldBlock }",
        ] {
            assert_eq!(judge(reason), FailureKind::MemoryLimit);
        }
        assert_eq!(judge("the worker was killed by signal 9"), FailureKind::Crashed);
        assert_eq!(judge("panicked: index out of bounds"), FailureKind::Crashed);
    }
}
