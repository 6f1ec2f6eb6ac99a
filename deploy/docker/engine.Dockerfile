# An engine for NVIDIA GPUs: `forebay engine` and, beside it, vLLM as its makers ship it. From the repository's root:
#
#   docker build -f deploy/docker/engine.Dockerfile -t forebay-engine \
#     --build-arg VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0@sha256:… .
#
# Nothing of the image below is changed. Forebay is in an environment of its own, with its own versions of everything,
# about 0.2 GB (budget: 0.5 GB over the base, which has about 10 GB).
#
# VLLM_IMAGE: name the digest that you have tried (`docker buildx imagetools inspect` shows it); a tag can be moved.
# VLLM_PYTHON: the Python in it that has vLLM; the build fails where it has not.
ARG VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0

FROM ${VLLM_IMAGE} AS build
ARG VLLM_PYTHON=/usr/bin/python3
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements requirements
RUN "$VLLM_PYTHON" -m venv tools && "$VLLM_PYTHON" -m venv /opt/forebay \
    && tools/bin/pip install --require-hashes --requirement requirements/build.txt \
    && /opt/forebay/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/gateway.txt
COPY LICENSE README.md pyproject.toml ./
COPY src src
COPY deploy/docker/health.py deploy/docker/sbom.py /opt/forebay/
ARG VERSION=0.1.0
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir . . \
    && /opt/forebay/bin/pip install --no-deps ./*.whl \
    && /opt/forebay/bin/pip uninstall --yes pip setuptools \
    && /opt/forebay/bin/python /opt/forebay/sbom.py forebay-engine "${VERSION}" > /opt/forebay/sbom.cdx.json \
    && rm /opt/forebay/sbom.py \
    && "$VLLM_PYTHON" -m compileall -q --invalidation-mode unchecked-hash /opt/forebay/lib

FROM ${VLLM_IMAGE}
ARG VLLM_PYTHON=/usr/bin/python3
# A user with a name, which PyTorch asks for, and a home, where compiled kernels go.
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/lib/forebay --shell /usr/sbin/nologin forebay
COPY --from=build /opt/forebay /opt/forebay
ENV PATH=/opt/forebay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/forebay \
    HF_HOME=/var/lib/forebay/huggingface \
    FOREBAY_HOME=/var/lib/forebay \
    FOREBAY_ENGINE_PYTHON=$VLLM_PYTHON \
    FOREBAY_ENGINE_HOST=0.0.0.0 \
    FOREBAY_ENGINE_PORT=8001 \
    FOREBAY_AGENT_HOST=0.0.0.0 \
    FOREBAY_AGENT_PORT=9000
# Models and compiled code. The root may be read-only, but for runtimes whose hooks write to it (nvidia-cdi-hook).
VOLUME /var/lib/forebay
WORKDIR /var/lib/forebay
USER 10001:10001
RUN "$FOREBAY_ENGINE_PYTHON" -c "import importlib.util as u; assert u.find_spec('vllm'), 'no vLLM here'" \
    && forebay engine --help > /dev/null
EXPOSE 8001 9000
STOPSIGNAL SIGTERM
# Ready means that the engine has generated a token. Half an hour for it, as engine_start_timeout_s has it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["/opt/forebay/bin/python", "-IS", "/opt/forebay/health.py", "http://127.0.0.1:9000/health/ready"]
ENTRYPOINT ["forebay"]
CMD ["engine"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Forebay engine" \
      org.opencontainers.image.description="vLLM under Forebay's supervision: started, warmed, watched, drained" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
