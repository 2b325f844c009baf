//! What is there, for people.

use myelon_kernel::{AOT, probe};

/// What the CUDA side says of this machine: driver, kernels, devices and the links between them, as names
/// and values. Where CUDA can't be used, one line that says why.
///
/// ```
/// for (name, value) in myelon_collectives::cuda_report() {
///     println!("{name}: {value}");
/// }
/// ```
pub fn cuda_report() -> Vec<(String, String)> {
    let node = match probe() {
        Ok(node) => node,
        Err(error) => return vec![("not usable".into(), error.to_string())],
    };
    let version = node.driver_version;
    let kernels = if AOT { "built in by nvcc" } else { "compiled by NVRTC when first needed" };
    let mut rows = vec![
        ("driver".into(), format!("CUDA {}.{}", version / 1000, version % 1000 / 10)),
        ("kernels".into(), kernels.into()),
    ];
    for device in &node.devices {
        let (major, minor) = device.compute_capability;
        rows.push((
            format!("GPU {}", device.ordinal),
            format!(
                "{}, sm_{major}{minor}, {} multiprocessors, {} GiB, {}",
                device.name,
                device.multiprocessors,
                device.memory_bytes >> 30,
                device.pci_bus_id
            ),
        ));
    }
    for (from, links) in node.links.iter().enumerate() {
        let shown: Vec<String> = links
            .iter()
            .enumerate()
            .map(|(to, link)| match (from == to, link.access, link.native_atomics) {
                (true, ..) => "-".into(),
                (_, false, _) => "none".into(),
                (_, true, false) => "peer".into(),
                (_, true, true) => "peer+atomics".into(),
            })
            .collect();
        rows.push((format!("GPU {from} reaches"), shown.join("  ")));
    }
    rows
}
