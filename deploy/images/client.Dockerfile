# A client for environments that need no screen; it has no torch.
#
#   BASE, wheels   as in node.Dockerfile
#   EXTRAS         what its environments need, of the extras in pyproject.toml
ARG BASE=python:3.11.13-slim-bookworm

# hadolint ignore=DL3006
FROM scratch AS wheels

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG EXTRAS=box2d
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/images/requirements.py ./
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    python -m venv /opt/soulsai \
    && python requirements.py ${EXTRAS} >requirements.txt \
    && /opt/soulsai/bin/pip install --disable-pip-version-check --no-compile --find-links /wheels \
        -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY soulsai soulsai
# hadolint ignore=DL3003
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/soulsai/bin/pip install --disable-pip-version-check --no-compile --no-deps . \
    # Python has its own copy of the runtime (libonnxruntime), and only its tools read protobuf.
    && /opt/soulsai/bin/pip uninstall --disable-pip-version-check -y protobuf flatbuffers pip setuptools \
    && cd /opt/soulsai/lib/python3.*/site-packages \
    && rm -r onnxruntime/capi/libonnxruntime.so.* onnxruntime/transformers \
        onnxruntime/quantization onnxruntime/tools \
    # Nobody compiles against NumPy (f2py, distutils, include, *.a).
    && rm -r numpy/f2py numpy/distutils numpy/_core/include \
    && find . -type d \( -name tests -o -name examples -o -name docs \) -prune -exec rm -rf {} + \
    && find . \( -name "*.pyi" -o -name "*.a" \) -delete
# Compiles exactly what a client loads, so that a container that cannot write starts as fast.
ENV PYTHONPYCACHEPREFIX=/opt/soulsai/compiled
RUN /opt/soulsai/bin/soulsai check-env CartPole-v1 >/dev/null \
    && /opt/soulsai/bin/soulsai client --help >/dev/null \
    && /opt/soulsai/bin/python -c "import soulsai.client.session, soulsai.connect, soulsai.wire.redis.roles"

# hadolint ignore=DL3006
FROM ${BASE}
COPY --from=build /opt/soulsai /opt/soulsai
COPY deploy/images/alive /usr/local/bin/alive
ENV PATH=/opt/soulsai/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONPYCACHEPREFIX=/opt/soulsai/compiled \
    PYTHONUNBUFFERED=1 \
    SOULSAI_PULSE=/tmp/pulse
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["soulsai"]
CMD ["client"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["alive"]
