//! The CUDA backend without a GPU: a driver of host memory, whose kernels do nothing, and which ends the process where it
//! is called as a real one must not be. It is that of the tests of `myelon-kernel`, found by name, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

const INSIDE: &str = "MYELON_TESTS_FAKE_CUDA";

/// The folder with the fake libraries, below `folder`, or why there is none.
fn libraries(name: &str, folder: &Path) -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("LD_LIBRARY_PATH, which leads to the fake, is Linux's".into());
    }
    let folder = folder.join(format!("cuda-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("fake_cuda.c");
    std::fs::write(&source, include_str!("../../crates/myelon-kernel/tests/fake_cuda.c")).unwrap();
    let library = folder.join("libcuda.so.1");
    let mut cc = Command::new("cc");
    let output = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    let output = output.map_err(|error| format!("the C compiler cc does not run: {error}"))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::copy(&library, folder.join("libnvrtc.so")).unwrap();
    Ok(folder)
}

/// Runs the test that has this name in a process with the fake driver and `settings`, where it makes so many `launches`
/// and leaves nothing behind; in that process itself, runs `body`. `folder` is for temporary files. Where there is no C
/// compiler, or not Linux, it says that it was skipped.
pub fn scenario(
    name: &str,
    folder: &Path,
    settings: &[(&str, &str)],
    launches: Option<u64>,
    body: impl FnOnce(),
) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let folder = match libraries(name, folder) {
        Ok(folder) => folder,
        Err(because) => return eprintln!("SKIPPED: {name}, because {because}"),
    };
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    child
        .env(INSIDE, "1")
        .env("FAKE_QUIET", "1")
        .env("FAKE_ONE_MODEL", "1")
        .envs(settings.iter().copied())
        .env("LD_LIBRARY_PATH", &folder);
    let output = child.env("MYELON_CACHE_DIR", folder.join("cache")).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let printed = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{printed}");
    let seen = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
    let alive = printed.lines().filter(|line| line.contains("ALIVE"));
    let last = alive.max_by_key(|line| seen(line)).expect("the fake was found");
    // Kernels stay loaded, and pinned pages are used again.
    let nothing = "streams 0 events 0 pages 0 reserved 0 mapped 0 allocated 0 opened 0";
    assert!(last.contains(nothing) && last.contains("graphs 0 execs 0"), "{printed}");
    if launches.is_some() {
        assert_eq!(seen(last), launches, "{printed}");
    }
}
