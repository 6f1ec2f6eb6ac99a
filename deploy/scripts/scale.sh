#!/usr/bin/env bash
# Say how many gateways there are, or engines of a model, and wait until they are.
#
#   scale.sh gateway|MODEL REPLICAS [options]
#
# The number goes into the release's values, so that the next deployment keeps it. What is scaled by itself is refused:
# its bounds are values. Where the new ones do not get ready, the release goes back to what it was.

source "$(dirname "$0")/release.sh"

words=()
while (($#)); do
    if [[ $1 == -* ]]; then
        shared_option "$@"
        shift "$taken"
    else
        words+=("$1")
        shift
    fi
done
((${#words[@]} == 2)) || die "say what to scale and to how many, as in: scale.sh gateway 3" $EXIT_USAGE
what=${words[0]} count=${words[1]}
[[ $count =~ ^[0-9]+$ ]] || die "$count is no number of replicas" $EXIT_USAGE
begin
need_release

scaled=$("${kubectl[@]}" get horizontalpodautoscalers --selector "app.kubernetes.io/instance=$release" \
    --output 'jsonpath={range .items[*]}{.spec.scaleTargetRef.name}{"\n"}{end}') ||
    die "kubectl cannot read autoscalers; its words are above"
if grep -qxF "$release-$what" <<<"$scaled"; then
    die "$release-$what is scaled by itself; change the bounds in the values of its autoscaling and run deploy.sh" $EXIT_USAGE
fi
edited_values "$scratch/values.json" scale "$what" "$count"
upgrade_to "$scratch/values.json" || go_back "$revision" "helm could not apply the chart"
wait_for_rollouts || go_back "$revision" "$count of $what did not get ready within $timeout"
[[ -n $dry_run ]] || say "$what has $count replicas"
