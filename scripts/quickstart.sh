#!/usr/bin/env bash
# Train, evaluate and compare a small hybrid and its two autoregressive baselines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

usage() {
    cat <<'END'
usage: bash scripts/quickstart.sh [--short]

Installs the package into .venv, trains three models of one size on a built-in task (direct: answer only;
chain: writes the sketch token by token, then the answer; hybrid: drafts the sketch by diffusion), evaluates
them over budgets, and writes one frontier of all three to runs/quickstart. About ten minutes on a CPU.
Run it again and it goes on where it stopped; delete runs/quickstart to begin anew.

  --short   few training steps: the same path in a minute or two, with meaningless figures, in runs/quickstart-short

environment: QUICKSTART_SHORT=1  like --short
             HYBRID_VENV=DIR     an installed virtual environment to use; default: .venv, made here
             PYTHON=COMMAND      the Python to make it with; 3.11 or newer
END
}

short=${QUICKSTART_SHORT:-0}
for argument in "$@"; do
    case $argument in
    --short) short=1 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) fail "unknown argument $argument; see --help" ;;
    esac
done

if [ -n "${HYBRID_VENV:-}" ]; then
    venv=$HYBRID_VENV
    [ -x "$venv/bin/hybrid" ] || fail "HYBRID_VENV=$venv: no bin/hybrid in it; unset it to have .venv made"
else
    venv=.venv
    make_environment "$venv" requirements.lock
fi

if [ "$short" = 1 ]; then
    out=runs/quickstart-short
    training=(train.steps=12 train.warmup=4 train.validate_every=6 train.validate_examples=16 train.checkpoint_every=6)
    evaluation=(--examples 32)
else
    out=runs/quickstart
    training=()
    evaluation=()
fi

for method in direct chain hybrid; do
    say "training $method"
    "$venv/bin/hybrid" train "configs/quickstart/$method.yaml" "run=$out/$method" ${training[@]+"${training[@]}"}
    say "evaluating $method"
    if [ "$method" = hybrid ]; then evaluation+=(--verify 0,18); fi  # drafts as they are, and verified
    "$venv/bin/hybrid" evaluate "$out/$method" ${evaluation[@]+"${evaluation[@]}"}
done

say "the frontier of all three"
"$venv/bin/hybrid" report "$out/direct" "$out/chain" "$out/hybrid" --out "$out"
cat <<END

The frontier is in
  $out/frontier.html   open it in a browser: plot, table, what each point cost
  $out/frontier.png    the plot
  $out/frontier.csv, $out/frontier.json   the rows

Try next
  source $venv/bin/activate
  hybrid sample $out/hybrid --prompt 73250100,41000213 --steps 4 --live
  hybrid sample $out/hybrid --prompt 73250100,41000213 --steps 1 --verify 18 --live
  hybrid evaluate $out/hybrid --steps 0,1,2,4,8 --policies confidence,threshold,ancestral --controls gold,shuffled
  hybrid train experiments/fork_example/run.yaml

END
say "done"
