#!/bin/sh
# Install the locked environment into .venv. Called by `make setup`.
#
# torch is not in the lock: which build fits depends on the machine. Without a GPU the CPU build is
# taken, if pip knows a place that has one (its own configuration, or TORCH_INDEX).
set -eu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $PYTHON is too old or absent; install Python 3.11, or run: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
}
"$PYTHON" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check"

install_torch() { # of the index named by TORCH_INDEX, if there is one, else of pip's own
    if [ -n "${TORCH_INDEX:-}" ]; then
        PIP_INDEX_URL=$TORCH_INDEX $pip install --quiet "$1"
    else
        $pip install --quiet "$1"
    fi
}

if .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "setup: torch is there"
elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "setup: a GPU is present, installing torch for CUDA"
    install_torch "torch==$TORCH"
else
    echo "setup: no GPU here, installing the CPU build of torch"
    install_torch "torch==$TORCH+cpu" 2>/dev/null || {
        echo "setup: pip finds no CPU build, taking the default one (on Linux larger by some GB of CUDA" \
            "packages; to avoid them: make setup TORCH_INDEX=<PyTorch's index of CPU builds>)"
        install_torch "torch==$TORCH"
    }
fi

echo "setup: installing the locked packages"
$pip install --quiet --no-deps --require-hashes -r requirements.lock
$pip install --quiet --no-deps --no-build-isolation -e .
echo "setup: done; .venv/bin/backtracking doctor looks over this machine"
