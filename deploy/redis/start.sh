#!/bin/sh
# The users of the roles come from the secrets; enrolled clients (c-...) are kept where the server
# itself can write them.
set -eu
umask 077
new=/data/users.acl.new
cp /run/secrets/users.acl "$new"
if [ -f /data/users.acl ]; then
    grep '^user c-' /data/users.acl >>"$new" || true
fi
mv "$new" /data/users.acl
exec redis-server /etc/redis/redis.conf
