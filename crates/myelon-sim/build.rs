//! Compiles the kernels' own source for host threads, and for the simulator.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = std::path::Path::new(&here).join("../../kernels");
    for tree in ["checks", "host", "include/myelon", "src"] {
        println!("cargo::rerun-if-changed={}", root.join(tree).display());
    }
    // Clippy links nothing, and these take minutes.
    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
    if std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy")) {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| compile(&root, "host_launch"));
        compile(&root, "model_launch");
    });
}

fn compile(root: &std::path::Path, name: &str) {
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .include(root.join("include"))
        .include(root.join("host"))
        .file(root.join("host").join(name).with_extension("cc"))
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        // A flag beside each value says whether it was loaded; the compiler does not connect the two.
        .flag("-Wno-uninitialized")
        .flag("-Wno-maybe-uninitialized")
        .opt_level(2)
        .compile(&format!("myelon_{name}"));
}
