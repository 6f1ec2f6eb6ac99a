#!/usr/bin/env bash
# Make .venv if need be and install into it the locked packages of the files named, then Forebay itself, editable.
set -euo pipefail
source "$(dirname "$0")/say.sh"
export PIP_DISABLE_PIP_VERSION_CHECK=1

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$("$(dirname "$0")/find-python.sh")
    say "making .venv with $python"
    "$python" -m venv --clear .venv || die "$python could not make .venv; its words are above"
fi

locks=()
for file in "$@"; do
    locks+=(--requirement "$file")
done
say "installing the packages of $*"
.venv/bin/python -m pip install --quiet --progress-bar on --require-hashes "${locks[@]}" ||
    die "pip could not install $*; check the network and pip's index, then run the same command again"
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . ||
    die "pip could not install Forebay itself; its words are above"
say "Forebay is in .venv"
