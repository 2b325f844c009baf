#!/usr/bin/env python3
"""NCCL's all-reduce on this machine, so that a record holds both sides of one run.

    torchrun --nproc-per-node 4 benches/peers.py -b 1K -e 1G -f 4 -n 10 -w 3 --mode graph --ours ours.csv

Times as `myelon all-reduce` does, with the same modes, samples, calls of a sample and rotation of buffers: see
docs/measurements.md. bf16, sum, in place. Prints csv. With --ours FILE, what the command printed with
--format csv for the same ranks, two columns more: our time of the same size in place and mode, and the ratio, NCCL's
time over ours: above 1 ours is faster. Needs PyTorch with NCCL; multicast is turned off (NCCL_NVLS_ENABLE=0),
because ours does not use it.
"""
import argparse
import csv
import os

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# As in the command: what calls go round, and what is filled between isolated calls.
ROTATION_BYTES = 128 << 20
PAIRS_MAX = 16
UNRELATED_BYTES = 64 << 20
COLUMNS = (
    "peer,ranks,bytes,dtype,op,in_place,time_us,algbw_gbps,busbw_gbps,"
    "time_p99_us,time_max_us,mode,samples,sample_calls"
)


def size(text):
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def sample_calls(mode, bytes_):
    """Calls of a sample, as the command chooses them on GPUs."""
    short, middle, long = {"graph": (100, 20, 5), "stream": (20, 5, 2), "isolated": (1, 1, 1)}[mode]
    return short if bytes_ <= 4 << 20 else middle if bytes_ <= 64 << 20 else long


def spread(samples):
    """Median, p99 and maximum, as the command takes them."""
    samples = sorted(samples)
    n = len(samples)
    return (samples[(n - 1) // 2] + samples[n // 2]) / 2, samples[(n * 99 + 99) // 100 - 1], samples[-1]


def times_of_ours(path, ranks, mode):
    """Microseconds by bytes: in place, bf16, sum."""
    with open(path, newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    wanted = {"ranks": str(ranks), "dtype": "bf16", "op": "sum", "in_place": "true", "mode": mode}
    rows = (row for row in csv.DictReader(lines) if all(row.get(name) == wanted[name] for name in wanted))
    return {int(row["bytes"]): float(row["time_us"]) for row in rows}


def columns_of_ours(ours, bytes_, us):
    return f",{ours[bytes_]:.3f},{us / ours[bytes_]:.3f}" if bytes_ in ours else ",,"


def measure(bytes_, options, device):
    """Microseconds of a call on this rank, a number a sample."""
    import torch
    import torch.distributed as dist

    calls = sample_calls(options.mode, bytes_)
    pairs = min(max(ROTATION_BYTES // bytes_, 1), PAIRS_MAX)
    buffers = [torch.randn(bytes_ // 2, dtype=torch.bfloat16, device=device) for _ in range(pairs)]
    queued = 0

    def call(times=1):
        nonlocal queued
        for _ in range(times):
            dist.all_reduce(buffers[queued % pairs])
            queued += 1

    def mark():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    call(options.w)
    torch.cuda.synchronize()
    graph = unrelated = None
    if options.mode == "graph":
        graph = torch.cuda.CUDAGraph()
        queued = 0
        with torch.cuda.graph(graph):
            call(calls)
        for _ in range(options.w):
            graph.replay()
    elif options.mode == "isolated":
        unrelated = torch.empty(UNRELATED_BYTES, dtype=torch.uint8, device=device)
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    marks = []
    if unrelated is not None:
        for sample in range(options.n + 1):
            unrelated.fill_(sample % 256)
            start = mark()
            call()
            marks.append((start, mark()))
        # The first round brings the ranks into step.
        marks = marks[1:]
    else:
        start = mark()
        for _ in range(options.n):
            graph.replay() if graph else call(calls)
            end = mark()
            marks.append((start, end))
            start = end
    torch.cuda.synchronize()
    slowest = torch.tensor([start.elapsed_time(end) * 1e3 / calls for start, end in marks], device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-b", type=size, default=size("1K"), help="smallest size in bytes")
    parser.add_argument("-e", type=size, default=size("1G"), help="largest size in bytes")
    parser.add_argument("-f", type=int, default=4, help="factor between sizes")
    parser.add_argument("-n", type=int, default=10, help="samples")
    parser.add_argument("-w", type=int, default=3, help="calls before, and launches of a graph before")
    parser.add_argument("--mode", choices=("stream", "graph", "isolated"), default="stream")
    parser.add_argument("--ours", help="csv of myelon all-reduce, to print ratios")
    options = parser.parse_args()

    import torch
    import torch.distributed as dist

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    ours = times_of_ours(options.ours, ranks, options.mode) if options.ours else None
    if rank == 0:
        version = ".".join(map(str, torch.cuda.nccl.version()))
        print(f"# nccl {version}, torch {torch.__version__}, {ranks} x {torch.cuda.get_device_name()}")
        print(COLUMNS + (",ours_us,ratio" if options.ours else ""), flush=True)
    bytes_ = options.b
    while bytes_ <= options.e:
        us, p99, most = spread(measure(bytes_, options, device))
        if rank == 0:
            algbw = bytes_ / us / 1e3
            busbw = algbw * 2 * (ranks - 1) / ranks
            print(
                f"nccl,{ranks},{bytes_},bf16,sum,true,{us:.3f},{algbw:.3f},{busbw:.3f},{p99:.3f},{most:.3f},"
                f"{options.mode},{options.n},{sample_calls(options.mode, bytes_)}"
                + (columns_of_ours(ours, bytes_, us) if ours is not None else ""),
                flush=True,
            )
        bytes_ *= options.f
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
