//! The comparison of what the ranks hold with the reference, byte for byte, on all threads of the host.

use std::thread;

use myelon_collectives::{DataType, ReduceOp, reference};
use myelon_lanes::Lanes;

use crate::values::Values;

/// What a thread draws, reduces and compares at once; a multiple of 8, so values can be cut there.
const BLOCK_BYTES: usize = 256 << 10;

/// What buffers hold where nobody has written yet.
pub const POISON: u8 = 0xa5;

/// Number of elements of `dtype` in `seen` whose bytes are not those of `expected`.
pub fn wrong_elements(dtype: DataType, expected: &[u8], seen: &[u8]) -> u64 {
    assert_eq!(expected.len(), seen.len(), "results of different length were to be compared");
    if expected == seen {
        return 0;
    }
    let element = dtype.bytes();
    let differ =
        expected.chunks(element).zip(seen.chunks(element)).filter(|(expected, seen)| expected != seen);
    differ.count() as u64
}

/// Number of bytes of `guard`, which lay behind a buffer, that are no longer [`POISON`].
pub fn overwritten(guard: &[u8]) -> u64 {
    guard.iter().filter(|&&byte| byte != POISON).count() as u64
}

/// Wrong elements, over all ranks, in the part of the result that begins at `first_byte`.
///
/// `values` says what each rank had put in, `outputs` what each rank got out after `times` calls, each on the
/// results of the last; `first_byte` is a multiple of 8. Where calls go by neighbours, `pieces` says whose what is. The inputs are drawn again block by block, so that no more of them than a block a thread is in memory.
pub fn wrong_in_part(
    dtype: DataType,
    op: ReduceOp,
    values: &[Values],
    times: usize,
    first_byte: u64,
    pieces: Option<&Lanes>,
    outputs: &[Vec<u8>],
) -> u64 {
    let bytes = outputs.first().map_or(0, Vec::len);
    assert!(outputs.iter().all(|output| output.len() == bytes), "ranks hold results of different length");
    let blocks = bytes.div_ceil(BLOCK_BYTES);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(blocks);
    let work = |thread: usize| -> u64 {
        let mut inputs = vec![Vec::new(); values.len()];
        let mut wrong = 0;
        for block in (thread..blocks).step_by(threads) {
            let start = block * BLOCK_BYTES;
            let end = bytes.min(start + BLOCK_BYTES);
            for (values, input) in values.iter().zip(&mut inputs) {
                input.resize(end - start, 0);
                values.fill(dtype, first_byte + start as u64, input);
            }
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let combined = |inputs: &[&[u8]]| match pieces {
                Some(pieces) => {
                    reference::by_neighbours(dtype, op, inputs, pieces, first_byte + start as u64)
                }
                None => reference::all_reduce(dtype, op, inputs),
            };
            let mut expected = combined(&inputs);
            for _ in 1..times {
                expected = combined(&vec![&expected[..]; values.len()]);
            }
            wrong +=
                outputs.iter().map(|seen| wrong_elements(dtype, &expected, &seen[start..end])).sum::<u64>();
        }
        wrong
    };
    if threads <= 1 {
        return if blocks == 0 { 0 } else { work(0) };
    }
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let mine = work(0);
        mine + others.into_iter().map(|other| other.join().expect("a comparing thread panicked")).sum::<u64>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result that every rank should hold, from inputs that are drawn whole.
    fn right(dtype: DataType, op: ReduceOp, values: &[Values], bytes: usize) -> Vec<u8> {
        let inputs: Vec<Vec<u8>> = values
            .iter()
            .map(|values| {
                let mut input = vec![0; bytes];
                values.fill(dtype, 0, &mut input);
                input
            })
            .collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        reference::all_reduce(dtype, op, &inputs)
    }

    #[test]
    fn a_right_result_has_no_wrong_element() {
        let values = [0, 1, 2].map(|rank| Values::new(5, rank, 8));
        for bytes in [0, 4, BLOCK_BYTES, 3 * BLOCK_BYTES + 20] {
            let output = right(DataType::F32, ReduceOp::Sum, &values, bytes);
            let outputs = vec![output; 3];
            assert_eq!(wrong_in_part(DataType::F32, ReduceOp::Sum, &values, 1, 0, None, &outputs), 0);
        }
    }

    /// The check can fail: every element that is spoilt on any rank is counted, once.
    #[test]
    fn corrupted_elements_are_counted_over_ranks() {
        let values = [0, 1].map(|rank| Values::new(5, rank, 8));
        for dtype in DataType::ALL {
            let bytes = 2 * BLOCK_BYTES + 64;
            let mut outputs = vec![right(dtype, ReduceOp::Max, &values, bytes); 2];
            outputs[0][0] ^= 1;
            outputs[0][bytes - 1] ^= 0x80;
            let element = BLOCK_BYTES / dtype.bytes() * dtype.bytes();
            outputs[1][element..element + dtype.bytes()].iter_mut().for_each(|byte| *byte ^= 0xff);
            assert_eq!(wrong_in_part(dtype, ReduceOp::Max, &values, 1, 0, None, &outputs), 3, "{dtype:?}");
        }
    }

    #[test]
    fn a_part_is_compared_with_its_own_place_in_the_reference() {
        let values = [0, 1].map(|rank| Values::new(5, rank, 8));
        let whole = right(DataType::U64, ReduceOp::Sum, &values, 4096);
        let outputs = vec![whole[1024..].to_vec(); 2];
        assert_eq!(wrong_in_part(DataType::U64, ReduceOp::Sum, &values, 1, 1024, None, &outputs), 0);
        assert_eq!(wrong_in_part(DataType::U64, ReduceOp::Sum, &values, 1, 0, None, &outputs), 2 * 384);
    }

    /// By neighbours a sum depends on whose piece it is in; parts and blocks are cut without regard to that.
    #[test]
    fn sums_by_neighbours_are_compared_piece_by_piece() {
        let values = [0, 1, 2].map(|rank| Values::new(5, rank, 8));
        let bytes = BLOCK_BYTES + 4096;
        let of_rank = |values: &Values| {
            let mut input = vec![0; bytes];
            values.fill(DataType::Bf16, 0, &mut input);
            input
        };
        let inputs: Vec<Vec<u8>> = values.iter().map(of_rank).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let pieces = Lanes::new(bytes as u64, 3, 5, 4000).unwrap();
        let whole = reference::by_neighbours(DataType::Bf16, ReduceOp::Avg, &inputs, &pieces, 0);
        let other = Lanes::new(bytes as u64, 3, 4, 4000).unwrap();
        let wrong = |first: usize, pieces| {
            let outputs = vec![whole[first..].to_vec(); 3];
            wrong_in_part(DataType::Bf16, ReduceOp::Avg, &values, 1, first as u64, pieces, &outputs)
        };
        assert_eq!((wrong(0, Some(&pieces)), wrong(1000, Some(&pieces))), (0, 0));
        assert!(wrong(0, None) > 0 && wrong(0, Some(&other)) > 0);
    }

    #[test]
    fn calls_on_results_of_calls_are_compared_as_such() {
        let values = [0, 1].map(|rank| Values::new(5, rank, 8));
        let once = right(DataType::F16, ReduceOp::Sum, &values, 4096);
        let twice = vec![reference::all_reduce(DataType::F16, ReduceOp::Sum, &[&once, &once]); 2];
        let wrong = |times| wrong_in_part(DataType::F16, ReduceOp::Sum, &values, times, 0, None, &twice);
        assert_eq!(wrong(2), 0);
        assert!(wrong(1) > 1000 && wrong(3) > 1000);
    }

    #[test]
    fn the_order_of_ranks_matters_to_the_check() {
        let values = [0, 1, 2].map(|rank| Values::new(5, rank, 8));
        let swapped = [2, 1, 0].map(|rank| Values::new(5, rank, 8));
        let output = right(DataType::F32, ReduceOp::Sum, &swapped, 1 << 16);
        assert!(wrong_in_part(DataType::F32, ReduceOp::Sum, &values, 1, 0, None, &[output]) > 0);
    }

    #[test]
    fn a_guard_that_was_written_is_noticed() {
        let mut guard = [POISON; 128];
        assert_eq!(overwritten(&guard), 0);
        guard[3] = 0;
        guard[127] = 1;
        assert_eq!(overwritten(&guard), 2);
    }
}
