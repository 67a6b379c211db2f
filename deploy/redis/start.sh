#!/bin/sh
# The users of the roles come from the secrets. Enrolled clients (c-...) are kept where the server
# itself writes them: what it says of them counts, once it has said anything.
set -eu
umask 077
new=/data/users.acl.new
if [ -f /data/users.acl ]; then
    grep -v '^user c-' /run/secrets/users.acl >"$new"
    grep '^user c-' /data/users.acl >>"$new" || true
else
    cp /run/secrets/users.acl "$new"
fi
mv "$new" /data/users.acl
exec redis-server /etc/redis/redis.conf
