#!/usr/bin/env bash
# Install a release of Forebay, or bring it to other values or another version; where that goes wrong, go back.
#
#   deploy.sh --values FILE [--values FILE ...] [--set KEY=VALUE ...] [options]
#
# Four steps; one that fails takes the release back to the revision that served before, with status 1:
#   1. helm upgrade --install  2. every rollout is waited for  3. the chart's test asks the gateway
#   4. with --prometheus: errors and times to first token since then are compared with those before
# With --dry-run the changes are shown as kubectl diff has them. Status 3: too few requests came to judge.

source "$(dirname "$0")/release.sh"

settings=()
while (($#)); do
    case $1 in
    --values | --set)
        (($# > 1)) || die "$1 needs a value" $EXIT_USAGE
        [[ $1 == --set || -r $2 ]] || die "--values $2: cannot be read" $EXIT_USAGE
        settings+=("$1" "$2")
        shift 2
        ;;
    *)
        shared_option "$@"
        shift "$taken"
        ;;
    esac
done
((${#settings[@]})) || die "name the values, as --values values.yaml" $EXIT_USAGE
begin
[[ -z $prometheus ]] || need_prometheus
read_release
before=$revision

if [[ -n $dry_run ]]; then
    "${helm[@]}" template "$release" "$chart" "${settings[@]}" >"$scratch/wanted.yaml" ||
        die "the chart does not take these values; its words are above" $EXIT_USAGE
    "${kubectl[@]}" diff --filename "$scratch/wanted.yaml" || (($? == 1)) || die "kubectl diff failed; its words are above"
fi
change "${helm[@]}" upgrade --install "$release" "$chart" "${settings[@]}" --timeout "$(left)" ||
    go_back "$before" "helm could not apply the chart"
since=$(date +%s)
wait_for_rollouts || go_back "$before" "the rollout failed or took longer than $timeout"
healthy || go_back "$before" "the chart's test failed"
[[ -z $dry_run ]] || exit 0
if [[ -n $prometheus && $before != 0 ]]; then
    judged=0
    judge release --since "$since" || judged=$?
    ((judged != 1)) || go_back "$before" "$verdict"
    ((judged == 0)) || exit "$EXIT_UNDECIDED"
fi
say "release $release serves, revision before it: $before"
