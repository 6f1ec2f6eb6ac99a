# shellcheck shell=bash
# Where these scripts are, what the one that runs is called, and how it speaks. Sourced by release.sh and stored.sh.
set -euo pipefail

# shellcheck disable=SC2034 # for those who source this
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=$(basename "$0")

say() { printf '%s: %s\n' "$program" "$*" >&2; }
die() {
    say "$1"
    exit "${2:-1}"
}

# The script's own first comment.
about() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
