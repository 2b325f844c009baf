//! Running the command, and looking at the pictures it draws.

use std::path::Path;

use assert_cmd::Command;

/// The command, with no settings from outside and no GPU in sight.
pub fn myelon(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("myelon"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MYELON_")) {
        command.env_remove(name);
    }
    // Nor a tuning file of the user's.
    command.env("XDG_CONFIG_HOME", "/no/such/folder");
    command.env("CUDA_VISIBLE_DEVICES", "-1").args(args);
    command
}

/// Standard output and standard error of a run that should end with `code`.
#[allow(dead_code, reason = "not every command runs without settings")]
pub fn run(code: i32, args: &[&str]) -> (String, String) {
    outcome(code, &mut myelon(args))
}

/// Standard output and standard error of `command`, which should end with `code`.
pub fn outcome(code: i32, command: &mut Command) -> (String, String) {
    let output = command.assert().code(code).get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Every element of the file is closed, in the right order, and text holds no bare `<` or `&`.
#[allow(dead_code, reason = "not every command draws")]
pub fn well_formed(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut open = Vec::new();
    let mut elements = 0;
    for part in text.split('<').skip(1) {
        let (tag, after) = part.split_once('>').expect("a tag is closed");
        for entity in after.split('&').skip(1) {
            assert!(
                ["lt;", "gt;", "amp;", "apos;", "quot;"].iter().any(|known| entity.starts_with(known)),
                "{after}"
            );
        }
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        elements += 1;
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name.to_string()));
        } else if !tag.ends_with('/') {
            open.push(name.to_string());
        }
    }
    assert!(open.is_empty() && elements > 50, "{elements} elements, left open: {open:?}");
}
