#!/bin/sh
# Whether the server answers somebody who has a password; it does not while it loads its data.
set -eu
read -r _ password </run/secrets/metrics.secret
REDISCLI_AUTH=$password redis-cli --user metrics ping | grep -q PONG
