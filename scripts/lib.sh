# Shared by the scripts beside it: progress lines, and a virtual environment installed from the lock files.
# shellcheck shell=bash

SECONDS=0

say() { # text: one line of progress, with the time since the script began
    printf '[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"
}

fail() { # text: one line on stderr, and the end
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

quietly() { # command...: its output is shown only where it fails
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        fail "this failed, see above: $*"
    fi
    rm -f "$log"
}

find_python() { # prints a Python 3.11 or newer that can make virtual environments
    local found="none" candidate version
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        [ "$found" = none ] && found="$candidate is $version"
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue
        if ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            found="$candidate is $version, but lacks venv (on Debian or Ubuntu: apt install python$version-venv)"
            continue
        fi
        command -v "$candidate"
        return
    done
    fail "needs Python 3.11 or newer with venv; found: $found. Name another with PYTHON=/path/to/python"
}

install_torch_for_cpus() { # python: from PyTorch's own index, tens of times smaller; fails without that index
    "$1" -m pip install --quiet --quiet --no-compile --no-deps --retries 0 --timeout 8 \
        --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.lock)" >/dev/null 2>&1
}

install_locks() { # python lock...: torch and the rest side by side, since unpacking keeps one core busy each
    local python=$1 rest others
    shift
    rest=$(mktemp)
    cat "$@" | grep -v '^torch==\|^pip==\|^#' >"$rest"
    say "installing torch $(sed -n 's/^torch==//p' requirements.lock) and $(grep -c . "$rest") other pinned packages"
    quietly "$python" -m pip install --quiet --no-compile --no-deps --requirement "$rest" &
    others=$!
    if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
        install_torch_for_cpus "$python" || true
    fi
    wait "$others"
    rm -f "$rest"
    if ! "$python" -m pip show --quiet torch >/dev/null 2>&1; then
        say "installing torch from the default index"
        quietly "$python" -m pip install --quiet --no-compile --constraint requirements.lock torch
    fi
}

make_environment() { # folder lock...: a virtual environment with exactly what the locks name; reused while they stay
    local folder=$1 python wanted
    shift
    wanted=$(cat pyproject.toml "$@" | cksum)
    if [ -x "$folder/bin/hybrid" ] && [ "$(cat "$folder/locks.sum" 2>/dev/null)" = "$wanted" ]; then
        say "environment $folder is up to date"
        return
    fi
    python=$(find_python)
    say "making $folder with $("$python" --version)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # The pip that comes with Python 3.11 spends minutes on reading the index.
    quietly "$folder/bin/python" -m pip install --quiet --no-compile "$(grep -h '^pip==' "$@")"
    install_locks "$folder/bin/python" "$@"
    quietly "$folder/bin/python" -m pip install --quiet --no-compile --no-deps --no-build-isolation --editable .
    # Bytecode of what every command imports, written once: without it each start takes seconds longer.
    quietly env -u PYTHONDONTWRITEBYTECODE "$folder/bin/python" -c "import hybrid.cli, hybrid.train.run, hybrid.report"
    echo "$wanted" >"$folder/locks.sum"
    say "installed"
}
