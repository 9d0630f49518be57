#!/usr/bin/env bash
# Every policy, early stops, and votes of several drafts, on weights that ship and validation problems that the task makes.
# Usage: bash experiments/policies/run.sh [WEIGHTS ...]      results: experiments/policies/results/WEIGHTS
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# = 0 ]; then
  set -- mult_3x3-hybrid mult_3x3-hybrid_verified mult_4x4-hybrid mult_4x4-hybrid_verified_{mostly_gold,short}
fi
join() { # words: with commas between
  local IFS=,
  printf '%s' "$*"
}
ordered=confidence,margin,entropy,left_to_right,random,first_hitting,ancestral
ending=(factor entropy_bound)
for least in 0.5 0.7 0.9 0.99; do
  ending+=("{kind: threshold, threshold: $least}" "{kind: edit, threshold: $least, edit: $least}")
done
remasking=()
for rule in cap rescale conf loop; do
  remasking+=("{kind: remask, rule: $rule}")
done

for weights in "$@"; do
  run=experiments/weights/$weights parts=()
  canvas=$(sed -n 's/^  canvas: //p' "$run/config.yaml")

  measure() { # part, options...: one evaluation; a part that is there stays
    local part=runs/policies/$weights/$1
    parts+=("$part")
    [ -f "$part/frontier.json" ] || hybrid evaluate "$run" evaluate.split=valid --examples 200 --batch 100 --controls '' \
      --out "$part" "${@:2}"
  }
  if grep -q 'canvas_holds: sketch+answer' "$run/config.yaml"; then # what ends by itself, and reads its answer off too
    measure ending --policies "$(join "${ending[@]}")" --steps "$canvas" --answers verify,canvas
  else
    measure ordered --policies "$ordered" --steps "0,1,2,4,8,16,$canvas"
    measure ending --policies "$(join "${ending[@]}")" --steps "$canvas"
    measure remasking --policies "$(join "${remasking[@]}")" --steps "8,16,$canvas"
    for stop in stable prophet; do
      measure "stop_$stop" "model.drafter.stop=$stop" --steps "$canvas"
    done
    for temperature in 0.5 1; do
      for drafts in 1 3 9; do
        measure "drafts_${drafts}_temperature_$temperature" --steps 1,2,4 --drafts "$drafts" --temperature "$temperature"
      done
    done
  fi
  hybrid report "${parts[@]}" --out "experiments/policies/results/$weights"
done
