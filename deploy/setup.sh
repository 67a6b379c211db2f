#!/bin/sh
# Makes on this machine what the containers need: folders, networks, secrets, and as whom they run.
# Changes nothing that is there already; run it again whenever you like.
set -eu
umask 077
cd "$(dirname "$0")/.."

# Containers run as whoever owns these files, but never as root.
uid=$(id -u) gid=$(id -g)
[ "$uid" != 0 ] || uid=10001 gid=10001

mkdir -p saves config/secrets data/redis data/prometheus data/alertmanager data/grafana \
    deploy/reverse_proxy/certbot/www deploy/reverse_proxy/certbot/conf
if ! grep -qs '^SOULSAI_UID=' .env; then
    printf 'SOULSAI_UID=%s\nSOULSAI_GID=%s\n' "$uid" "$gid" >>.env
    echo "setup: .env written: containers run as user $uid"
fi
for stack in monitoring reverse_proxy; do
    [ -e "deploy/$stack/.env" ] || ln -s ../../.env "deploy/$stack/.env"
done

token() { # 48 letters and digits, into a file of config/secrets that is not there yet
    [ -f "config/secrets/$1" ] || head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"config/secrets/$1"
}
token web_operator.token
token web_viewer.token
token grafana_admin.secret

if [ "$(id -u)" = 0 ]; then
    chown -R "$uid:$gid" saves config/secrets data deploy/reverse_proxy/certbot
    [ ! -f config/redis.secret ] || chown "$uid:$gid" config/redis.secret
fi
for network in train_server_net server; do
    docker network inspect "$network" >/dev/null 2>&1 || docker network create "$network" >/dev/null
done
# A redis.secret that you put into config/ becomes the common secret; two that differ are an error.
if [ ! -f config/secrets/users.acl ] \
    || { [ -f config/redis.secret ] && ! cmp -s config/redis.secret config/secrets/redis.secret; }; then
    docker compose run --rm --no-deps secrets
fi
echo "setup: ready; next: docker compose up -d --build --wait"
