#!/bin/bash
# Every service that the tests use, at once.
#   all.sh install [NAME...]     one apt transaction, as root or with `sudo -n`, then what comes by pip; no daemon is left running
#   all.sh check BASE_PORT DIR   makes each do its real work in turn: start, check, stop
. "$(dirname "$0")/lib.sh"
ALL=(mariadb galera postgres rabbitmq memcached keystone barbican images http haproxy tempest neighbours)
TOOLS=(python3 procps curl strace openssl) # what the tests and these scripts call beside the services

# packages NAME...   what these services take from Debian
packages() {
    local list s
    list=$(mktemp)
    for s; do APT_COLLECT=$list "$HERE/$s.sh" install; done
    printf '%s\n' "${TOOLS[@]}" | sort -u - "$list"
    rm -f "$list"
}

missing() {
    local p
    for p; do [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2> /dev/null)" = installed ] || echo "$p"; done
}

do_install() {
    [ $# -gt 0 ] || set -- "${ALL[@]}"
    do_packages "$@"
    local s
    for s; do "$HERE/$s.sh" install; done
}

do_packages() {
    mapfile -t need < <(packages "$@")
    mapfile -t need < <(missing "${need[@]}")
    [ ${#need[@]} -eq 0 ] && return 0
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2> /dev/null || die "the tests need some Debian packages. As an administrator, run: apt-get install --no-install-recommends ${need[*]}"
        sudo -n "$0" packages "$@"
        return
    fi
    say "installing ${need[*]} ..."
    apt_need "${need[@]}" > /dev/null 2>&1 || apt_need "${need[@]}"
}

check_one() {
    local s=$1 began=$EPOCHREALTIME rc=0
    export DIR=$3/$1 PORT=$2
    mkdir -p "$DIR"
    chmod 755 "$DIR"
    if [ "$s" = images ]; then "$HERE/images.sh" make; fi
    if [ "$s" = barbican ]; then
        export KEYSTONE_URL=http://$ADDR:$(($2 + 1))/v3
        DIR=$DIR/keystone PORT=$(($2 + 1)) "$HERE/keystone.sh" start
    fi
    { "$HERE/$s.sh" start && "$HERE/$s.sh" check; } || rc=1
    "$HERE/$s.sh" stop
    if [ "$s" = barbican ]; then DIR=$DIR/keystone "$HERE/keystone.sh" stop; fi
    awk -v s="$s" -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%-10s %5.1f s\n", s, b - a }'
    return $rc
}

case ${1:-} in
    install) do_install "${@:2}" ;;
    packages) do_packages "${@:2}" ;;
    check)
        port=${2:?base port} top=${3:?directory} bad=
        for s in "${ALL[@]}"; do check_one "$s" "$port" "$top" || bad="$bad $s"; done
        [ -z "$bad" ] || die "failed:$bad"
        ;;
    *) die "usage: all.sh install [NAME...] | check BASE_PORT DIR" ;;
esac
