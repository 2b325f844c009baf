//! Compiles the kernels' own source for host threads.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = std::path::Path::new(&here).join("../../kernels");
    for tree in ["include/myelon", "src", "host"] {
        println!("cargo::rerun-if-changed={}", root.join(tree).display());
    }
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .include(root.join("include"))
        .include(root.join("host"))
        .file(root.join("host/host_launch.cc"))
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        // A flag beside each value says whether it was loaded; the compiler does not connect the two.
        .flag("-Wno-uninitialized")
        .flag("-Wno-maybe-uninitialized")
        .opt_level(2)
        .compile("myelon_host");
}
