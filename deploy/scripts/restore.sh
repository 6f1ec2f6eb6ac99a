#!/usr/bin/env bash
# Put back what backup.sh saved, after its checksums were looked at.
#
#   restore.sh --from DIRECTORY [--replace] [--no-database] [--no-models] [--dry-run]
#
# DATABASE_URL (or FOREBAY_DATABASE_URL) names the database, HF_HUB_CACHE or HF_HOME where models belong. A database that
# has tables is replaced only with --replace, whole or not at all; stop the gateways before, and start them after:
# they remember keys. Models come from the backup where their files are in it, else from the hub by their revisions.

source "$(dirname "$0")/stored.sh"

from='' database=yes models=yes replace='' dry_run=''
while (($#)); do
    case $1 in
    --from)
        [[ -n ${2-} ]] || die "--from needs a directory" 2
        from=$2
        shift
        ;;
    --replace) replace=yes ;;
    --no-database) database='' ;;
    --no-models) models='' ;;
    --dry-run) dry_run=yes ;;
    -h | --help) help ;;
    *) die "there is no option $1 here; $program --help lists them" 2 ;;
    esac
    shift
done
[[ -r $from/SHA256SUMS ]] || die "there is no backup at '$from': name a directory that backup.sh made, as --from DIRECTORY" 2
(cd "$from" && sha256sum --check --quiet SHA256SUMS) >&2 || die "$from is damaged; take another backup"
[[ -e $from/database.dump || -e $from/database.sqlite ]] || database=''
[[ -e $from/models.txt ]] || models=''

tables() {
    if [[ $kind == postgresql ]]; then
        psql --no-password --no-psqlrc --tuples-only --no-align --command \
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    else
        python3 "$scripts/database.py" tables
    fi
}

load_database() {
    local found
    find_database
    if [[ $kind == postgresql ]]; then
        need pg_restore "PostgreSQL's client programs"
        need psql "PostgreSQL's client programs"
        [[ -e $from/database.dump ]] || die "the backup is of SQLite, and DATABASE_URL names PostgreSQL" 2
    elif [[ ! -e $from/database.sqlite ]]; then
        die "the backup is of PostgreSQL, and DATABASE_URL names SQLite" 2
    fi
    found=$(tables) || die "the database cannot be asked; is DATABASE_URL right?"
    [[ $found == 0 || -n $replace ]] || die "the database has $found tables; say --replace to have them replaced" 2
    if [[ -n $dry_run ]]; then
        echo "would load the $kind database, which has $found tables now"
    elif [[ $kind == postgresql ]]; then
        pg_restore --no-password --clean --if-exists --no-owner --no-privileges --single-transaction --exit-on-error \
            --dbname service=forebay "$from/database.dump" || die "pg_restore failed, and nothing was changed"
    else
        python3 "$scripts/database.py" load "$from/database.sqlite" || die "nothing was changed"
    fi
}

load_models() {
    local name revision
    if [[ -e $from/models.tar ]]; then
        [[ -z $dry_run ]] || {
            echo "would unpack models to $hub"
            return
        }
        mkdir -p "$hub"
        tar --extract --directory "$hub" --file "$from/models.tar" || die "the models could not be unpacked to $hub"
        return
    fi
    [[ -n $dry_run || ! -s $from/models.txt ]] || need forebay "Forebay, which fetches models"
    while read -r name revision; do
        if [[ -n $dry_run ]]; then
            echo "would fetch $name at $revision"
        else
            forebay models pull "$name" --revision "$revision" </dev/null || die "$name was not fetched; run this again with --no-database"
        fi
    done <"$from/models.txt"
}

[[ -z $database ]] || load_database
[[ -z $models ]] || load_models
[[ -n $dry_run ]] || say "restored from $from"
