#!/usr/bin/env bash
# Text or hidden states: the quickstart's hybrid under four bridges, and one frontier of all.
# Usage: bash experiments/bridges/run.sh [key=value ...]      results: experiments/bridges/results
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/bridges
results=()
for bridge in tokens latent latent_gradient latent_and_text; do
  run=runs/bridges/$bridge
  hybrid train "$here/$bridge.yaml" "run=$run" "$@"
  hybrid evaluate "$run" --out "$here/results/$bridge"
  cp "$run/logs/metrics.csv" "$here/results/$bridge/curve.csv"
  results+=("$here/results/$bridge")
done
hybrid report "${results[@]}" --out "$here/results"
