#!/usr/bin/env bash
# Answers on the canvas, decoded, verified and read off it: the quickstart's task, and long multiplication.
# Usage: bash experiments/verified/run.sh [key=value ...]      results: experiments/verified/results
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/verified
for config in configs/quickstart/verified.yaml $here/multiplication.yaml; do
  name=$(basename "$config" .yaml) run=runs/verified/$(basename "$config" .yaml)
  hybrid train "$config" "run=$run" "$@"
  for batch in 50 1; do
    hybrid evaluate "$run" --answers decode,verify,canvas --examples 200 --policies confidence --batch $batch \
      --out "$here/results/${name}_batch_$batch"
  done
done
