#!/usr/bin/env python3
"""NCCL's all-reduce on this machine, so that a record holds both sides of one run.

    torchrun --nproc-per-node 4 benches/peers.py -b 1K -e 1G -f 4 -n 10 -w 3

Times as `myelon all-reduce` does: `n` calls back to back on a stream between two events, the mean a call,
the maximum over the ranks, bf16, sum, in place. Prints csv. Needs PyTorch with NCCL; multicast is turned
off (NCCL_NVLS_ENABLE=0), because ours does not use it.
"""
import argparse
import os

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import torch
import torch.distributed as dist

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text):
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-b", type=size, default=size("1K"), help="smallest size in bytes")
    parser.add_argument("-e", type=size, default=size("1G"), help="largest size in bytes")
    parser.add_argument("-f", type=int, default=4, help="factor between sizes")
    parser.add_argument("-n", type=int, default=10, help="timed calls")
    parser.add_argument("-w", type=int, default=3, help="calls before")
    options = parser.parse_args()

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    if rank == 0:
        version = ".".join(map(str, torch.cuda.nccl.version()))
        print(f"# nccl {version}, torch {torch.__version__}, {ranks} x {torch.cuda.get_device_name()}")
        print("peer,ranks,bytes,dtype,op,in_place,time_us,algbw_gbps,busbw_gbps", flush=True)
    bytes_ = options.b
    while bytes_ <= options.e:
        values = torch.randn(bytes_ // 2, dtype=torch.bfloat16, device=device)
        for _ in range(options.w):
            dist.all_reduce(values)
        torch.cuda.synchronize()
        dist.barrier()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(options.n):
            dist.all_reduce(values)
        end.record()
        torch.cuda.synchronize()
        slowest = torch.tensor([start.elapsed_time(end) * 1e3 / options.n], device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        us = slowest.item()
        if rank == 0:
            algbw = bytes_ / us / 1e3
            print(f"nccl,{ranks},{bytes_},bf16,sum,true,{us:.3f},{algbw:.3f},{algbw * 2 * (ranks - 1) / ranks:.3f}", flush=True)
        bytes_ *= options.f
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
