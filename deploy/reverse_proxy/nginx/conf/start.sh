#!/bin/sh
# Runs NGINX: on port 8080 only, as long as there is no certificate; with TLS as soon as there is one.
# A certificate that changes is taken up within seconds, without losing a connection.
set -eu
live=/etc/letsencrypt/live/$DOMAIN
run=/tmp/nginx

render() { # every file whose time has come, with the domain's name in it
    mkdir -p "$run/http" "$run/stream"
    for file in nginx.conf http/challenge.conf; do
        sed "s/\${DOMAIN}/$DOMAIN/g" "/etc/nginx/conf/$file" >"$run/$file"
    done
    [ -f "$live/fullchain.pem" ] || return 0
    for file in http/site.conf stream/redis.conf; do
        sed "s/\${DOMAIN}/$DOMAIN/g; s/\${LISTEN_HTTP2}/$listen_http2/; s/\${HTTP2}/$http2/" \
            "/etc/nginx/conf/$file" >"$run/$file"
    done
}

version=$(nginx -v 2>&1)
version=${version##*/}
version=${version%% *}
if [ "$(printf '%s\n' 1.25.1 "$version" | sort -V | head -n 1)" = 1.25.1 ]; then
    listen_http2="" http2="http2 on;"
else # which does not know that directive
    listen_http2="http2" http2=""
fi

certificate() {
    cat "$live/fullchain.pem" 2>/dev/null | cksum
}

seen=$(certificate)
render
nginx -c "$run/nginx.conf" -g "daemon off;" &
nginx=$!
trap 'kill -QUIT "$nginx"; wait "$nginx"; exit 0' TERM INT QUIT
while kill -0 "$nginx" 2>/dev/null; do
    sleep 2 &
    wait $!
    now=$(certificate)
    [ "$now" != "$seen" ] || continue
    render
    if nginx -t -q -c "$run/nginx.conf"; then
        nginx -s reload -c "$run/nginx.conf"
        seen=$now
        echo "nginx: new certificate taken up"
    fi
done
wait "$nginx"
