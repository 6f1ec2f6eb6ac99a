# shellcheck shell=bash
# Sourced by the other scripts: progress and error lines. SECONDS is bash's own clock, started with the script.

say() {
    printf '[%3d s] %s\n' "$SECONDS" "$*"
}

# Say what failed and what to do about it, and end.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
