# Sourced by ./quickstart, ./test and docs/build: a virtual environment in .venv. First argument: "" for tiltlm with the
# versions of constraints.txt, or the extra that is needed, which installs requirements/development.lock and nothing else:
# a file whose hash is not in the lock is refused. Installs only where something it installs from has changed.
# Set PYTHON to choose the interpreter, TILTLM_VENV to put the environment elsewhere.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
extra=$1
venv=${TILTLM_VENV:-"$root/.venv"}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "tiltlm needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON to another." >&2
  exit 2
}
stamp="$venv/.installed${extra:+-$extra}"
wanted=$(cat pyproject.toml constraints.txt requirements/development.lock scripts/environment.sh | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "Installing tiltlm${extra:+[$extra]} into $venv (once; some minutes) ..." >&2
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  torch=$(grep '^torch==' constraints.txt)
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$torch"
  if [ "$extra" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
      -r requirements/development.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
  fi
  echo "$wanted" > "$stamp"
fi
