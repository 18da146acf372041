#!/bin/bash
# Barbican 23, the key manager, on SQLite, for signed images. It believes the Keystone of a running keystone.sh.
#   KEYSTONE_URL   http://127.0.0.1:P/v3 (required)
# API at http://127.0.0.1:PORT/v1. One process, no queue, no worker.
. "$(dirname "$0")/lib.sh"
PY=$VENVS/barbican/bin
do_install() { pip_need barbican "${BARBICAN_PIN:-barbican==23.0.0}" waitress; }
do_start() {
    : "${KEYSTONE_URL:?}"
    mkdir -p "$DIR/.barbican"
    cat > "$DIR/.barbican/barbican.conf" <<EOF
[DEFAULT]
host_href = http://$ADDR:$PORT
db_auto_create = true
sql_connection = sqlite:///$DIR/barbican.db
use_stderr = true
[database]
connection = sqlite:///$DIR/barbican.db
[queue]
enable = false
[secretstore]
enabled_secretstore_plugins = store_crypto
[crypto]
enabled_crypto_plugins = simple_crypto
[simple_crypto_plugin]
kek = dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg=
[oslo_policy]
enforce_scope = true
enforce_new_defaults = true
[keystone_authtoken]
auth_url = $KEYSTONE_URL
www_authenticate_uri = $KEYSTONE_URL
auth_type = password
username = glance
password = ${PASSWORD:-secret}
user_domain_id = default
project_name = service
project_domain_id = default
interface = public
EOF
    cat > "$DIR/paste.ini" <<'EOF'
[composite:main]
use = egg:Paste#urlmap
/: versions
/v1: v1
[pipeline:versions]
pipeline = microversion versionapp
[pipeline:v1]
pipeline = authtoken context microversion apiapp
[app:apiapp]
paste.app_factory = barbican.api.app:create_main_app
[app:versionapp]
paste.app_factory = barbican.api.app:create_version_app
[filter:context]
paste.filter_factory = barbican.api.middleware.context:ContextMiddleware.factory
[filter:microversion]
paste.filter_factory = barbican.api.middleware.microversion:MicroversionMiddleware.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
EOF
    HOME=$DIR bg barbican "$PY/python" -W ignore -c 'import sys
from paste.deploy import loadapp
from waitress import serve
serve(loadapp("config:" + sys.argv[1]), host=sys.argv[2], port=int(sys.argv[3]), threads=4)' "$DIR/paste.ini" "$ADDR" "$PORT"
    wait_for 60 port_open "$PORT"
    wait_for 60 http_is 401 "http://$ADDR:$PORT/v1/secrets"
}
do_stop() { kill_pid barbican 2; }
# keeps a secret for a user and gives it back
do_check() {
    local token url
    token=$(curl -fsS -D - -o /dev/null -H 'Content-Type: application/json' "${KEYSTONE_URL:?}/auth/tokens" -d '{"auth": {
        "identity": {"methods": ["password"], "password": {"user": {"name": "alice", "domain": {"id": "default"}, "password": "'"${PASSWORD:-secret}"'"}}},
        "scope": {"project": {"name": "alpha", "domain": {"id": "default"}}}}}' | tr -d '\r' | sed -n 's/^X-Subject-Token: //Ip')
    url=$(curl -fsS -H "X-Auth-Token: $token" -H 'Content-Type: application/json' "http://$ADDR:$PORT/v1/secrets" \
        -d '{"payload": "kept", "payload_content_type": "text/plain"}' | sed 's/.*"\(http[^"]*\)".*/\1/')
    [ "$(curl -fsS -H "X-Auth-Token: $token" -H 'Accept: text/plain' "$url/payload")" = kept ]
}
main "$@"
