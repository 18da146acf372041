#!/bin/bash
# HAProxy (Debian) on PORT, before the server at NODE (127.0.0.1:9292), which it serves below PREFIX (/image) as docs/how-to/run-behind-a-proxy-with-headers.md says.
. "$(dirname "$0")/lib.sh"
do_install() { apt_need haproxy; }
do_start() {
    local prefix=${PREFIX:-/image}
    cat > "$DIR/haproxy.cfg" <<EOF
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 600s
    timeout server 600s
frontend in
    bind $ADDR:$PORT
    use_backend ikon if { path_beg $prefix/ }
backend ikon
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Prefix $prefix
    http-request del-header X-Forwarded-Port
    http-request replace-path $prefix/(.*) /\\1
    server one ${NODE:-$ADDR:9292}
EOF
    bg haproxy haproxy -db -f "$DIR/haproxy.cfg"
    wait_for 10 port_open "$PORT"
}
do_stop() { kill_pid haproxy 3; }
do_check() { [ "$(http_code "http://$ADDR:$PORT/elsewhere")" = 503 ]; }
main "$@"
