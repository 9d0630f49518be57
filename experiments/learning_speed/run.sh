#!/usr/bin/env bash
# What lets a small drafter learn a chain: the quickstart's hybrid with one choice undone at a time.
# Usage: bash experiments/learning_speed/run.sh [key=value ...]      results: experiments/learning_speed/results
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/learning_speed
variant() { # name, overrides...
  local name=$1 run=runs/learning_speed/$1
  shift
  hybrid train configs/quickstart/hybrid.yaml "run=$run" "$@"
  hybrid evaluate "$run" --steps 0,1,2,4,8,18 --policies confidence --controls gold --out "$here/results/$name"
  cp "$run/logs/metrics.csv" "$here/results/$name/curve.csv"
}
variant recipe "$@"
variant small_initialisation model.backbone.initial_scale=0.02 "$@"
variant unshifted model.drafter.shift=false "$@"
variant no_next_token model.drafter.next_token=0 "$@"
variant continuous_times model.drafter.times=continuous "$@"
