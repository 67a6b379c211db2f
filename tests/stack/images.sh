#!/bin/sh
# Builds our images, and gets those of others; without a registry, with SOULSAI_STAND_INS=1, it makes
# stand-ins for these of Debian's packages. Needs the internet; SOULSAI_PREBUILT=1 says that all is there.
#
#   SOULSAI_BASE    instead of the Python image named in deploy/images
#   SOULSAI_DEBIAN  instead of debian:bookworm-slim, for the stand-ins
#   WHEELS          a folder of wheels to be preferred
#   TORCH_INDEX     an index with builds of torch for CPUs only
#   BUILD_FLAGS     more words for `docker build`, such as --network=host
set -eu
cd "$(dirname "$0")/../.."
[ "${SOULSAI_PREBUILT:-}" != 1 ] || exit 0

for name in client node; do
    # shellcheck disable=SC2086
    docker build ${BUILD_FLAGS:-} ${SOULSAI_BASE:+--build-arg "BASE=$SOULSAI_BASE"} \
        ${TORCH_INDEX:+--build-arg "TORCH_INDEX=$TORCH_INDEX"} ${WHEELS:+--build-context "wheels=$WHEELS"} \
        -f "deploy/images/$name.Dockerfile" -t "soulsai-$name:local" .
done

# Others' images, as the compose files pin them; their names have no spaces.
# shellcheck disable=SC2013
for image in $(sed -n 's/^ *image: *\([^" ]*\)$/\1/p' docker-compose.yaml deploy/*/compose.yaml); do
    if docker image inspect "$image" >/dev/null 2>&1; then
        continue
    elif [ "${SOULSAI_STAND_INS:-}" != 1 ]; then
        docker pull "$image"
        continue
    fi
    target=${image##*/}
    # shellcheck disable=SC2086
    docker build ${BUILD_FLAGS:-} ${SOULSAI_DEBIAN:+--build-arg "BASE=$SOULSAI_DEBIAN"} \
        --target "${target%%:*}" -t "$image" tests/stack/stand_ins
done
# The certificate authority for tests.
# shellcheck disable=SC2086
docker build ${BUILD_FLAGS:-} ${SOULSAI_DEBIAN:+--build-arg "BASE=$SOULSAI_DEBIAN"} \
    --target pebble -t soulsai-pebble:test tests/stack/stand_ins
