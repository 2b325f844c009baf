//! What no single crate can show.
