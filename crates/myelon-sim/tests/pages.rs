//! Property: the pages of docs/protocols on what the kernels do name a checker for each invariant and a mutant for each end of each
//! label, and these are checkers and mutants that there are; no mutant is left out.
//!
//! Catches: an invariant that nothing looks at, a label that nobody has weakened, names that have changed.
//! Cannot catch: whether the checker looks at the right thing; the mutants are for that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use myelon_sim::simulation::{Mutant, checkers};

struct Page {
    name: String,
    text: String,
}

/// Pages on what processes do, which no simulator runs: loom and the tests of their crates hold them, as they say.
const OF_PROCESSES: [&str; 2] = ["meeting", "recorder"];

fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocols");
    let page = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Page { name, text: fs::read_to_string(path).unwrap() }
    };
    let pages: Vec<Page> = fs::read_dir(folder).unwrap().map(page).collect();
    let is_of_processes = |page: &&Page| OF_PROCESSES.contains(&page.name.as_str());
    assert_eq!(pages.iter().filter(is_of_processes).count(), OF_PROCESSES.len());
    pages.into_iter().filter(|page| !is_of_processes(&page)).collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of a table's rows whose first cell satisfies `wanted`.
fn rows<'a>(page: &'a Page, wanted: impl Fn(&str) -> bool) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let table = page.text.lines().filter(|line| line.starts_with('|')).map(cells);
    table.filter(|row| wanted(row[0])).collect()
}

/// The invariants that a page defines: `- **R3 Credit.** ...`.
fn invariants(page: &Page) -> Vec<&str> {
    let defined = page.text.lines().filter_map(|line| line.strip_prefix("- **")?.split(' ').next());
    let numbered = |name: &&str| name.len() > 1 && name[1..].chars().all(|c| c.is_ascii_digit());
    defined.filter(numbered).collect()
}

#[test]
fn every_invariant_has_a_checker() {
    let known = checkers();
    let mut seen = 0;
    for page in pages() {
        for invariant in invariants(&page) {
            let rows = rows(&page, |first| first == invariant);
            let row =
                rows.first().unwrap_or_else(|| panic!("{}: {invariant} has no row of checkers", page.name));
            let named: Vec<&str> = quoted(row[1]).collect();
            assert!(!named.is_empty(), "{}: {invariant} has no checker", page.name);
            for checker in named {
                assert!(
                    known.contains(&checker),
                    "{}: {invariant} names {checker}; known are {known:?}",
                    page.name
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "the pages define {seen} invariants");
}

#[test]
fn both_ends_of_every_label_have_a_mutant() {
    let mutants: BTreeSet<&str> = Mutant::all().iter().map(Mutant::name).collect();
    let mut labels = 0;
    for page in pages() {
        let is_label = |text: &str| {
            let label = text.trim_matches('`');
            label.len() + 2 == text.len()
                && label.split_once('/').is_some_and(|(before, _)| before == page.name)
        };
        let rows = rows(&page, is_label);
        let all: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
        for label in all {
            for end in ["releasing", "acquiring"] {
                let row = rows.iter().find(|row| row[0] == label && row[1] == end);
                let row = row.unwrap_or_else(|| panic!("{label} has no row for its {end} end"));
                let named: Vec<&str> = quoted(row[2]).collect();
                assert!(!named.is_empty(), "{label}, {end}: no mutant");
                let unknown = named.iter().find(|name| !mutants.contains(**name));
                assert!(unknown.is_none(), "{label}, {end}: no mutant {unknown:?}");
                let own = named.iter().any(|name| name.starts_with(label.trim_matches('`')));
                assert!(own, "{label}, {end}: none of {named:?} is named after it");
            }
            labels += 1;
        }
    }
    assert!(labels >= 3, "the pages have {labels} labels");
}

#[test]
fn every_mutant_stands_on_a_page() {
    let pages = pages();
    let written: BTreeSet<&str> = pages.iter().flat_map(|page| quoted(&page.text)).collect();
    let missing: Vec<&str> =
        Mutant::all().iter().map(Mutant::name).filter(|name| !written.contains(name)).collect();
    assert!(missing.is_empty(), "no page of docs/protocols names {missing:?}");
}
