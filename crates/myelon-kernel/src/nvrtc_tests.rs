//! Property: the embedded sources compile at run time, and a cached image is used only for what it was
//! made of.
//!
//! Catches: headers that NVRTC cannot find, keys that miss an input, a damaged cache file that is loaded.
//! Cannot catch: what the driver says to the image; the device tests are for that. Without NVRTC the tests
//! that need it say so and end.

use super::*;
use crate::image::{OPS, SOURCES};

const DOUBLE: Source = Source {
    name: "double",
    text: "#include \"test/factor.cuh\"\nextern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= FACTOR; }\n",
    fatbin: None,
};
const FACTOR: &[(&str, &str)] = &[("test/factor.cuh", "#define FACTOR 2\n")];

fn found(test: &str) -> Option<&'static Nvrtc> {
    match nvrtc() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            None
        }
    }
}

fn is_elf(cubin: &[u8]) -> bool {
    cubin.starts_with(b"\x7fELF")
}

#[test]
fn a_source_with_a_header_becomes_a_cubin() {
    if found("a_source_with_a_header_becomes_a_cubin").is_none() {
        return;
    }
    let (cubin, log) = compile(&DOUBLE, FACTOR, &options(90, None)).unwrap();
    assert!(is_elf(&cubin), "{log}");
    assert!(cubin.windows(6).any(|window| window == b"twice\0"), "the kernel keeps its name");
}

#[test]
fn a_mistake_in_the_source_comes_back_with_the_log() {
    if found("a_mistake_in_the_source_comes_back_with_the_log").is_none() {
        return;
    }
    let error = compile(&DOUBLE, &[], &options(90, None)).unwrap_err();
    let KernelError::Nvrtc { call, log, .. } = &error else { panic!("{error}") };
    assert_eq!(*call, "nvrtcCompileProgram");
    assert!(log.contains("factor.cuh"), "{log}");
}

#[test]
fn every_embedded_source_compiles() {
    let Some(nvrtc) = found("every_embedded_source_compiles") else { return };
    let (compiled, image) = nvrtc.compile(SOURCES, 90, &Cache::none()).unwrap();
    eprintln!("{image}: {} bytes", compiled.iter().map(|part| part.cubin.len()).sum::<usize>());
    for name in SOURCES.iter().map(|source| source.name) {
        let dtypes = if name.ends_with("_lamport") { FLOAT_DTYPES } else { &DTYPES };
        for (dtype, op) in dtypes.iter().flat_map(|dtype| OPS.iter().map(move |op| (*dtype, op))) {
            let kernel = format!("{name}_{dtype}_{op}\0");
            let part = compiled.iter().find(|part| part.source_name == name && part.dtype == Some(dtype));
            let cubin = &part.expect("a part for every type").cubin;
            assert!(is_elf(cubin));
            assert!(cubin.windows(kernel.len()).any(|window| window == kernel.as_bytes()), "{kernel}");
        }
    }
}

#[test]
fn a_damaged_cache_file_is_compiled_again() {
    let Some(nvrtc) = found("a_damaged_cache_file_is_compiled_again") else { return };
    let folder = std::env::temp_dir().join(format!("myelon-nvrtc-test-{}", std::process::id()));
    let cache = Cache::at(folder.clone());
    // The images of a process are remembered, so each step needs a source of its own.
    const FIRST: &[Source] =
        &[Source { name: "first", text: "extern \"C\" __global__ void first() {}", fatbin: None }];
    const SECOND: &[Source] =
        &[Source { name: "second", text: "extern \"C\" __global__ void second() {}", fatbin: None }];
    let key = nvrtc.key(&FIRST[0], HEADERS, &options(90, None));
    cache.put(key, b"\x7fELF from the cache");
    let (compiled, image) = nvrtc.compile(FIRST, 90, &cache).unwrap();
    assert_eq!((&compiled[0].cubin[..], compiled[0].key), (&b"\x7fELF from the cache"[..], key));
    assert!(matches!(image, Image::Nvrtc { cached: true, compile_ms: 0, .. }));

    let key = nvrtc.key(&SECOND[0], HEADERS, &options(90, None));
    std::fs::write(folder.join(format!("{key:016x}.cubin")), b"rubbish").unwrap();
    let (compiled, image) = nvrtc.compile(SECOND, 90, &cache).unwrap();
    assert!(is_elf(&compiled[0].cubin) && matches!(image, Image::Nvrtc { cached: false, .. }));
    assert_eq!(cache.get(key).as_deref(), Some(&compiled[0].cubin[..]), "the rubbish was replaced");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_key_changes_with_every_input() {
    let nvrtc = Nvrtc { version: (13, 0), known: vec![90] };
    let key = nvrtc.key(&DOUBLE, FACTOR, &options(90, None));
    assert_eq!(key, nvrtc.key(&DOUBLE, FACTOR, &options(90, None)));
    let text = Source { text: "extern \"C\" __global__ void twice() {}", ..DOUBLE };
    let name = Source { name: "triple", ..DOUBLE };
    let other = Nvrtc { version: (13, 1), known: vec![90] };
    let keys = [
        key,
        nvrtc.key(&text, FACTOR, &options(90, None)),
        nvrtc.key(&name, FACTOR, &options(90, None)),
        nvrtc.key(&DOUBLE, &[("test/factor.cuh", "#define FACTOR 3\n")], &options(90, None)),
        nvrtc.key(&DOUBLE, FACTOR, &options(100, None)),
        other.key(&DOUBLE, FACTOR, &options(90, None)),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(one), "input {at} does not change the key");
    }
}

#[test]
fn a_source_that_asks_for_a_type_is_compiled_for_each() {
    const BY_TYPE: &[Source] = &[Source {
        name: "by_type",
        text: "#define NAME_(d) by_type_##d\n#define NAME(d) NAME_(d)\nextern \"C\" __global__ void NAME(MYELON_DTYPE)() {}",
        fatbin: None,
    }];
    let Some(nvrtc) = found("a_source_that_asks_for_a_type_is_compiled_for_each") else { return };
    let (compiled, _) = nvrtc.compile(BY_TYPE, 90, &Cache::none()).unwrap();
    let dtypes: Vec<_> = compiled.iter().map(|part| part.dtype.unwrap()).collect();
    assert_eq!(dtypes, DTYPES);
    for part in &compiled {
        let name = format!("by_type_{}\0", part.dtype.unwrap());
        assert!(part.cubin.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
    }
}

#[test]
fn the_architecture_stays_in_its_family() {
    let known = [75, 80, 86, 90, 100, 103, 120];
    assert_eq!(best_arch(&known, 90), Some(90));
    assert_eq!(best_arch(&known, 89), Some(86));
    assert_eq!(best_arch(&known, 101), Some(100));
    assert_eq!(best_arch(&[75, 80], 90), None);
}

#[test]
fn no_nvrtc_is_an_error_that_names_what_was_tried() {
    match nvrtc() {
        Ok(nvrtc) => assert!(nvrtc.version.0 >= 12 && nvrtc.known.contains(&90)),
        Err(KernelError::NoNvrtc { tried }) => {
            assert!(tried.contains("libnvrtc.so") && tried.contains(TOOLKIT))
        }
        Err(other) => panic!("{other}"),
    }
}
