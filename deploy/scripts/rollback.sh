#!/usr/bin/env bash
# Take a release of Forebay back to the revision before, or to one of helm history.
#
#   rollback.sh [--to REVISION] [options]
#
# It also ends an upgrade that was cut off in the middle. What does not get ready is left as it is, with status 1.

source "$(dirname "$0")/release.sh"

to=''
while (($#)); do
    case $1 in
    --to)
        [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "--to needs a revision's number; helm history lists them" $EXIT_USAGE
        to=$2
        shift 2
        ;;
    *)
        shared_option "$@"
        shift "$taken"
        ;;
    esac
done
begin
if [[ -z $to ]]; then
    told=$("${helm[@]}" history "$release" --output json) || die "helm cannot read release $release; its words are above"
    to=$(python3 "$scripts/values.py" previous <<<"$told") || die "release $release has no revision to go back to"
fi

change "${helm[@]}" rollback "$release" "$to" --timeout "$(left)" || die "helm could not go back; its words are above"
if ! wait_for_rollouts; then
    show_pods
    die "revision $to does not get ready; see kubectl describe pods, or name another with --to"
fi
healthy || die "revision $to runs and the chart's test fails; see kubectl logs, or name another with --to"
[[ -n $dry_run ]] || say "revision $to serves"
