#!/usr/bin/env bash
# Save what Forebay cannot make again: its database, and which models it has.
#
#   backup.sh --to DIRECTORY [--no-database] [--no-models] [--weights] [--dry-run]
#
# DATABASE_URL (or FOREBAY_DATABASE_URL) names the database, HF_HUB_CACHE or HF_HOME where models are kept. Serving goes
# on meanwhile. Of models their names and revisions are kept, which restore.sh fetches again; with --weights, for where
# no hub can be reached, all of their files. The directory is new, and readable by its owner only: keys' hashes and what
# users wrote are in it. SHA256SUMS in it tells whether it is whole.

source "$(dirname "$0")/stored.sh"

to='' database=yes models=yes weights='' dry_run=''
while (($#)); do
    case $1 in
    --to)
        [[ -n ${2-} ]] || die "--to needs a directory" 2
        to=$2
        shift
        ;;
    --no-database) database='' ;;
    --no-models) models='' ;;
    --weights) weights=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) help ;;
    *) die "there is no option $1 here; $program --help lists them" 2 ;;
    esac
    shift
done
[[ -n $to ]] || die "say where to, as --to /backups/$(date +%F)" 2
[[ ! -e $to ]] || die "$to is there already; name a new directory" 2
[[ -n $database || -n $models ]] || die "nothing is left to save" 2
need python3 "Python 3"

# A line for each model's revision: its name and commit.
revisions() {
    local path name
    for path in "$hub"/models--*/snapshots/*/; do
        [[ -d $path ]] || continue
        name=${path#"$hub"/models--}
        name=${name%%/*}
        printf '%s %s\n' "${name/--//}" "$(basename "$path")"
    done
}

if [[ -n $database ]]; then
    find_database
    [[ $kind != postgresql ]] || need pg_dump "PostgreSQL's client programs"
fi
if [[ -n $dry_run ]]; then
    [[ -z $database ]] || echo "would save the $kind database to $to"
    [[ -z $models ]] || revisions | sed "s/^/would save ${weights:+the files }of /"
    exit 0
fi

partial=$to.partial
mkdir -p "$(dirname "$to")"
mkdir "$partial" || die "another backup writes $partial, or one was cut off: remove it if nobody does"
if [[ -n $database ]]; then
    if [[ $kind == postgresql ]]; then
        pg_dump --no-password --format=custom --no-owner --no-privileges --file "$partial/database.dump" ||
            die "pg_dump failed; its words are above, and $partial can be removed"
    else
        python3 "$scripts/database.py" save "$partial/database.sqlite" || die "nothing was saved; $partial can be removed"
    fi
fi
if [[ -n $models ]]; then
    revisions >"$partial/models.txt"
    if [[ -n $weights && -s $partial/models.txt ]]; then
        (cd "$hub" && tar --create --file - models--*) >"$partial/models.tar" || die "the models' files could not be read"
    fi
fi
(cd "$partial" && sha256sum -- *) >"$to.sums"
mv "$to.sums" "$partial/SHA256SUMS"
mv "$partial" "$to"
say "saved to $to: $(cd "$to" && echo *)"
