#!/bin/bash
# An nginx as a sound HTTP source.      ROOT  directory served (default $DIR/root)
# /f static with Range, ETag, Last-Modified; /norange/f; /noetag/f; /auth/f (user u, password p); /slow/f 64 kB/s;
# /redirect/f 302 to /f; /loop/ 302 forever; /503/
. "$(dirname "$0")/lib.sh"
do_install() { apt_need nginx-light; }
do_start() {
    local r=${ROOT:-$DIR/root}
    mkdir -p "$r" "$DIR/tmp"
    [ "$(id -u)" = 0 ] && { chmod 755 "$DIR" "$r"; chown nobody "$DIR/tmp"; }
    printf 'u:{PLAIN}p\n' > "$DIR/htpasswd"
    cat > "$DIR/nginx.conf" <<EOF
$([ "$(id -u)" = 0 ] && echo 'user root;')
daemon off;
worker_processes 2;
pid $DIR/own.pid;
error_log $DIR/error.log warn;
events { worker_connections 512; }
http {
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    client_body_temp_path $DIR/tmp/b;
    proxy_temp_path $DIR/tmp/p;
    fastcgi_temp_path $DIR/tmp/f;
    uwsgi_temp_path $DIR/tmp/u;
    scgi_temp_path $DIR/tmp/s;
    server {
        listen $ADDR:$PORT;
        root $r;
        location / { }
        location /norange/ { alias $r/; max_ranges 0; }
        location /noetag/ { alias $r/; etag off; if_modified_since off; add_header Last-Modified ""; }
        location /auth/ { alias $r/; auth_basic x; auth_basic_user_file $DIR/htpasswd; }
        location /slow/ { alias $r/; limit_rate 64k; }
        location ~ ^/redirect/(.*)\$ { return 302 /\$1; }
        location /loop/ { return 302 /loop/; }
        location /503/ { return 503; }
    }
}
EOF
    nginx -t -q -c "$DIR/nginx.conf" -p "$DIR"
    bg http nginx -c "$DIR/nginx.conf" -p "$DIR"
    wait_for 10 port_open "$PORT"
}
do_stop() { kill_pid http 5; }
do_check() {
    local r=${ROOT:-$DIR/root} u=http://$ADDR:$PORT
    head -c 1000000 /dev/urandom > "$r/.check"
    http_is 206 -r 10-19 "$u/.check" || die range
    [ "$(curl -s -r 10-19 "$u/.check" | od -An -tx1)" = "$(tail -c +11 "$r/.check" | head -c 10 | od -An -tx1)" ] || die "range content"
    http_is 416 -r 1000000- "$u/.check" || die 416
    http_is 200 -r 10-19 "$u/norange/.check" || die norange
    http_is 401 "$u/auth/.check" || die auth
    http_is 200 -u u:p "$u/auth/.check" || die "auth with password"
    http_is 200 -L "$u/redirect/.check" || die redirect
    rm -f "$r/.check"
}
main "$@"
