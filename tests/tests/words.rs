//! Property: the C++ side and the Rust side take every shared word to be at the same place.
//!
//! Catches: a field that one side has and the other has not, under another name, or in another order.
//! Cannot catch: a field that both sides place alike and understand differently.

use myelon_ring::words::SHARED_LAYOUT;

#[test]
fn both_sides_have_the_same_words_in_the_same_order() {
    let kernels = myelon_sim::layout();
    let kernels: Vec<(&str, usize)> = kernels.iter().map(|(name, offset)| (&name[..], *offset)).collect();
    assert_eq!(kernels, SHARED_LAYOUT);
}
