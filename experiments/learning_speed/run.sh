#!/usr/bin/env bash
# What lets a small drafter learn: one choice changed at a time, on the quickstart's task and on Countdown-3; optimisers
# and their rates, self-conditioning and the sketch's order on 3x3 multiplication.
# Usage: bash experiments/learning_speed/run.sh [quickstart|countdown_3|mult_3x3] [key=value ...]
#        only="recipe batch_quarter" bash experiments/learning_speed/run.sh ...       these variants alone
# What has a result is skipped; results (on validation): experiments/learning_speed/results/TASK/VARIANT
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/learning_speed
declare -A config=([quickstart]=configs/quickstart/hybrid.yaml [countdown_3]=experiments/frontier/countdown_3.yaml
  [mult_3x3]=experiments/frontier/mult_3x3.yaml)
declare -A positions=([quickstart]=3500000 [countdown_3]=8000000 [mult_3x3]=12000000)
declare -A batch=([quickstart]=128 [countdown_3]=64 [mult_3x3]=32)
bare=model.drafter.self_condition=0 # as is the quickstart's config; the frontier's recipe is self-conditioned
declare -A adamw=([quickstart]="" [countdown_3]="train.optimiser=adamw train.learning_rate=0.002" [mult_3x3]="")
declare -A drafter=([quickstart]="" [countdown_3]=$bare [mult_3x3]="") # of every diffusion drafter of the task
declare -A steps=([quickstart]=0,1,2,4,8,18 [countdown_3]=0,1,4,8,16,24 [mult_3x3]=0,1,2,4,8,25)
declare -A steps_of_blocks=([quickstart]=0,8,18 [countdown_3]=0,8,16,24)
declare -A deep=([quickstart]="model.backbone.layers=4 model.backbone.width=48"
  [countdown_3]="model.backbone.layers=8 model.backbone.width=88")
declare -A deeper=([quickstart]="model.backbone.layers=8 model.backbone.width=32"
  [countdown_3]="model.backbone.layers=16 model.backbone.width=64")
declare -A wide=([quickstart]="model.backbone.layers=1 model.backbone.width=88"
  [countdown_3]="model.backbone.layers=2 model.backbone.width=184")
declare -A half_the_rate=([quickstart]=0.003 [countdown_3]=0.001) twice_the_rate=([quickstart]=0.012 [countdown_3]=0.004)
gold_feed="model.feed={kind: mixture, gold: 0.9, none: 0.1, drafted: 0, partial: 0, corrupted: 0}"
mostly_gold="model.feed={kind: mixture, gold: 0.7, none: 0.1, drafted: 0.1, partial: 0.05, corrupted: 0.05}"
tasks=(quickstart countdown_3 mult_3x3)
if [ $# -gt 0 ] && [ -n "${config[$1]:-}" ]; then tasks=("$1"); shift; fi
settings=("$@")

variant() { # name, overrides...
  local name=$1 run=runs/learning_speed/$task/$1 results=$here/results/$task/$1
  shift
  [[ -z "${only:-}" || " $only " == *" $name "* ]] || return 0
  [ ! -f "$results/frontier.json" ] || return 0
  if [ -n "${before:-}" ]; then # half of the positions under other settings first
    set -- "$@" "train.positions=$((positions[$task] / 2))"
    # shellcheck disable=SC2086
    hybrid train "${config[$task]}" "run=$run/before" "train.batch_size=${batch[$task]}" ${adamw[$task]} "$@" $before \
      "${settings[@]}" --no-progress
    set -- "$@" "train.start_from=$run/before"
  fi
  # shellcheck disable=SC2086
  hybrid train "${config[$task]}" "run=$run" "train.positions=${positions[$task]}" "train.batch_size=${batch[$task]}" \
    ${adamw[$task]} ${drafter[$task]} "$@" "${settings[@]}" --no-progress
  hybrid evaluate "$run" evaluate.split=valid --steps "${budgets:-${steps[$task]}}" --policies confidence --controls gold \
    --examples 300 --out "$run/valid" --no-progress
  mkdir -p "$results"
  sed "s#${HYBRID_DATA:-data}#data#g" "$run/valid/frontier.json" >"$results/frontier.json"
  cp "$run/logs/metrics.csv" "$results/curve.csv"
}

optimisers() {
  variant recipe
  variant recipe_seed_1 seed=1
  variant recipe_seed_2 seed=2
  variant bare "$bare"
  variant bare_seed_1 "$bare" seed=1
  variant bare_seed_2 "$bare" seed=2
  variant bare_half_the_rate "$bare" train.learning_rate=0.002
  variant bare_backward "$bare" task.order=backward
  variant bare_adamw_half_the_rate "$bare" train.optimiser=adamw train.learning_rate=0.002
  variant bare_adamw_half_the_rate_seed_1 "$bare" train.optimiser=adamw train.learning_rate=0.002 seed=1
  variant bare_adamw_half_the_rate_seed_2 "$bare" train.optimiser=adamw train.learning_rate=0.002 seed=2
}

for task in "${tasks[@]}"; do
  if [ "$task" = mult_3x3 ]; then
    optimisers
    continue
  fi
  variant recipe
  variant gold_feed "$gold_feed"
  variant mostly_gold "$mostly_gold"
  variant answer_counts_4 model.answer_weight=4
  variant small_initialisation model.backbone.initial_scale=0.02
  variant unshifted model.drafter.shift=false
  variant no_next_token model.drafter.next_token=0
  variant continuous_times model.drafter.times=continuous
  variant masks_alike model.drafter.train_weight=0
  variant focal model.drafter.focal=2
  variant copies_4 model.drafter.copies=4
  variant anneal_half "model.drafter.anneal=$([ $task = quickstart ] && echo 160 || echo 600)"
  quarter="train.batch_size=$((batch[$task] / 4))"
  variant batch_quarter "$quarter"
  variant batch_quarter_mostly_gold "$quarter" "$mostly_gold"
  variant batch_quarter_continuous_times "$quarter" model.drafter.times=continuous
  variant batch_quarter_masks_alike "$quarter" model.drafter.train_weight=0
  variant batch_quarter_focal "$quarter" model.drafter.focal=2
  variant batch_quarter_no_next_token "$quarter" model.drafter.next_token=0
  variant batch_quarter_unshifted "$quarter" model.drafter.shift=false
  variant batch_quarter_small_initialisation "$quarter" model.backbone.initial_scale=0.02
  variant batch_quarter_unshifted_mostly_gold "$quarter" model.drafter.shift=false "$mostly_gold"
  variant batch_quarter_small_initialisation_mostly_gold "$quarter" model.backbone.initial_scale=0.02 "$mostly_gold"
  before="model.drafter=autoregressive model.feed=gold" variant batch_quarter_from_chain "$quarter"
  before="model.drafter.attention_block=3 $bare" variant batch_quarter_from_blocks "$quarter"
  variant batch_quarter_cosine "$quarter" model.drafter.times=continuous model.drafter.schedule=cosine
  variant batch_quarter_copies_4 "$quarter" model.drafter.copies=4
  # shellcheck disable=SC2086
  variant batch_quarter_deep "$quarter" ${deep[$task]}
  # shellcheck disable=SC2086
  variant batch_quarter_deep_mostly_gold "$quarter" ${deep[$task]} "$mostly_gold"
  # shellcheck disable=SC2086
  variant batch_quarter_deeper_mostly_gold "$quarter" ${deeper[$task]} "$mostly_gold"
  # shellcheck disable=SC2086
  variant batch_quarter_deep_gold_feed "$quarter" ${deep[$task]} "$gold_feed"
  # shellcheck disable=SC2086
  variant batch_quarter_deep_half_the_rate "$quarter" ${deep[$task]} "$mostly_gold" \
    "train.learning_rate=${half_the_rate[$task]}"
  # shellcheck disable=SC2086
  variant batch_quarter_wide "$quarter" ${wide[$task]}
  variant batch_quarter_half_the_rate "$quarter" "train.learning_rate=${half_the_rate[$task]}"
  variant batch_quarter_average "$quarter" train.ema=0.99
  variant batch_quarter_seed_1 "$quarter" seed=1
  variant batch_quarter_seed_2 "$quarter" seed=2
  variant batch_quarter_self_condition "$quarter" model.drafter.self_condition=0.5
  variant batch_quarter_self_condition_seed_1 "$quarter" model.drafter.self_condition=0.5 seed=1
  variant batch_quarter_self_condition_seed_2 "$quarter" model.drafter.self_condition=0.5 seed=2
  variant batch_quarter_muon "$quarter" train.optimiser=muon
  variant batch_quarter_muon_seed_1 "$quarter" train.optimiser=muon seed=1
  variant batch_quarter_muon_seed_2 "$quarter" train.optimiser=muon seed=2
  variant batch_quarter_muon_twice_the_rate "$quarter" train.optimiser=muon \
    "train.learning_rate=${twice_the_rate[$task]}"
  variant average train.ema=0.99
  budgets=${steps_of_blocks[$task]} variant blocks_4 model.drafter.attention_block=4
  variant twice_the_rate "train.learning_rate=${twice_the_rate[$task]}"
  variant twice_as_long "train.positions=$((2 * positions[$task]))"
done
