#!/bin/bash
# Keystone 30 on SQLite, for tests: fernet tokens, region RegionOne, service catalog.
#   PORT          http://127.0.0.1:PORT/v3
#   GLANCE_URL    endpoint of the image service put into the catalog (default http://127.0.0.1:9292)
#   SWIFT_URL     object-store endpoint (with $(project_id)s or AUTH_%(tenant_id)s); none by default
#   PROJECTS      more projects, whose ids are their names; in each, user bench has role member, and bench-admin role admin
#   PASSWORD      of every user (default secret)
#   KEYSTONE_PIN  default keystone==30.0.0
# Users: admin (project admin, role admin, also system scope), glance (project service, roles admin+service, and reader of the system),
#        alice, bob (projects alpha and beta, role member), rita (project alpha, role reader).
# start writes $DIR/clouds.yaml (clouds admin, alice, bob, rita, glance, system).
. "$(dirname "$0")/lib.sh"
PASSWORD=${PASSWORD:-secret}
PY=$VENVS/keystone/bin

do_install() { pip_need keystone "${KEYSTONE_PIN:-keystone==30.0.0}" waitress; }

conf() {
    mkdir -p "$DIR"/{fernet,credential}
    cat > "$DIR/keystone.conf" <<EOF
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///$DIR/keystone.db
[token]
provider = fernet
expiration = 3600
[fernet_tokens]
key_repository = $DIR/fernet
[fernet_receipts]
key_repository = $DIR/fernet
[credential]
key_repository = $DIR/credential
[cache]
enabled = true
backend = dogpile.cache.memory
[identity]
password_hash_algorithm = bcrypt
password_hash_rounds = 4
[oslo_policy]
enforce_scope = true
[cors]
[security_compliance]
EOF
}

do_start() {
    [ ! -e "$DIR/made" ] || [ "$(cat "$DIR/made")" = "$PORT" ] || die "made for port $(cat "$DIR/made")"
    http_is 300 "http://$ADDR:$PORT/" && alive "$DIR/keystone.pid" && return 0
    if [ ! -e "$DIR/made" ]; then
        rm -f "$DIR/keystone.db"
        conf
        "$PY/python" "$HERE/keystone_make.py" "$DIR/keystone.conf" "http://$ADDR:$PORT/v3" "$PASSWORD" \
            "${GLANCE_URL:-http://$ADDR:9292}" "${SWIFT_URL:-}" >> "$DIR/make.log" 2>&1 || { tail -n 20 "$DIR/make.log" >&2; return 1; }
        local n u p
        { echo "clouds:"
        for n in admin:admin:admin glance:glance:service alice:alice:alpha bob:bob:beta rita:rita:alpha system:admin:; do
            IFS=: read -r n u p <<< "$n"
            echo "  $n:"
            echo "    region_name: RegionOne"
            echo "    auth:"
            echo "      auth_url: http://$ADDR:$PORT/v3"
            echo "      username: $u"
            echo "      password: $PASSWORD"
            echo "      user_domain_id: default"
            if [ -n "$p" ]; then
                echo "      project_name: $p"
                echo "      project_domain_id: default"
            else
                echo "      system_scope: all"
            fi
        done; } > "$DIR/clouds.yaml"
        echo "$PORT" > "$DIR/made"
    fi
    bg keystone "$PY/python" "$HERE/keystone_serve.py" "$DIR/keystone.conf" "$ADDR" "$PORT"
    wait_for 60 http_is 300 "http://$ADDR:$PORT/"
    local token
    token=$(issue | tr -d '\r' | awk 'tolower($1) == "x-subject-token:" { print $2 }')
    # the first question about a token alone: several at once may find the policy half read, which is a 500
    curl -fsS -o /dev/null "http://$ADDR:$PORT/v3/auth/tokens" -H "X-Auth-Token: $token" -H "X-Subject-Token: $token"
}
# a token of alice: headers and body
issue() {
    curl -fsSi -H 'Content-Type: application/json' "http://$ADDR:$PORT/v3/auth/tokens" -d '{"auth": {"identity": {"methods": ["password"],
        "password": {"user": {"name": "alice", "domain": {"id": "default"}, "password": "'"$PASSWORD"'"}}}}}'
}
do_stop() { kill_pid keystone 2; }
do_check() { issue > /dev/null; }
main "$@"
