#!/usr/bin/env bash
# Unpack the Debian packages that a list names, and those they need that this machine lacks, into .venv/tools:
# install-tools.sh requirements/tools.txt. Nothing of the machine is changed and nobody need be root. A line of the list
# is a package and the commands that it is wanted for; where there is no apt-get, those must be on the PATH already.
set -euo pipefail
source "$(dirname "$0")/say.sh"

list=$1
tools=$PWD/.venv/tools
packages=() commands=()
while read -r package wanted; do
    [[ -z $package || $package == \#* ]] && continue
    packages+=("$package")
    read -r -a words <<<"$wanted"
    commands+=("${words[@]}")
done <"$list"

unpack() {
    local needed
    apt-get --quiet --quiet update || return
    # --reinstall: unpacked too where the machine has it, so that the version is the same for all.
    needed=$(apt-get --simulate --no-install-recommends --reinstall install "${packages[@]}") || return
    mapfile -t needed < <(sed -n 's/^Inst \([^ ]*\) .*/\1/p' <<<"$needed")
    mkdir -p "$tools/packages"
    (cd "$tools/packages" && apt-get --quiet --quiet download "${needed[@]}") || return
    for file in "$tools"/packages/*.deb; do
        dpkg-deb --extract "$file" "$tools" || return
    done
    rm -rf "$tools/apt" "$tools/packages"
}

if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    say "unpacking ${packages[*]} into $tools"
    rm -rf "$tools"
    mkdir -p "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial"
    # The machine's own sources and keys, but lists and a cache of our own; "root" is whoever runs this.
    printf '%s "%s";\n' Dir::State::lists "$tools/apt/lists" Dir::Cache "$tools/apt/cache" APT::Sandbox::User root \
        >"$tools/apt/apt.conf"
    export APT_CONFIG=$tools/apt/apt.conf
    unpack || die "apt-get could not unpack ${packages[*]}; check the network and apt's sources, then run the same command again"
fi
for command in "${commands[@]}"; do
    [[ -x $tools/usr/bin/$command ]] || command -v "$command" >/dev/null ||
        die "there is no $command here and no apt-get to fetch it with; install it, then run the same command again"
done
say "the tests' tools are in $tools"
