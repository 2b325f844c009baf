//! One process a rank: start as many as there shall be ranks by torchrun, mpirun or srun, or by hand with `MYELON_RANK`,
//! `MYELON_RANKS` and `MYELON_MEETING`.

use myelon_collectives::{Communicator, ReduceOp};

fn main() -> Result<(), myelon_collectives::Error> {
    let mut rank = Communicator::from_env()?; // returns when all ranks are there
    let stream = rank.stream().clone();
    let mut buffer = rank.buffer::<f32>(1000)?;
    for step in 0..3 {
        buffer.write(&stream, &[(step + rank.rank()) as f32; 1000])?;
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?;
        let sums = buffer.read(&stream)?; // an error here names the rank that died or is late
        if rank.rank() == 0 {
            println!("step {step}: {} over {} ranks", sums[0], rank.ranks());
        }
    }
    Ok(()) // dropped here: a rank that ends without is dead to the others
}
