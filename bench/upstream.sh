#!/usr/bin/env bash
# Upstream Glance 33 for comparison: uWSGI as its documentation shows it (http router, chunked input, raw body) on a MariaDB of its own.
#
#   upstream.sh install    system packages (MariaDB, wrk, a C compiler; by apt, only what is missing) and a virtual environment
#   upstream.sh db         start MariaDB with two databases, `glance` and `ikon`; prints its process id
#   upstream.sh prepare    write the configuration and bring the schema up to date (wants `db`)
#   upstream.sh serve      become uWSGI, in the foreground (wants `prepare`)
#   upstream.sh stop       stop MariaDB
#   upstream.sh wipe       stop MariaDB and remove all but the virtual environment
#
# Environment: STATE (state folder), UP_PORT, UP_DB_PORT, UP_PROCESSES (4, the value of upstream's sample file), PYTHON,
#   UP_KEYSTONE (URL of the Keystone that tokens are looked up at; empty: identity headers are believed), UP_MEMCACHED (HOST:PORT; empty: each
#   process remembers tokens by itself), UP_SOURCE_PORT (a port that imports may fetch from), UP_CONVERT (raw or qcow2: what imports are converted to; empty: nothing)
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
STATE=${STATE:-$(dirname "$HERE")/.state/bench}
PORT=${UP_PORT:-19310} DB_PORT=${UP_DB_PORT:-19311} PROCESSES=${UP_PROCESSES:-4}
VENV=$STATE/venv HOME_DIR=$STATE/upstream DB=$STATE/mariadb
SOCKET=${TMPDIR:-/tmp}/ikon-bench-$(id -u)-$DB_PORT.sock  # not below STATE: the path of a Unix socket has at most 107 characters

die() { echo "upstream.sh: $*" >&2; exit 1; }
db_admin() { "$1" --no-defaults --user=root --socket="$SOCKET" "${@:2}"; }
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

install_packages() {
  local missing=() as_root=()
  command -v mariadbd >/dev/null || missing+=(mariadb-server mariadb-client)
  command -v wrk >/dev/null || missing+=(wrk)
  command -v curl >/dev/null || missing+=(curl)
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  if [[ $PYTHON = /usr/bin/python3* ]]; then  # uWSGI is built with its headers, which Debian has in a package of their own, as it has venv
    [ -e "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=("${PYTHON##*/}-dev")
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=("${PYTHON##*/}-venv")
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  local before=0; [ -e /etc/mysql ] && before=1
  "${as_root[@]}" apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
    die "install these first: ${missing[*]}"
  # the package starts a server with default settings; this comparison runs its own
  [ $before = 1 ] || ! command -v systemctl >/dev/null || "${as_root[@]}" systemctl disable --now mariadb >/dev/null 2>&1 || true
}

install() {
  PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3)}
  install_packages
  [ -e "$VENV/.installed" ] && cmp -s "$HERE/upstream.txt" "$VENV/.installed" && return 0
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || {
    "$PYTHON" -m venv --clear "$VENV" || { rm -rf "$VENV"; die "cannot make a virtual environment: install python3-venv and python3-dev"; }
  }
  "$VENV/bin/pip" install -qq --disable-pip-version-check -r "$HERE/upstream.txt" >&2
  cp "$HERE/upstream.txt" "$VENV/.installed"
}

db() {
  if [ ! -d "$DB/data/mysql" ]; then
    mkdir -p "$DB"
    mariadb-install-db --no-defaults --datadir="$DB/data" --auth-root-authentication-method=normal --skip-test-db \
      --user="$(id -un)" >"$DB/install.log" 2>&1 || die "MariaDB cannot make its data folder, see $DB/install.log"
  fi
  if ! alive "$DB/pid"; then
    setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$DB/data" --socket="$SOCKET" --port="$DB_PORT" --bind-address=127.0.0.1 \
      --pid-file="$DB/pid" --innodb-buffer-pool-size=1G --max-connections=500 >"$DB/server.log" 2>&1 </dev/null &
    for _ in $(seq 150); do db_admin mariadb-admin ping >/dev/null 2>&1 && break; sleep 0.2; done
  fi
  db_admin mariadb -e "create database if not exists glance character set utf8mb3; create database if not exists ikon character set utf8mb4;
    grant all on *.* to bench@'127.0.0.1' identified by 'bench'; grant all on *.* to bench@'localhost' identified by 'bench'" ||
    die "MariaDB did not come up, see $DB/server.log"
  cat "$DB/pid"
}

stop() {
  alive "$DB/pid" || return 0
  local pid; pid=$(cat "$DB/pid")
  kill -TERM "$pid"
  for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$pid"
}

prepare() {
  mkdir -p "$HOME_DIR"/{etc,images,second,staging,tasks,cache}
  cat >"$HOME_DIR/etc/glance-api.conf" <<CONF
[DEFAULT]
log_file = $HOME_DIR/api.log
enabled_backends = fast:file,second:file
enabled_import_methods = [glance-direct,web-download,copy-image]
worker_self_reference_url = http://127.0.0.1:$PORT
image_cache_dir = $HOME_DIR/cache
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = $HOME_DIR/images
[second]
filesystem_store_datadir = $HOME_DIR/second
[os_glance_staging_store]
filesystem_store_datadir = $HOME_DIR/staging
[os_glance_tasks_store]
filesystem_store_datadir = $HOME_DIR/tasks
[database]
connection = mysql+pymysql://bench:bench@127.0.0.1:$DB_PORT/glance?charset=utf8
[oslo_policy]
enforce_scope = true
enforce_new_defaults = true
[wsgi]
python_interpreter = $VENV/bin/python
[paste_deploy]
config_file = $HOME_DIR/etc/paste.ini
flavor = bench
[keystone_authtoken]
www_authenticate_uri = ${UP_KEYSTONE:-}
auth_url = ${UP_KEYSTONE:-}
auth_type = password
username = glance
password = secret
project_name = service
user_domain_id = default
project_domain_id = default
service_token_roles_required = true
memcached_servers = ${UP_MEMCACHED:-}
CONF
  cat >"$HOME_DIR/etc/glance-image-import.conf" <<CONF
[image_import_opts]
image_import_plugins = [${UP_CONVERT:+image_conversion}]
[import_filtering_opts]
allowed_ports = [80,443${UP_SOURCE_PORT:+,$UP_SOURCE_PORT}]
allowed_hosts = [${UP_SOURCE_PORT:+127.0.0.1}]
[image_conversion]
output_format = ${UP_CONVERT:-raw}
CONF
  # Without Keystone no authtoken filter on either side: both servers get the identity headers that keystonemiddleware would set.
  cat >"$HOME_DIR/etc/paste.ini" <<CONF
[composite:glance-api-bench]
paste.composite_factory = glance.api:root_app_factory
/: api
/healthcheck: healthcheck
[pipeline:api]
pipeline = cors http_proxy_to_wsgi versionnegotiation ${UP_KEYSTONE:+authtoken} context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[app:healthcheck]
paste.app_factory = oslo_middleware:Healthcheck.app_factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:cors]
paste.filter_factory = oslo_middleware.cors:filter_factory
oslo_config_project = glance
oslo_config_program = glance-api
[filter:http_proxy_to_wsgi]
paste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory
CONF
  "$VENV/bin/glance-manage" --config-file "$HOME_DIR/etc/glance-api.conf" db_sync >"$HOME_DIR/db_sync.log" 2>&1 ||
    die "the schema could not be made, see $HOME_DIR/db_sync.log"
}

serve() {
  OS_GLANCE_CONFIG_DIR=$HOME_DIR/etc exec "$VENV/bin/uwsgi" --http "127.0.0.1:$PORT" --http-auto-chunked --http-chunked-input --http-raw-body \
    --socket-timeout 30 --chunked-input-limit 16777216 --lazy-apps --add-header "Connection: close" --buffer-size 65535 --thunder-lock \
    --enable-threads --exit-on-reload --die-on-term --master --processes "$PROCESSES" --disable-logging \
    --home "$VENV" --module glance.wsgi.api:application >>"$HOME_DIR/uwsgi.log" 2>&1 </dev/null
}

case ${1:-} in
  install | db | prepare | serve | stop) "$1" ;;
  wipe) stop; rm -rf "$HOME_DIR" "$DB" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
