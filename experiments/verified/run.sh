#!/usr/bin/env bash
# Answers on the canvas: decoded, verified, and read off it, in the quickstart's task and in long multiplication.
# Usage: bash experiments/verified/run.sh [key=value ...]      results: experiments/verified/results
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/verified
for config in configs/quickstart/verified.yaml $here/multiplication.yaml; do
  name=$(basename "$config" .yaml)
  hybrid train "$config" "run=runs/verified/$name" train.compile=true "$@"
  hybrid evaluate "runs/verified/$name" --answers decode,verify,canvas --examples 200 --out "$here/results/$name"
  hybrid evaluate "runs/verified/$name" --answers decode,verify,canvas --examples 200 --batch 1 --policies confidence \
    --out "$here/results/${name}_batch_1"
done
