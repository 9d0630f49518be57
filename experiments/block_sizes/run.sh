#!/usr/bin/env bash
# From autoregressive to plain diffusion: the quickstart's hybrid at four block sizes, and one frontier of all.
# Usage: bash experiments/block_sizes/run.sh [key=value ...]      results: experiments/block_sizes/results
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/block_sizes
results=()
for block in 1 3 6 18; do
  run=runs/block_sizes/block_$block
  hybrid train "$here/block_$block.yaml" "run=$run" "$@"
  hybrid evaluate "$run" --out "$here/results/block_$block"
  cp "$run/logs/metrics.csv" "$here/results/block_$block/curve.csv"
  results+=("$here/results/block_$block")
done
hybrid report "${results[@]}" --out "$here/results"
