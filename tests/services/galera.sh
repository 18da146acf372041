#!/bin/bash
# A Galera cluster: two nodes of MariaDB 10.11 (Debian) on PORT and PORT+1, and an arbitrator, so that either node goes on without the other.
# mysql://ikon:secret@127.0.0.1:PORT/ikon (utf8mb4)     `start` also brings back a node that was killed     ports up to PORT+8 are used
. "$(dirname "$0")/lib.sh"
U=mysql
# the same for all three: who suspects a dead node much sooner than the others leaves them too
EVS="evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT15S"
do_install() { apt_need mariadb-server mariadb-client galera-4 galera-arbitrator-4 rsync lsof iproute2; }

sql() { mariadb --no-defaults -S "$DIR/sock$1" -u root -N -e "${2:-select 1}"; }
synced() { [ "$(sql "$1" "show status like 'wsrep_local_state_comment'" 2> /dev/null | cut -f2)" = Synced ]; }

# node N [OPTION...]   starts node 1 or 2; it copies what it lacks from the other
node() {
    local n=$1 at=$((PORT + 2 * $1))
    shift
    alive "$DIR/galera$n.pid" && return 0
    if [ ! -e "$DIR/made$n" ]; then
        rm -rf "$DIR/data$n"
        mariadb-install-db --no-defaults --user=$U --datadir="$DIR/data$n" --auth-root-authentication-method=normal \
            --skip-test-db --innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=16M > "$DIR/install.log" 2>&1 ||
            die "$(tail -5 "$DIR/install.log")"
        touch "$DIR/made$n"
    fi
    rm -f "$DIR/galera$n.pid"
    bg "galera$n" mariadbd --no-defaults --user=$U --datadir="$DIR/data$n" --tmpdir="$DIR/tmp" --bind-address="$ADDR" \
        --port=$((PORT + n - 1)) --socket="$DIR/sock$n" --pid-file="$DIR/own$n.pid" --skip-name-resolve --character-set-server=utf8mb4 \
        --collation-server=utf8mb4_general_ci --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
        --max-connections=300 --max-allowed-packet=64M --performance-schema=OFF --binlog-format=ROW --innodb-autoinc-lock-mode=2 \
        --wsrep-on=ON --wsrep-provider=/usr/lib/galera/libgalera_smm.so --wsrep-cluster-name="ikon-$PORT" --wsrep-node-name="node$n" \
        --wsrep-cluster-address="gcomm://$ADDR:$((PORT + 2)),$ADDR:$((PORT + 4))" --wsrep-node-address="$ADDR" --wsrep-slave-threads=1 \
        --wsrep-sst-method=rsync --wsrep-sst-receive-address="$ADDR:$((PORT + 5 + n))" \
        --wsrep-provider-options="gmcast.listen_addr=tcp://$ADDR:$at;ist.recv_addr=$ADDR:$((at + 1));gcache.size=32M;$EVS" \
        "$@"
    wait_for 90 synced "$n" || die "node $n: $(tail -20 "$DIR/galera$n.log")"
}

do_start() {
    mkdir -p "$DIR/tmp"
    if [ "$(id -u)" = 0 ]; then chown -R "$U:" "$DIR"; else U=$(id -un); fi
    if alive "$DIR/galera2.pid"; then node 1; elif ! alive "$DIR/galera1.pid"; then
        sed -i 's/^safe_to_bootstrap: 0/safe_to_bootstrap: 1/' "$DIR/data1/grastate.dat" 2> /dev/null || true
        node 1 --wsrep-new-cluster
    fi
    sql 1 "create database if not exists ikon character set utf8mb4;
        create user if not exists ikon@'127.0.0.1' identified by 'secret'; grant all on *.* to ikon@'127.0.0.1'"
    node 2
    bg arbitrator garbd --group "ikon-$PORT" --address "gcomm://$ADDR:$((PORT + 2)),$ADDR:$((PORT + 4))" \
        --options "gmcast.listen_addr=tcp://$ADDR:$((PORT + 8));$EVS"
    wait_for 30 has_three
}
has_three() { [ "$(sql 1 "show status like 'wsrep_cluster_size'" | cut -f2)" = 3 ]; }
do_stop() {
    kill_pid arbitrator 5
    kill_pid galera2 20
    kill_pid galera1 20
}
do_check() {
    sql 1 'create database if not exists looked; create or replace table looked.t (a int primary key); insert into looked.t values (1)'
    [ "$(sql 2 'set wsrep_sync_wait = 1; select a from looked.t')" = 1 ]
}
main "$@"
