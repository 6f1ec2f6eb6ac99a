#!/usr/bin/env bash
# Write the lock files of Forebay's own packages, with the hashes of every file PyPI has of them and good for all
# Pythons and platforms: lock.sh [--upgrade]. What is locked stays locked; --upgrade takes the newest of everything.
# The engine's lists are not made here: see their first lines.
set -euo pipefail
source "$(dirname "$0")/say.sh"

uv=.venv/lock/bin/uv
if [[ ! -x $uv ]]; then
    "$("$(dirname "$0")/find-python.sh")" -m venv .venv/lock
    .venv/lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
fi

# --no-config: nothing of this machine's settings may end up in the files.
compile() {
    say "locking ${*: -1}"
    "$uv" pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" "$@"
}

upgrade=("$@")
compile "${upgrade[@]}" pyproject.toml --output-file requirements/gateway.txt
compile "${upgrade[@]}" pyproject.toml --group dev --constraint requirements/gateway.txt --output-file requirements/dev.txt
compile "${upgrade[@]}" requirements/fuzz.in --constraint requirements/dev.txt --output-file requirements/fuzz.txt
compile "${upgrade[@]}" requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt
