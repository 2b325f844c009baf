#!/usr/bin/env bash
# Takes a record on a GPU machine: ours and NCCL in one run. Copy what it writes to benches/record/.
#
#   benches/record.sh MYELON OUT RANKS...        benches/record.sh target/release/myelon /tmp/out 2 4
#
# Writes OUT/all-reduce-pN.csv (ours, every result checked), OUT/peers-pN.csv and OUT/machine.txt.
set -u
myelon=$1 out=$2
shift 2
mkdir -p "$out"
limit() { timeout --kill-after=5 "$@"; }
here=$(dirname "$0")

{
    "$myelon" --version
    "$myelon" info
    nvidia-smi --query-gpu=index,name,driver_version,clocks.sm,clocks.mem,pcie.link.gen.current --format=csv
    nvidia-smi topo -m | sed 's/\x1b\[[0-9;]*m//g'
    date -u +%Y-%m-%d
} >"$out/machine.txt" 2>&1

for ranks in "$@"; do
    command="$myelon all-reduce --backend cuda --ranks $ranks -b 1K -e 1G -f 4 -d bf16 -n 10 -w 3 --format csv"
    echo "\$ ${command/$myelon/myelon}" >>"$out/machine.txt"
    limit 100 $command >"$out/all-reduce-p$ranks.csv" 2>>"$out/machine.txt" || echo "p=$ranks: exit $?" | tee -a "$out/machine.txt"
    limit 100 torchrun --nproc-per-node "$ranks" "$here/peers.py" >"$out/peers-p$ranks.csv" 2>/dev/null || echo "peers p=$ranks: exit $?"
done

echo "ranks bytes  myelon us (busbw)  nccl us (busbw)"
for ranks in "$@"; do
    join -t, -j1 \
        <(awk -F, 'NR > 1 && $7 == "true" { printf "%012d,%.1f,%.0f,%s\n", $3, $8, $10, $11 }' "$out/all-reduce-p$ranks.csv" | sort) \
        <(awk -F, '$1 == "nccl" { printf "%012d,%.1f,%.0f\n", $3, $7, $9 }' "$out/peers-p$ranks.csv" | sort) |
        awk -F, -v ranks="$ranks" '{ printf "%d %12d  %9.1f (%3d)  %9.1f (%3d)%s\n", ranks, $1, $2, $3, $5, $6, $4 ? "  WRONG" : "" }'
done
