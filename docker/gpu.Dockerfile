# tiltlm on NVIDIA GPUs. Build from the root of the repository:
#
#   docker build -f docker/gpu.Dockerfile -t tiltlm:gpu .
#   mkdir -p work
#   docker run --rm --gpus all --ipc=host -v "$PWD/work:/work" -v tiltlm-cache:/cache tiltlm:gpu train config.yaml
#
# The container runs as user 1000. If `id -u` gives another number, `chmod o+w work` lets it write there.
#
# torch of the package index brings the CUDA libraries that it was built for, so no CUDA image is needed; the host has the
# driver and the NVIDIA container toolkit. Another CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
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
# Triton compiles its launchers with a C compiler when a kernel is first used. Debian's own versions of one release.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt requirements/runtime.lock /tmp/
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/constraints.txt)" \
  && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/runtime.lock
COPY --from=builder /dist /tmp/dist
RUN pip install --no-cache-dir --no-deps /tmp/dist/*.whl \
  && useradd --create-home --uid 1000 tiltlm \
  && install -d -o tiltlm /work /cache
# Models and caches survive a container where /cache is a volume.
ENV HF_HOME=/cache/huggingface HF_HUB_DISABLE_TELEMETRY=1 XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["tiltlm"]
CMD ["--help"]
