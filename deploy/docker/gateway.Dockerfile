# The gateway: no engine and no compiler. Under 200 MB to download (verify.sh measures it: 145 MB with Debian's own Python
# below, which is larger than the image named here; what Forebay adds is 183 MB unpacked). From the repository's root:
#
#   docker build -f deploy/docker/gateway.Dockerfile -t forebay-gateway .
#
# Everything that is installed is locked: the base by its digest, packages by their hashes. PYTHON_IMAGE may be any image
# with a python3 of 3.11 or newer and its venv module; both stages use it.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements requirements
RUN python3 -m venv tools && python3 -m venv /opt/forebay \
    && tools/bin/pip install --require-hashes --requirement requirements/build.txt \
    && /opt/forebay/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/gateway.txt
COPY LICENSE README.md pyproject.toml ./
COPY src src
COPY deploy/docker/health.py deploy/docker/sbom.py /opt/forebay/
ARG VERSION=0.1.0
# Compiled here, since the last stage may be read-only; by content, since times would differ with every build.
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir . . \
    && /opt/forebay/bin/pip install --no-deps ./*.whl \
    && /opt/forebay/bin/pip uninstall --yes pip setuptools \
    && /opt/forebay/bin/python /opt/forebay/sbom.py forebay-gateway "${VERSION}" > /opt/forebay/sbom.cdx.json \
    && rm /opt/forebay/sbom.py \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/forebay/lib

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/lib/forebay --shell /usr/sbin/nologin forebay
COPY --from=build /opt/forebay /opt/forebay
ENV PATH=/opt/forebay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FOREBAY_HOME=/var/lib/forebay \
    FOREBAY_HOST=0.0.0.0 \
    FOREBAY_PORT=8000
# The root may be read-only: what is written goes to FOREBAY_HOME (files, usage on its way to the database) and to /tmp.
VOLUME /var/lib/forebay
WORKDIR /var/lib/forebay
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Whether it works, not whether engines do: that is /health/ready, for who sends requests.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python3", "-IS", "/opt/forebay/health.py", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["forebay"]
CMD ["gateway"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Forebay gateway" \
      org.opencontainers.image.description="One secured, fair, observable OpenAI-compatible endpoint in front of vLLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
