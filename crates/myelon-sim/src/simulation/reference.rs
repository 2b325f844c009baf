//! What a call of integers must give, one element at a time. Floats are summed by whoever hands in a reference.

/// Sums, multiplies or compares integers of any width, wrapping.
///
/// # Panics
///
/// For floats and for averages.
pub fn integers(dtype: &str, op: &str, inputs: &[&[u8]]) -> Vec<u8> {
    match dtype {
        "i8" => join::<1>(op, inputs, true),
        "u8" => join::<1>(op, inputs, false),
        "i32" => join::<4>(op, inputs, true),
        "u32" => join::<4>(op, inputs, false),
        "i64" => join::<8>(op, inputs, true),
        "u64" => join::<8>(op, inputs, false),
        _ => panic!("needed a reference for {dtype}; this one covers integers"),
    }
}

fn join<const N: usize>(op: &str, inputs: &[&[u8]], signed: bool) -> Vec<u8> {
    // Wrapping sums and products have the same low bytes at any width; comparisons need the sign.
    let value = |bytes: &[u8]| {
        let fill = if signed && bytes[N - 1] >= 0x80 { 0xff } else { 0 };
        let mut wide = [fill; 16];
        wide[..N].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    };
    let mut output = Vec::with_capacity(inputs[0].len());
    for at in (0..inputs[0].len()).step_by(N) {
        let values = inputs.iter().map(|input| value(&input[at..at + N]));
        let joined = match op {
            "sum" => values.reduce(i128::wrapping_add),
            "prod" => values.reduce(i128::wrapping_mul),
            "min" => values.min(),
            "max" => values.max(),
            _ => panic!("integers have no {op}"),
        };
        output.extend_from_slice(&joined.expect("there are ranks").to_le_bytes()[..N]);
    }
    output
}
