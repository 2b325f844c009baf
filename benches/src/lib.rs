//! A package must have a library: the benches are in `benches/`, and share nothing.
