//! Placeholder with the names that other crates lean on; the body follows.
