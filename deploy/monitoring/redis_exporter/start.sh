#!/bin/sh
# The password reaches the exporter in a file, so that it is in no argument and no environment.
set -eu
umask 077
read -r _ password </run/secrets/metrics.secret
# Versions differ in whether the user is part of the name under which they look it up.
printf '{"redis://metrics@redis:6379":"%s","redis://redis:6379":"%s"}\n' "$password" "$password" \
    >/tmp/passwords.json
# CONFIG, of which it would like to ask, is refused: it would print passwords.
exec /redis_exporter -redis.addr redis://redis:6379 -redis.user metrics \
    -redis.password-file /tmp/passwords.json -config-command -
