#!/usr/bin/env bash
# Train and evaluate every method on every real task, one after another; runs that are done are not repeated.
# Usage: HYBRID_DATA=FOLDER bash experiments/real_data/run.sh [TASK ...] [-- key=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
tasks=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do tasks+=("$1"); shift; done
[ "${1:-}" = "--" ] && shift
[ ${#tasks[@]} -gt 0 ] || tasks=(mult_4x4 countdown_3 countdown_4 gsm8k_equations)
for task in "${tasks[@]}"; do
  here=experiments/real_data/$task
  for method in hybrid chain direct; do
    run=runs/real_data/$task/$method
    hybrid train "$here/$method.yaml" "run=$run" "$@"
    hybrid evaluate "$run" --out "$here/results/$method"
    cp "$run/logs/metrics.csv" "$here/results/$method/curve.csv"
  done
  hybrid report "$here/results/hybrid" "$here/results/chain" "$here/results/direct" --out "$here/results"
done
