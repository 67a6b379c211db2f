#!/bin/sh
# Gets a certificate for $DOMAIN, and renews it in time; NGINX sees for itself when it has changed.
set -eu

if [ -n "${EMAIL:-}" ]; then
    contact=--email=$EMAIL
else
    contact=--register-unsafely-without-email
fi

certificate() {
    certbot certonly --non-interactive --agree-tos --keep-until-expiring \
        --webroot --webroot-path /var/www/certbot --domain "$DOMAIN" \
        "$contact" ${ACME_SERVER:+--server "$ACME_SERVER"} \
        --config-dir /etc/letsencrypt --work-dir /tmp/work --logs-dir /tmp/logs "$@"
}

if [ "${1:-}" = now ]; then # a new one, however long the old one lasts
    certificate --force-renewal
    exit
fi
while :; do
    # Authorities allow a few failures an hour.
    if certificate; then pause=43200; else pause=900; fi
    sleep "$pause"
done
