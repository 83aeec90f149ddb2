//! Tells the binary what it was built from and with, so that every run can say it.
//!
//! Sets BITJOULE_COMMIT, BITJOULE_RUSTC, BITJOULE_PROFILE and BITJOULE_TARGET for `env!`.

use std::env;
use std::path::Path;
use std::process::Command;

/// What the binary is made of. A change elsewhere (documents, CI) leaves the commit clean, because the
/// binary is still that of the commit.
const INPUTS: &[&str] =
    &["src", "kernels", "suites", "tests/fixtures", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    let profile = format!("{} (opt-level {})", variable("PROFILE"), variable("OPT_LEVEL"));
    println!("cargo::rustc-env=BITJOULE_COMMIT={}", commit().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=BITJOULE_RUSTC={}", rustc().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=BITJOULE_PROFILE={profile}");
    println!("cargo::rustc-env=BITJOULE_TARGET={}", variable("TARGET"));
    for input in INPUTS {
        rerun_if_changed(input);
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| "unknown".to_owned())
}

fn rustc() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.lines().next()?.to_owned())
}

/// The commit that is checked out here, with `-dirty` if an input differs from it; none outside a
/// checkout of this project, such as an unpacked package inside somebody else's repository.
fn commit() -> Option<String> {
    let here = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).canonicalize().ok()?;
    let top = Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if here != top {
        return None;
    }
    // A commit moves the branch or, in a checkout of no branch, HEAD; their logs note both. In a
    // worktree these files are not below .git, which is a file there.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            rerun_if_changed(&path);
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(INPUTS);
    let clean = git(&status)?.is_empty();
    Some(if clean { commit } else { commit + "-dirty" })
}

/// The output of git without the final newline; none if git is missing or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        // Without it `status` rewrites the index of whoever is working here.
        .arg("--no-optional-locks")
        .args(arguments)
        // Set by git itself while a hook runs, for a repository that may be another one.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())?
        .map(|text| text.trim_end().to_owned())
}

/// Cargo takes a path that does not exist as changed at every build, so only those that do are named.
fn rerun_if_changed(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}
