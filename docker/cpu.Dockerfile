# tiltlm on a CPU. Build from the root of the repository:
#
#   docker build -f docker/cpu.Dockerfile -t tiltlm:cpu .
#   mkdir -p work
#   docker run --rm -v "$PWD/work:/work" tiltlm:cpu quickstart
#
# The container runs as user 1000. If `id -u` gives another number, `chmod o+w work` lets it write there.
#
# BASE is a tag, which is moved to newer images. An image that is deployed names what it was built from: give the digest
# that `docker buildx imagetools inspect python:3.11-slim-bookworm` prints, as
# --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
WORKDIR /source
COPY requirements/tools.lock requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/tools.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m build --wheel --no-isolation --outdir /dist

FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY constraints.txt requirements/runtime.lock /tmp/
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' /tmp/constraints.txt)" \
  && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/runtime.lock
COPY --from=builder /dist /tmp/dist
RUN pip install --no-cache-dir --no-deps /tmp/dist/*.whl \
  && useradd --create-home --uid 1000 tiltlm \
  && install -d -o tiltlm /work /cache
# Models and caches survive a container where /cache is a volume.
ENV HF_HOME=/cache/huggingface HF_HUB_DISABLE_TELEMETRY=1 XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1
# Training on a CPU then needs less memory (docs/memory.md).
ENV GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0
USER 1000
WORKDIR /work
ENTRYPOINT ["tiltlm"]
CMD ["--help"]
