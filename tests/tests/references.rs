//! Property: what the simulator compares results with is the reference of the library, for every type and operation, 2 to
//! 8 ranks, any bits.
//!
//! Catches: a simulator that would pass what the contract of the library forbids, or refuse what it asks. Cannot catch: a
//! mistake that both make; the tests of the library's reference and the conformance suite are for that.

use myelon_collectives::{DataType, ReduceOp, reference};
use myelon_sim::simulation::{OPERATIONS, TYPES, by_element};
use myelon_tests::data::{Fill, Random, elements};

#[test]
fn the_simulator_and_the_library_agree() {
    let mut random = Random::new(7);
    for (name, _, is_integer) in TYPES {
        let dtype: DataType = name.parse().expect("a type of the library");
        for op in OPERATIONS.into_iter().filter(|&op| op != "avg" || !is_integer) {
            let of_library: ReduceOp = op.parse().expect("an operation of the library");
            for ranks in 2..=8 {
                for fill in [Fill::Ordinary, Fill::Edges] {
                    let inputs: Vec<_> =
                        (0..ranks).map(|_| elements(&mut random, dtype, fill, 300)).collect();
                    let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[..]).collect();
                    let (seen, needed) =
                        (by_element(name, op, &inputs), reference::all_reduce(dtype, of_library, &inputs));
                    let bytes = dtype.bytes();
                    let differs = (0..seen.len()).find(|&at| seen[at] != needed[at]).map(|at| at / bytes);
                    let of_rank = |at: usize| {
                        inputs.iter().map(|input| input[at * bytes..][..bytes].to_vec()).collect::<Vec<_>>()
                    };
                    assert_eq!(differs.map(of_rank), None, "{name} {op} of {ranks} ranks");
                }
            }
        }
    }
}
