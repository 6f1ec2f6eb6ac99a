# shellcheck shell=bash
# What backup.sh and restore.sh share: options, and where things are. Sourced.
#
#   DATABASE_URL   the database, postgresql://… or sqlite:///…, as Forebay has it; FOREBAY_DATABASE_URL goes before it
#   HF_HUB_CACHE   where models are kept; else hub below HF_HOME, else ~/.cache/huggingface/hub

source "$(dirname "${BASH_SOURCE[0]}")/said.sh"
umask 077

export DATABASE_URL=${FOREBAY_DATABASE_URL:-${DATABASE_URL:-}}
hub=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}
export hub

help() {
    about
    exit 0
}
need() { command -v "$1" >/dev/null || die "there is no $1 on the PATH; install $2" 2; }

# The kind of the database in $kind. PostgreSQL's programs find it by a file that only we can read: a password in their
# arguments would be in the list of processes.
find_database() {
    [[ -n $DATABASE_URL ]] || die "set DATABASE_URL, as Forebay has it, or say --no-database" 2
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    kind=$(python3 "$scripts/database.py" service "$scratch/service") || exit 2
    [[ $kind != postgresql ]] || export PGSERVICEFILE=$scratch/service PGSERVICE=forebay
}
