//! Compiles `kernels/src/*.cu` with nvcc where nvcc is found, and writes the tables that embed the kernels.
//!
//! nvcc is looked for in `MYELON_NVCC`, `CUDA_HOME`, `CUDA_PATH` and `PATH`, in this order.
//! `MYELON_NVCC=none` (or `off`) builds without it: then only the sources are embedded, NVRTC compiles
//! them at run time, and `cfg(myelon_aot)` is not set.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Architectures of the fatbin, oldest first. The newest that nvcc knows is embedded as PTX as well, for
/// GPUs that come after it.
const ARCHITECTURES: [&str; 3] = ["80", "90", "100"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(myelon_aot)");
    for name in ["MYELON_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .join("../../kernels");
    let include = kernels.join("include");
    let mut headers = Vec::new();
    collect(&include, &["cuh", "h", "hpp"], &mut headers);
    let mut sources = Vec::new();
    collect(&kernels.join("src"), &["cu"], &mut sources);

    let nvcc = if sources.is_empty() { None } else { find_nvcc() };
    match &nvcc {
        Some(_) => println!("cargo::rustc-cfg=myelon_aot"),
        None => println!(
            "cargo::warning=no nvcc (MYELON_NVCC, CUDA_HOME, CUDA_PATH, PATH): kernels are compiled at run time by NVRTC"
        ),
    }

    let mut table = String::from("pub(crate) static HEADERS: &[(&str, &str)] = &[\n");
    for header in &headers {
        let name = header.strip_prefix(&include).expect("found below include").to_str().expect("plain name");
        writeln!(table, "    ({name:?}, include_str!({:?})),", absolute(header)).expect("writes to memory");
    }
    table.push_str("];\npub(crate) static SOURCES: &[Source] = &[\n");
    for source in &sources {
        let name = source.file_stem().and_then(|stem| stem.to_str()).expect("plain name");
        let fatbin = match &nvcc {
            Some(nvcc) => {
                let image = out.join(format!("{name}.fatbin"));
                compile(nvcc, &include, &headers, source, &image);
                format!("Some(&Aligned(*include_bytes!({:?})).0)", absolute(&image))
            }
            None => "None".to_owned(),
        };
        writeln!(
            table,
            "    Source {{ name: {name:?}, text: include_str!({:?}), fatbin: {fatbin} }},",
            absolute(source)
        )
        .expect("writes to memory");
    }
    table.push_str("];\n");
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}

/// All files below `folder` with one of the `endings`, sorted; the folder itself is watched for new ones.
fn collect(folder: &Path, endings: &[&str], files: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", folder.display());
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, endings, files);
        } else if path.extension().and_then(|ending| ending.to_str()).is_some_and(|e| endings.contains(&e)) {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())))
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}

fn find_nvcc() -> Option<PathBuf> {
    match env::var("MYELON_NVCC") {
        Ok(choice) if choice == "none" || choice == "off" => return None,
        Ok(choice) if !choice.is_empty() => {
            let path = PathBuf::from(&choice);
            if !path.is_file() {
                fail(&format!("MYELON_NVCC={choice}: no such file; give the path of nvcc, or none"));
            }
            return Some(path);
        }
        _ => {}
    }
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        let nvcc = env::var_os(home).map(|home| Path::new(&home).join("bin/nvcc"));
        if let Some(nvcc) = nvcc.filter(|nvcc| nvcc.is_file()) {
            return Some(nvcc);
        }
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// Compiles `source` to the fatbin `image`, unless the same text was compiled there by the same nvcc.
fn compile(nvcc: &Path, include: &Path, headers: &[PathBuf], source: &Path, image: &Path) {
    let known = run(Command::new(nvcc).arg("--list-gpu-code"));
    let known: Vec<&str> = ARCHITECTURES
        .into_iter()
        .filter(|arch| known.lines().any(|line| line.trim() == format!("sm_{arch}")))
        .collect();
    let Some(newest) = known.last() else {
        fail(&format!("{} compiles for none of sm_80, sm_90, sm_100", nvcc.display()));
    };

    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "--threads", "0", "-fatbin", "-Xfatbin", "-compress-all"]);
    for arch in &known {
        command.arg("-gencode").arg(format!("arch=compute_{arch},code=sm_{arch}"));
    }
    command.arg("-gencode").arg(format!("arch=compute_{newest},code=compute_{newest}"));
    command.arg("-I").arg(include).arg("-o").arg(image).arg(source);

    let mut recipe = format!("{command:?}\n{}", run(Command::new(nvcc).arg("--version")));
    for path in headers.iter().map(PathBuf::as_path).chain([source]) {
        recipe.push_str(
            &fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display()))),
        );
    }
    let note = image.with_extension("recipe");
    if image.is_file() && fs::read_to_string(&note).is_ok_and(|seen| seen == recipe) {
        return;
    }
    run(&mut command);
    fs::write(&note, recipe).expect("OUT_DIR can be written");
}

/// Runs `command` and returns what it printed; a failure ends the build with its output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| fail(&format!("{command:?}: {error}")));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        fail(&format!("{command:?}: {}\n{printed}{complaints}", output.status));
    }
    for line in complaints.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::warning={line}");
    }
    printed
}
