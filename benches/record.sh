#!/usr/bin/env bash
# Takes a record on a GPU machine: ours, NCCL's and PyTorch's in one run. Copy what it writes to benches/record/.
#
#   benches/record.sh [-m MODES] MYELON OUT RANKS...
#   benches/record.sh -m stream,graph,isolated target/release/myelon /tmp/out 2 4
#
# MODES are those of `myelon all-reduce --mode`, stream alone unless said. Writes for each mode and number of ranks
# OUT/all-reduce-MODE-pN.csv (ours, every result checked), OUT/processes-MODE-pN.csv (the same with a process a GPU) and
# OUT/peers-MODE-pN.csv (with the ratio to ours), and OUT/machine.txt.
set -u
# The automatic plans, whatever tuning file this user has.
export MYELON_TUNING=none
modes=stream
if [[ ${1-} == -m ]]; then
    modes=${2//,/ }
    shift 2
fi
if (($# < 3)); then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
myelon=$1 out=$2
shift 2
mkdir -p "$out"
limit() { timeout --kill-after=5 "$@"; }
here=$(dirname "$0")
range=(-b 1K -e 1G -f 4 -n 10 -w 3)

{
    "$myelon" --version
    "$myelon" info
    nvidia-smi --query-gpu=index,name,driver_version,clocks.sm,clocks.mem,pcie.link.gen.current --format=csv
    nvidia-smi topo -m | sed 's/\x1b\[[0-9;]*m//g'
    date -u +%Y-%m-%d
} >"$out/machine.txt" 2>&1

for ranks in "$@"; do
    for mode in $modes; do
        ours=$out/all-reduce-$mode-p$ranks.csv
        command=("$myelon" all-reduce --backend cuda --ranks "$ranks" "${range[@]}" -d bf16 --mode "$mode" --format csv)
        echo "\$ myelon ${command[*]:1}" >>"$out/machine.txt"
        limit 200 "${command[@]}" >"$ours" 2>>"$out/machine.txt" || echo "$mode p=$ranks: exit $?" | tee -a "$out/machine.txt"
        command+=(--processes)
        echo "\$ myelon ${command[*]:1}" >>"$out/machine.txt"
        limit 200 "${command[@]}" >"$out/processes-$mode-p$ranks.csv" 2>>"$out/machine.txt" || echo "processes $mode p=$ranks: exit $?"
        limit 200 torchrun --nproc-per-node "$ranks" "$here/peers.py" "${range[@]}" --mode "$mode" --ours "$ours" \
            >"$out/peers-$mode-p$ranks.csv" 2>/dev/null || echo "peers $mode p=$ranks: exit $?"
    done
done

# In place, as "bytes,us,busbw,wrong" by size.
in_place() { awk -F, 'NR > 1 && $7 == "true" { printf "%012d,%.2f,%.0f,%s\n", $3, $8, $10, $11 }' "$1" | sort; }

# The best of the peers of each size stands beside ours, and ours over processes.
echo "mode     ranks        bytes  myelon us (busbw)    processes us  best peer us (busbw)  peer/myelon"
for ranks in "$@"; do
    for mode in $modes; do
        join -t, -j1 <(join -t, -j1 <(in_place "$out/all-reduce-$mode-p$ranks.csv") <(in_place "$out/processes-$mode-p$ranks.csv")) \
            <(awk -F, '$2 == '"$ranks"' { printf "%012d,%.2f,%.0f,%s\n", $3, $7, $9, $1 }' "$out/peers-$mode-p$ranks.csv" |
                sort -t, -k1,1 -k2,2n | sort -t, -k1,1 -u -s) |
            awk -F, -v mode="$mode" -v ranks="$ranks" '{ printf "%-8s %5d %12d  %9.2f (%3d)  %16.2f  %14.2f (%3d)  %11.2f  %s%s\n",
                mode, ranks, $1, $2, $3, $5, $8, $9, $8 / $2, $10, $4 + $7 ? "  WRONG" : "" }'
    done
done
