#!/usr/bin/env bash
# Lint, types and tests, in a fresh environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'END'
usage: bash scripts/test.sh [pytest arguments]

Makes .venv-test anew from requirements.lock and requirements-dev.lock, then runs ruff, mypy and pytest.
Tests marked slow are left out; run them with: bash scripts/test.sh -m slow

environment: HYBRID_VENV=DIR   an installed environment to use instead of a fresh one
             PYTHON=COMMAND    the Python to make it with; 3.11 or newer
END
    exit 0
fi

venv=${HYBRID_VENV:-}
if [ -z "$venv" ]; then
    venv=.venv-test
    rm -rf "$venv"
    make_environment "$venv" requirements.lock requirements-dev.lock
fi

say "ruff"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check --quiet .
say "mypy"
"$venv/bin/mypy"
say "pytest"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$venv/bin/pytest" -n "${TEST_PROCESSES:-2}" -m "not slow" "$@"
