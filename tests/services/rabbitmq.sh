#!/bin/bash
# RabbitMQ 3.10 (Debian): amqp://ikon:secret@127.0.0.1:PORT/ ; PORT+1 Erlang distribution,
# PORT+2 this node's own epmd (the server starts one whatever it is told; by default on 0.0.0.0:4369).
. "$(dirname "$0")/lib.sh"
LIB=$(echo /usr/lib/rabbitmq/lib/rabbitmq_server-*)
do_install() { apt_need rabbitmq-server; }
env_() {
    export HOME=$DIR
    export RABBITMQ_NODENAME=ikon$PORT@localhost RABBITMQ_NODE_IP_ADDRESS=$ADDR RABBITMQ_NODE_PORT=$PORT RABBITMQ_DIST_PORT=$((PORT + 1))
    export RABBITMQ_MNESIA_BASE=$DIR/mnesia RABBITMQ_LOG_BASE=$DIR/log RABBITMQ_PID_FILE=$DIR/own.pid
    export RABBITMQ_ENABLED_PLUGINS_FILE=$DIR/enabled_plugins RABBITMQ_CONFIG_FILE=$DIR/rabbitmq RABBITMQ_CONF_ENV_FILE=$DIR/none
    export RABBITMQ_GENERATED_CONFIG_DIR=$DIR/gen RABBITMQ_SCHEMA_DIR=$DIR/schema RABBITMQ_ADVANCED_CONFIG_FILE=$DIR/none2
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none"
    export ERL_EPMD_ADDRESS=$ADDR ERL_EPMD_PORT=$((PORT + 2)) LANG=C.UTF-8
    echo "$ERL_EPMD_PORT" > "$DIR/epmd.port"
}
do_start() {
    mkdir -p "$DIR/log" "$DIR/mnesia" "$DIR/gen" "$DIR/schema"
    echo '[].' > "$DIR/enabled_plugins"
    cat > "$DIR/rabbitmq.conf" << EOF
listeners.tcp.1 = $ADDR:$PORT
default_user = ikon
default_pass = secret
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
loopback_users = none
log.console = false
log.file.level = warning
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MB
EOF
    [ -e "$DIR/.erlang.cookie" ] || { head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$DIR/.erlang.cookie"; chmod 400 "$DIR/.erlang.cookie"; }
    env_
    if [ "$(id -u)" = 0 ]; then
        chown -R rabbitmq: "$DIR"
        bg rabbitmq setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$LIB/sbin/rabbitmq-server"
    else
        bg rabbitmq "$LIB/sbin/rabbitmq-server"
    fi
    wait_for 90 amqp_up
}
# the server answers the AMQP protocol header with Connection.Start
amqp_up() { (exec 3<> "/dev/tcp/$ADDR/$PORT" && printf 'AMQP\0\0\x09\x01' >&3 && timeout 2 head -c 8 <&3 | od -An -tx1 | grep -q '^ 01 00 00') 2> /dev/null; }
do_stop() {
    kill_pid rabbitmq "${STOP_SECONDS:-10}"
    [ -s "$DIR/epmd.port" ] && ERL_EPMD_ADDRESS=$ADDR ERL_EPMD_PORT=$(cat "$DIR/epmd.port") epmd -kill > /dev/null 2>&1
    rm -f "$DIR/epmd.port"
}
do_check() {
    "$HERE/../../.venv/bin/python" - "amqp://ikon:secret@$ADDR:$PORT//" << 'EOF'
import sys
from kombu import Connection, Queue
got = []
with Connection(sys.argv[1], connect_timeout=5) as connection:
    queue = Queue("check", durable=False, exclusive=True)
    with connection.Consumer(queue, callbacks=[lambda body, message: (got.append(body), message.ack())]):
        connection.Producer().publish({"say": "hello"}, routing_key="check")
        connection.drain_events(timeout=5)
assert got == [{"say": "hello"}], got
EOF
}
main "$@"
