#!/usr/bin/env bash
# Try another version of a model's engines beside the stable ones, on a share of the conversations.
#
#   canary.sh start MODEL --weight PERCENT [--replicas N] --with KEY=VALUE ... [--prometheus URL] [options]
#   canary.sh watch MODEL --prometheus URL [options]
#   canary.sh promote MODEL [options]
#   canary.sh abort MODEL [options]
#
# start    adds the canary with what differs (--with image=… --with settings.max_num_seqs=64), then watches it
# watch    compares it with the stable engines for a while; where it is worse, it is taken away (status 1)
# promote  gives the stable engines what the canary has, waits until they are ready, then takes the canary away
# abort    takes the canary away; its running requests end first, and no other pod restarts
# Status 3: too few requests came to judge; the canary stays.

source "$(dirname "$0")/release.sh"

words=() weight='' replicas=1 with=()
while (($#)); do
    case $1 in
    --weight | --replicas | --with)
        (($# > 1)) || die "$1 needs a value" $EXIT_USAGE
        case $1 in
        --weight) weight=$2 ;;
        --replicas) replicas=$2 ;;
        --with) with+=("$2") ;;
        esac
        shift 2
        ;;
    -*)
        shared_option "$@"
        shift "$taken"
        ;;
    *)
        words+=("$1")
        shift
        ;;
    esac
done
((${#words[@]} == 2)) || die "say what to do and for which model, as in: canary.sh start MODEL --weight 10" $EXIT_USAGE
action=${words[0]} model=${words[1]}

take_away() {
    edited_values "$scratch/without.json" abort "$model"
    upgrade_to "$scratch/without.json" || die "helm could not take the canary away; rollback.sh does"
    wait_for_rollouts || die "the canary is gone, and a rollout did not end within $timeout; see kubectl get pods"
}

start() {
    [[ $weight =~ ^[1-9][0-9]?$ ]] || die "--weight is the canary's share in percent, 1 to 99" $EXIT_USAGE
    ((${#with[@]})) || die "say what differs, as in --with image=registry/engine:2" $EXIT_USAGE
    edited_values "$scratch/values.json" canary "$model" "$weight" "$replicas" "${with[@]}"
    upgrade_to "$scratch/values.json" || go_back "$revision" "helm could not apply the chart"
    wait_for_rollouts || go_back "$revision" "the canary of $model did not get ready within $timeout"
    [[ -z $dry_run ]] || return 0
    say "the canary of $model has $weight% of the conversations; canary.sh promote $model, or abort"
    if [[ -n $prometheus ]]; then watch_it; fi
}

watch_it() {
    [[ -n $prometheus ]] || die "name Prometheus, as --prometheus http://127.0.0.1:9090" $EXIT_USAGE
    [[ -z $dry_run ]] || return 0
    local judged=0 served
    edited_values "$scratch/served" served "$model"
    served=$(<"$scratch/served")
    judge canary --model "$served" --group "$model-canary" || judged=$?
    if ((judged == 1 || judged == 2)); then # with nobody to watch it, it does not stay
        take_away
        die "$verdict; the canary of $model is taken away"
    fi
    ((judged == 0)) || exit "$EXIT_UNDECIDED"
}

promote() {
    edited_values "$scratch/values.json" promote "$model"
    upgrade_to "$scratch/values.json" || go_back "$revision" "helm could not apply the chart"
    wait_for_rollouts || go_back "$revision" "the stable engines of $model did not get ready with what the canary has"
    if [[ -n $dry_run ]]; then
        echo "would take the canary away, in the same way"
        return
    fi
    take_away
    say "$model has what its canary had"
}

begin
[[ -z $prometheus ]] || need_prometheus
need_release
case $action in
start) start ;;
watch) watch_it ;;
promote) promote ;;
abort)
    take_away
    [[ -n $dry_run ]] || say "the canary of $model is taken away"
    ;;
*) die "there is no $action here: start, watch, promote or abort" $EXIT_USAGE ;;
esac
