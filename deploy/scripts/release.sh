# shellcheck shell=bash
# What the scripts beside this one share: their options, how kubectl and helm are called, waiting, health, going back.
# It is sourced. What changes something goes through `change`, which with --dry-run prints it instead.
#
# Shared options:
#   --release NAME      the Helm release (forebay)
#   --namespace NAME    where it is (default)
#   --context NAME      the kubeconfig's context (the current one)
#   --chart DIR         the chart (the one beside these scripts)
#   --timeout TIME      for all that is waited for, such as 90s, 30m or 1h (30m)
#   --dry-run           say what would be done; change nothing
#
# Options of those that judge by Prometheus (its token, if it asks for one, is PROMETHEUS_TOKEN):
#   --prometheus URL    where it answers
#   --match MATCHERS    which series are this release's (namespace="NAMESPACE")
#   --watch TIME        how long to look (5m)
#   --min-requests N    fewer are no ground to judge on (50)
#   --error-margin X    share of failures that may be more (0.01)
#   --latency-factor X  95th percentile of the time to first token that may be longer (1.3 times, and 50 ms)

source "$(dirname "${BASH_SOURCE[0]}")/said.sh"

release=forebay namespace=default context='' chart=$scripts/../helm/forebay timeout=30m dry_run=''
prometheus='' match='' watch=5m min_requests=50 error_margin=0.01 latency_factor=1.3
# shellcheck disable=SC2034 # for those who source this, like `taken` and `revision` below
readonly EXIT_USAGE=2 EXIT_UNDECIDED=3

# The script's own first comment, then the options above.
help() {
    about
    sed -n '/^# Shared options/,/^[^#]/s/^# \{0,1\}//p' "$scripts/release.sh"
    exit 0
}

# Takes one option off the caller's words: shared_option "$@"; shift "$taken".
shared_option() {
    taken=2
    case $1 in
    --dry-run)
        # shellcheck disable=SC2034
        dry_run=yes taken=1
        return
        ;;
    -h | --help) help ;;
    --release | --namespace | --context | --chart | --timeout | --prometheus | --match | --watch | --min-requests | \
        --error-margin | --latency-factor) ;;
    *) die "there is no option $1 here; $program --help lists them" $EXIT_USAGE ;;
    esac
    (($# > 1)) || die "$1 needs a value" $EXIT_USAGE
    local name=${1#--}
    printf -v "${name//-/_}" %s "$2"
}

# After the options: what is called from now on, and how long it may take.
begin() {
    local tool
    for tool in kubectl helm python3; do
        command -v "$tool" >/dev/null || die "there is no $tool on the PATH; install it" $EXIT_USAGE
    done
    kubectl=(kubectl ${context:+--context "$context"} --namespace "$namespace")
    helm=(helm ${context:+--kube-context "$context"} --namespace "$namespace")
    match=${match:-namespace=\"$namespace\"}
    timeout_s=$(seconds_of timeout "$timeout")
    deadline=$((SECONDS + timeout_s))
    watch_s=$(seconds_of watch "$watch")
    [[ -e $chart/Chart.yaml ]] || die "there is no chart at $chart; name its directory with --chart" $EXIT_USAGE
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'say "interrupted: what was begun goes on in the cluster; rollback.sh goes back"; exit 130' INT TERM
}

seconds_of() {
    [[ $2 =~ ^([0-9]+)([smh]?)$ ]] || die "--$1 $2 is no time such as 90s, 30m or 1h" $EXIT_USAGE
    local -A unit=([s]=1 [m]=60 [h]=3600)
    echo $((BASH_REMATCH[1] * unit[${BASH_REMATCH[2]:-s}]))
}

left() { echo "$((deadline > SECONDS ? deadline - SECONDS : 1))s"; }

change() {
    if [[ -n $dry_run ]]; then
        printf 'would run:'
        printf ' %q' "$@"
        echo
    else
        "$@" >&2
    fi
}

# Fills $revision with what is deployed, 0 where nothing is, and $deployed_chart with its chart.
read_release() {
    local told
    if ! told=$("${helm[@]}" history "$release" --output json 2>"$scratch/error"); then
        grep -q 'not found' "$scratch/error" || die "helm cannot read the release: $(tail -n 1 "$scratch/error")"
        told='[]'
    fi
    told=$(python3 "$scripts/values.py" deployed <<<"$told") ||
        die "release $release has an operation that never ended; if nobody is at it, run rollback.sh --release $release --namespace $namespace"
    read -r revision deployed_chart <<<"$told"
}

need_release() {
    read_release
    ((revision > 0)) || die "there is no release $release in namespace $namespace; deploy.sh installs one" $EXIT_USAGE
}

# The values that users gave, as JSON, with a change by values.py: edited_values OUT canary MODEL ...
edited_values() {
    local out=$1
    shift
    "${helm[@]}" get values "$release" --output json >"$scratch/now.json"
    python3 "$scripts/values.py" "$@" <"$scratch/now.json" >"$out" || exit $EXIT_USAGE
}

# The same chart with other values: whoever changes values must not bring another version along.
upgrade_to() {
    local here
    here=forebay-$(sed -n 's/^version: *"\{0,1\}\([^" ]*\).*/\1/p' "$chart/Chart.yaml")
    [[ $here == "$deployed_chart" ]] ||
        die "the release has chart $deployed_chart and here is $here; name the former with --chart, or deploy this one first" $EXIT_USAGE
    change "${helm[@]}" upgrade "$release" "$chart" --values "$1" --timeout "$(left)"
}

workloads() {
    "${kubectl[@]}" get deployments --selector "app.kubernetes.io/instance=$release" --output name || return
    # Where the cluster has no LeaderWorkerSet, there is none of ours.
    "${kubectl[@]}" get leaderworkersets.leaderworkerset.x-k8s.io --selector "app.kubernetes.io/instance=$release" \
        --output name 2>/dev/null || true
}

# Wait until every workload runs what it should; fails when one does not, or when time is up.
wait_for_rollouts() {
    if [[ -n $dry_run ]]; then
        echo "would wait up to $timeout for every workload of $release"
        return
    fi
    local names one
    names=$(workloads) || return
    for one in $names; do
        case $one in
        leaderworkerset*) "${kubectl[@]}" wait --for=condition=Available "$one" "--timeout=$(left)" >&2 || return ;;
        *) "${kubectl[@]}" rollout status "$one" "--timeout=$(left)" >&2 || return ;;
        esac
    done
}

# The chart's own test asks the gateway through its Service.
healthy() {
    change "${helm[@]}" test "$release" --timeout "$(left)"
}

show_pods() {
    "${kubectl[@]}" get pods --selector "app.kubernetes.io/instance=$release" >&2 || true
}

# go_back REVISION WHY: to what served before, and end with status 1.
go_back() {
    show_pods
    if (($1 == 0)); then
        die "$2; there is no revision to go back to: put the values right and run this again (helm uninstall $release takes away what is there)"
    fi
    say "$2; going back to revision $1"
    deadline=$((SECONDS + timeout_s))
    "${helm[@]}" rollback "$release" "$1" --timeout "$(left)" >&2 ||
        die "revision $1 could not be taken back; see helm history $release, then rollback.sh"
    wait_for_rollouts || die "revision $1 does not get ready either; see kubectl describe pods"
    die "$2; revision $1 serves again"
}

# judge WHAT ...: status 0 good, 1 worse, 2 no answer, 3 too few requests; the last line of $verdict says why.
judge() {
    local status=0
    verdict=$(python3 "$scripts/judge.py" "$@" --prometheus "$prometheus" --match "$match" --watch "$watch_s" \
        --min-requests "$min_requests" --error-margin "$error_margin" --latency-factor "$latency_factor") || status=$?
    say "$verdict"
    return "$status"
}

# Said before anything is changed.
need_prometheus() {
    python3 "$scripts/judge.py" reach --prometheus "$prometheus" >&2 || exit $EXIT_USAGE
}
