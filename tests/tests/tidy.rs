//! Property: the rules of this repository that a machine can hold are held by every file of it.
//!
//! Catches: an ordering whose partner or whose page is missing, a dead path, assembly and CUDA outside their
//! one header, unsafe code outside its crates, a crate that knows another it must not know, a setting that
//! nobody documents, a file that grew too long, work left undone. Cannot catch: whether what stands there is
//! true. Clippy holds the SAFETY comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use myelon_collectives::Settings;

const LINES_MAX: usize = 800;
/// Folders that a path of this repository can begin with.
const FOLDERS: [&str; 6] = ["crates/", "kernels/", "tests/", "benches/", "docs/", ".ci/"];
const ENDINGS: [&str; 11] = [".rs", ".cuh", ".cu", ".cc", ".c", ".h", ".md", ".toml", ".svg", ".csv", ".txt"];

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_code(&self) -> bool {
        [".rs", ".cuh", ".cu", ".cc", ".c", ".h"].iter().any(|ending| self.path.ends_with(ending))
    }

    /// The lines with their numbers from 1, without what follows `//`.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or(line)))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every text file of the repository but what Cargo and .ci make.
fn files() -> Vec<File> {
    fn walk(root: &Path, folder: &Path, files: &mut Vec<File>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name == ".ci" || !(name.starts_with('.') || name.starts_with("target")) {
                    walk(root, &path, files);
                }
                continue;
            }
            let path_text = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let is_ours = path_text != "Cargo.lock" && !name.starts_with("LICENSE");
            if let Some(text) = fs::read_to_string(&path).ok().filter(|_| is_ours) {
                files.push(File { path: path_text, text });
            }
        }
    }
    let (root, mut files) = (root(), Vec::new());
    walk(&root, &root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.iter().filter(|file| file.is_code()).count() > 50, "this is not the repository");
    files
}

/// Fails with every complaint at once.
fn nothing_of(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n  {}", complaints.join("\n  "));
}

/// Whether `text` has `word` with nothing of a name before and behind it.
fn has_word(text: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_name) && !text[at + word.len()..].starts_with(is_name))
}

/// The labels of the comments that explain an ordering: `a/b` of "ORDER a/b:".
fn labels(text: &str) -> Vec<&str> {
    let label = |rest: &'_ str| -> Option<usize> { rest.find(':').filter(|&end| is_label(&rest[..end])) };
    text.split("// ORDER ").skip(1).filter_map(|rest| label(rest).map(|end| &rest[..end])).collect()
}

fn is_label(text: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '_');
    text.split_once('/').is_some_and(|(page, name)| is_part(page) && is_part(name))
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_ordering_label_has_two_ends_and_a_page() {
    let files = files();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_code()) {
        for label in labels(&file.text) {
            *ends.entry(label).or_default() += 1;
        }
    }
    assert!(ends.contains_key("ring/publish"), "the ring has no labels any more: {ends:?}");

    let page = |file: &File| Some(file.path.strip_prefix("docs/protocols/")?.strip_suffix(".md")?.to_owned());
    let pages: BTreeMap<String, &File> = files.iter().filter_map(|file| Some((page(file)?, file))).collect();
    let written: BTreeSet<&str> = pages
        .values()
        .flat_map(|file| quoted(&file.text))
        .filter(|text| is_label(text) && pages.contains_key(text.split('/').next().unwrap()))
        .collect();

    let mut complaints = Vec::new();
    for (label, count) in &ends {
        if *count < 2 {
            complaints.push(format!("{label} stands at one place only; needed both ends"));
        }
        if !written.contains(label) {
            complaints.push(format!("{label} stands on no page of docs/protocols"));
        }
    }
    for label in written.iter().filter(|label| !ends.contains_key(*label)) {
        complaints.push(format!("{label} stands in docs/protocols, but at no place in the code"));
    }
    nothing_of(complaints);
}

/// The paths of this repository in `text`, wherever they stand.
fn paths(text: &str) -> Vec<&str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let mut paths = Vec::new();
    for part in text.split(|c: char| !is_path(c)) {
        let path = part.trim_end_matches('.');
        if FOLDERS.iter().any(|folder| path.starts_with(folder))
            && ENDINGS.iter().any(|ending| path.ends_with(ending))
        {
            paths.push(path);
        }
    }
    paths
}

#[test]
fn every_path_that_is_written_down_is_alive() {
    let root = root();
    let mut complaints = Vec::new();
    for file in files() {
        let folder = root.join(&file.path).parent().unwrap().to_owned();
        // From the root, from the package, or from the folder of the file.
        let package = folder.ancestors().find(|folder| folder.join("Cargo.toml").exists()).unwrap();
        let is_alive = |path: &str| [&root, package, &folder].iter().any(|from| from.join(path).exists());

        let mut seen: BTreeSet<&str> = paths(&file.text).into_iter().collect();
        if file.path.ends_with(".md") {
            let folders = |text: &&str| FOLDERS.iter().any(|start| text.starts_with(start));
            let plain = |text: &&str| !text.contains([' ', '<', '*', '{']);
            seen.extend(quoted(&file.text).into_iter().filter(folders).filter(plain));
            let links = file.text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            seen.extend(links.filter(|link| !link.is_empty() && !link.contains("://")));
        }
        for path in seen.into_iter().filter(|path| !is_alive(path)) {
            complaints.push(format!("{} names {path}, which does not exist", file.path));
        }
    }
    nothing_of(complaints);
}

#[test]
fn assembly_and_cuda_stay_in_their_header() {
    const PTX: &str = "kernels/include/myelon/ptx.cuh";
    /// The one hint to a processor that the standard library has no word for.
    const HINT: &str = "crates/myelon-ring/src/hint.rs";
    let builtins = [
        "threadIdx",
        "blockIdx",
        "blockDim",
        "gridDim",
        "warpSize",
        "__syncthreads",
        "__shared__",
        "__device__",
        "__global__",
        "__all_sync",
        "__ldg",
        "float4",
        "uint4",
        "int4",
        "asm",
    ];
    let mut complaints = Vec::new();
    for file in files() {
        let in_kernels = file.path.starts_with("kernels/") && file.path != PTX;
        for (number, line) in file.code_lines() {
            let at = format!("{}:{number}", file.path);
            if in_kernels {
                for builtin in builtins.into_iter().filter(|builtin| has_word(line, builtin)) {
                    complaints.push(format!("{at}: {builtin} belongs in {PTX}"));
                }
                let vendor = ["cuda", "cooperative_groups", "nv", "thrust", "cub/"];
                if vendor.iter().any(|vendor| line.contains(&format!("#include <{vendor}"))) {
                    complaints.push(format!("{at}: an include of the vendor"));
                }
            }
            if file.path.ends_with(".rs") && file.path != HINT && line.contains(concat!("asm", "!(")) {
                complaints.push(format!("{at}: assembly of the host belongs in {HINT}"));
            }
        }
    }
    nothing_of(complaints);
}

#[test]
fn unsafe_code_stays_where_it_may_be() {
    let allowed = [
        "crates/myelon-ring/",
        "crates/myelon-kernel/",
        "crates/myelon-meet/",
        "crates/myelon-sim/",
        "crates/myelon-recorder/src/memory.rs",
        "tests/src/gpus.rs",
        "tests/src/tensors.rs",
    ];
    let word = concat!("un", "safe");
    let mut complaints = Vec::new();
    let mut seen_where_allowed = 0;
    for file in files().iter().filter(|file| file.path.ends_with(".rs")) {
        let is_allowed = allowed.iter().any(|start| file.path.starts_with(start));
        for (number, line) in file.code_lines().filter(|(_, line)| has_word(line, word)) {
            seen_where_allowed += usize::from(is_allowed);
            if !is_allowed {
                complaints.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert!(seen_where_allowed > 0, "the search finds nothing");
    nothing_of(complaints);
}

#[test]
fn arrows_point_down() {
    let may_know: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("myelon-ring", &[][..]),
        ("myelon-lanes", &[]),
        ("myelon-recorder", &[]),
        ("myelon-kernel", &["myelon-lanes", "myelon-ring"]),
        ("myelon-sim", &["myelon-lanes", "myelon-ring"]),
        ("myelon-meet", &["myelon-ring"]),
        (
            "myelon-collectives",
            &["myelon-kernel", "myelon-lanes", "myelon-meet", "myelon-recorder", "myelon-ring"],
        ),
        (
            "myelon-cli",
            &[
                "myelon-collectives",
                "myelon-kernel",
                "myelon-lanes",
                "myelon-meet",
                "myelon-recorder",
                "myelon-ring",
                "myelon-sim",
            ],
        ),
    ]);
    let mut complaints = Vec::new();
    for file in files() {
        let Some(package) = file.path.strip_prefix("crates/") else { continue };
        let (package, path) = package.split_once('/').unwrap();
        if path == "Cargo.toml" {
            let known = may_know.get(package).unwrap_or_else(|| panic!("{package} has no place yet"));
            let dependencies = file.text.split("\n[dependencies]").nth(1).unwrap_or_default();
            let dependencies = dependencies.split("\n[").next().unwrap();
            for name in dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next()) {
                if name.starts_with("myelon-") && !known.contains(&name) {
                    complaints.push(format!("{package} must not know {name}"));
                }
            }
        }
        let driver = concat!("cud", "arc");
        if package != "myelon-kernel" && has_word(&file.text, driver) {
            complaints.push(format!("{}: only myelon-kernel names {driver}", file.path));
        }
    }
    nothing_of(complaints);
}

#[test]
fn the_readme_lists_every_setting_and_no_other() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let written: BTreeSet<&str> =
        readme.split(|c| !is_name(c)).filter(|word| word.starts_with("MYELON_")).collect();
    assert_eq!(written, BTreeSet::from(Settings::NAMES));
}

/// Cargo compiles the example, so the program in the README compiles, too.
#[test]
fn the_readme_shows_the_example_as_it_is() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let example = read("crates/myelon-collectives/examples/process.rs");
    let program = &example[example.find("use ").unwrap()..];
    assert!(read("README.md").contains(program), "the README has another program than the example");
}

#[test]
fn files_are_short_and_finished() {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let mut complaints = Vec::new();
    for file in files() {
        let lines = file.text.lines().count();
        let is_record = file.path.starts_with("benches/record/");
        if lines > LINES_MAX && !is_record {
            complaints.push(format!("{} has {lines} lines, needed at most {LINES_MAX}", file.path));
        }
        for mark in marks.into_iter().filter(|mark| file.text.contains(mark)) {
            complaints.push(format!("{} has a {mark}", file.path));
        }
    }
    nothing_of(complaints);
}

/// The scanners above see what they look for, and nothing else. The examples are cut in two, so that they are
/// not seen here.
#[test]
fn the_scanners_see() {
    let text = concat!("x(); /", "/ ORDER ring/publish: Release pairs.\n/", "/ ORDER: Relaxed is enough.\n");
    assert_eq!(labels(text), ["ring/publish"]);
    let text = concat!("    /", "/ ORDER fault/record: a\n/", "/ ORDER Ring/credit: b");
    assert_eq!(labels(text), ["fault/record"]);
    assert!(is_label("ring/credit"));
    assert!(!is_label("crates/myelon-ring/src") && !is_label("a/b.rs") && !is_label("/b"));
    assert_eq!(quoted("a `b` c `d/e`\n`f"), ["b", "d/e", "f"]);
    let text = concat!("see doc", "s/x.md, (crate", "s/a/src/b.rs) and docs/ or x/y.rs.");
    assert_eq!(paths(text), [concat!("doc", "s/x.md"), concat!("crate", "s/a/src/b.rs")]);
    assert!(has_word("  asm volatile(", "asm") && !has_word("wasm_asm", "asm"));
    let file = File { path: "a.cuh".into(), text: "x // y\nz\n".into() };
    assert_eq!(file.code_lines().collect::<Vec<_>>(), [(1, "x "), (2, "z")]);
}
