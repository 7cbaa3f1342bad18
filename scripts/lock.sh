#!/usr/bin/env bash
# Write the lock files in requirements/: every package with its version and the hashes of its files. Versions come from
# constraints.txt; those of other packages stay as they are, unless --upgrade is given. Releases of the last seven days
# are not taken, so that a bad one is found by others first. `scripts/lock.sh --check` fails if a file would change.
#
#   runtime.lock       tiltlm without extras: what the images install
#   development.lock   what ./test installs
#   extras.lock        every extra: what the audit looks at
#   tools.lock         the programs that build, check and audit
#
# torch is in none of them. Each build of it (CPU, one for each CUDA) is on an index of its own with hashes of its own, so
# it is installed first, by its exact version in constraints.txt, from the index that fits the machine. Packages that only
# torch needs are left out too.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=requirements
check=
if [ "${1:-}" = --check ]; then
  check=yes
  shift
  folder=$(mktemp -d)
  trap 'rm -r "$folder"' EXIT
  cp requirements/*.lock "$folder"
fi
newest=$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z 2>/dev/null || date -u -v-7d +%Y-%m-%dT00:00:00Z)
compile() {
  local file=$1
  shift
  uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --exclude-newer "$newest" -c constraints.txt --output-file "$folder/$file" "$@"
}
without_torch=(--no-emit-package torch)
for package in cuda-bindings cuda-pathfinder cuda-toolkit triton \
  nvidia-{cublas,cuda-cupti,cuda-nvrtc,cuda-runtime,cudnn-cu13,cufft,cufile,curand,cusolver,cusparse,cusparselt-cu13} \
  nvidia-{nccl-cu13,nvjitlink,nvshmem-cu13,nvtx}; do
  without_torch+=(--no-emit-package "$package")
done
compile runtime.lock "${without_torch[@]}" "$@"
compile development.lock --extra test "${without_torch[@]}" "$@"
compile extras.lock --all-extras "${without_torch[@]}" "$@"
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --exclude-newer "$newest" \
  -c constraints.txt --group tools --output-file "$folder/tools.lock" "$@"
if [ "$check" ]; then
  for file in "$folder"/*.lock; do
    diff -u "requirements/$(basename "$file")" "$file" || {
      echo "requirements/$(basename "$file") is not what scripts/lock.sh writes; run it" >&2
      exit 1
    }
  done
fi
