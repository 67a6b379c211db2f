# Both nodes and the evaluator: `soulsai training-node`, `telemetry-node` and `evaluator`.
#
#   BASE          Python 3.11 to 3.13 on Debian
#   TORCH_INDEX   an index of other builds of torch; that of CPU builds makes the image 5 times smaller
#   wheels        a named build context: a folder of wheels to be preferred to those of any index
ARG BASE=python:3.11.13-slim-bookworm

# hadolint ignore=DL3006
FROM scratch AS wheels

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG TORCH_INDEX=
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/images/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    python -m venv /opt/soulsai \
    && python requirements.py server box2d video >requirements.txt \
    && /opt/soulsai/bin/pip install --disable-pip-version-check --find-links /wheels \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY soulsai soulsai
# hadolint ignore=DL3003
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/soulsai/bin/pip install --disable-pip-version-check --no-deps . \
    # Nobody compiles C++ (torch), or calls the runtime from C (libonnxruntime).
    && /opt/soulsai/bin/pip uninstall --disable-pip-version-check -y pip \
    && cd /opt/soulsai/lib/python3.*/site-packages \
    && rm -rf torch/include torch/test torch/bin/test_* torch/bin/protoc* \
        onnxruntime/capi/libonnxruntime.so.* \
    && find . -type d -name tests -prune -exec rm -rf {} +

# hadolint ignore=DL3006
FROM ${BASE}
COPY --from=build /opt/soulsai /opt/soulsai
COPY deploy/images/alive /usr/local/bin/alive
ENV PATH=/opt/soulsai/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    SOULSAI_PULSE=/tmp/pulse
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["soulsai"]
CMD ["--help"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["alive"]
