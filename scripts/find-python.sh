#!/usr/bin/env bash
# Print the Python that .venv is made with: $PYTHON if set, else the first of the list that is 3.11 or newer and can
# make virtual environments.
set -euo pipefail
source "$(dirname "$0")/say.sh"

usable='import sys; sys.version_info >= (3, 11) or sys.exit(1); import ensurepip, venv'
new_enough='import sys; sys.version_info >= (3, 11) or sys.exit(1)'
without_venv=

for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c "$usable" 2>/dev/null; then
        command -v "$candidate"
        exit
    elif "$candidate" -c "$new_enough" 2>/dev/null; then
        without_venv=${without_venv:-$candidate}
    fi
done

if [[ -n $without_venv ]]; then
    package=$("$without_venv" -c 'import sys; print("python3.%d-venv" % sys.version_info.minor)')
    die "$without_venv cannot make virtual environments; install its venv package (Debian, Ubuntu: apt-get install $package)"
fi
if [[ -n ${PYTHON:-} ]]; then
    die "PYTHON=$PYTHON is not a Python 3.11 or newer"
fi
die "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3 ..."
