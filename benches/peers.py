#!/usr/bin/env python3
"""The all-reduce of NCCL and of PyTorch's symmetric memory on this machine, so that a record holds all sides of one run.

    torchrun --nproc-per-node 4 benches/peers.py -b 1K -e 1G -f 4 -n 10 -w 3 --mode graph --ours ours.csv

Times as `myelon all-reduce` does, with the same modes, samples, calls of a sample and rotation of buffers: see
docs/measurements.md. bf16, sum, in place; torch's one-shot out of place, and up to 8 MiB. Prints csv. With --ours FILE, what the command printed with
--format csv for the same ranks, two columns more: our time of the same size in place and mode, and the ratio, NCCL's
time over ours: above 1 ours is faster. Needs PyTorch with NCCL; multicast is turned off (NCCL_NVLS_ENABLE=0,
TORCH_SYMM_MEM_DISABLE_MULTICAST=1), because ours does not use it.

All is queued, captured and replayed on one stream that is not the default one: NCCL's graphs of small calls, captured
and replayed on the default stream, took 20 to 25 us a call and not 9 (4 x H200, NCCL 2.28.9).
"""
import argparse
import csv
import os

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# As in the command: what calls go round, and what is filled between isolated calls.
ROTATION_BYTES = 128 << 20
PAIRS_MAX = 16
UNRELATED_BYTES = 64 << 20
# Above it torch's one-shot is far behind all others.
ONE_SHOT_BYTES_MAX = 8 << 20
PEERS = ("nccl", "torch-one-shot", "torch-two-shot")
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


class Operands:
    """Buffers that calls go round, and the call of each peer. Symmetric ones are parts of one allocation."""

    def __init__(self, options, device):
        import torch
        import torch.distributed as dist

        self.device, self.symmetric = device, None
        self.group = dist.group.WORLD.group_name
        if any(peer != "nccl" for peer in options.peers):
            import torch.distributed._symmetric_memory as symmetric_memory

            self.symmetric = symmetric_memory.empty(
                max(ROTATION_BYTES, options.e) // 2, dtype=torch.bfloat16, device=device
            )
            symmetric_memory.rendezvous(self.symmetric, self.group)

    def calls(self, peer, bytes_):
        """A function for each buffer."""
        import torch
        import torch.distributed as dist

        pairs, count = min(max(ROTATION_BYTES // bytes_, 1), PAIRS_MAX), bytes_ // 2
        random = [torch.randn(count, dtype=torch.bfloat16, device=self.device) for _ in range(pairs)]
        if peer == "nccl":
            return [lambda buffer=buffer: dist.all_reduce(buffer) for buffer in random]
        parts = [self.symmetric[i * count : (i + 1) * count] for i in range(pairs)]
        for part, values in zip(parts, random):
            part.copy_(values)
        if peer == "torch-one-shot":
            return [lambda part=part: torch.ops.symm_mem.one_shot_all_reduce(part, "sum", self.group) for part in parts]
        return [lambda part=part: torch.ops.symm_mem.two_shot_all_reduce_(part, "sum", self.group) for part in parts]


def measure(peer, bytes_, options, operands):
    """Microseconds of a call on this rank, a number a sample."""
    import torch
    import torch.distributed as dist

    device = operands.device
    calls = sample_calls(options.mode, bytes_)
    functions = operands.calls(peer, bytes_)
    queued = 0

    def call(times=1):
        nonlocal queued
        for _ in range(times):
            functions[queued % len(functions)]()
            queued += 1

    def mark():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def meet():
        torch.cuda.synchronize()
        dist.barrier()
        torch.cuda.synchronize()

    meet()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(options.w)
        torch.cuda.synchronize()
        graph = unrelated = None
        if options.mode == "graph":
            graph = torch.cuda.CUDAGraph()
            queued = 0
            with torch.cuda.graph(graph, stream=stream):
                call(calls)
            for _ in range(options.w):
                graph.replay()
        elif options.mode == "isolated":
            unrelated = torch.empty(UNRELATED_BYTES, dtype=torch.uint8, device=device)
        meet()
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
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS), help="some of " + ",".join(PEERS))
    parser.add_argument("--ours", help="csv of myelon all-reduce, to print ratios")
    options = parser.parse_args()
    if unknown := [peer for peer in options.peers if peer not in PEERS]:
        parser.error(f"unknown peers {unknown}; known: {', '.join(PEERS)}")

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
    operands = Operands(options, device)
    bytes_ = options.b
    while bytes_ <= options.e:
        for peer in options.peers:
            if peer == "torch-one-shot" and bytes_ > ONE_SHOT_BYTES_MAX:
                continue
            us, p99, most = spread(measure(peer, bytes_, options, operands))
            if rank != 0:
                continue
            algbw = bytes_ / us / 1e3
            busbw = algbw * 2 * (ranks - 1) / ranks
            print(
                f"{peer},{ranks},{bytes_},bf16,sum,{str(peer != 'torch-one-shot').lower()},{us:.3f},{algbw:.3f},"
                f"{busbw:.3f},{p99:.3f},{most:.3f},{options.mode},{options.n},{sample_calls(options.mode, bytes_)}"
                + (columns_of_ours(ours, bytes_, us) if ours is not None else ""),
                flush=True,
            )
        bytes_ *= options.f
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
