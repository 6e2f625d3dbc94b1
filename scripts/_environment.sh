# Sourced by the scripts beside it: makes .venv from the pins, once per change of the pins.
# shellcheck shell=bash
# Use: source _environment.sh; ensure_environment runtime|dev
# AUTOPACK_VENV names an environment of your own instead: it is used as it is, nothing is installed into it.
# PYTHON names the interpreter that .venv is made with.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${AUTOPACK_VENV:-$root/.venv}"

python="${PYTHON:-python3}"

wanted() { # what the stamp of an environment says when it is up to date
  echo "$(cat "$root/requirements/$1.txt" "$root/pyproject.toml" | cksum) $root $("$python" --version 2>&1)"
}

ensure_environment() {
  local pins="$root/requirements/$1.txt" stamp="$venv/.autopack-$1" want
  if [ -n "${AUTOPACK_VENV:-}" ]; then return; fi
  want="$(wanted "$1")"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
  # What the tests need holds all that a run needs.
  if [ "$1" = runtime ] && [ "$(cat "$venv/.autopack-dev" 2>/dev/null)" = "$(wanted dev)" ]; then return; fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "autopack needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1). Set PYTHON to another one." >&2
    exit 2
  fi
  echo "Preparing $venv (once) ..." >&2
  rm -f "$stamp"
  if [ ! -x "$venv/bin/python" ] || [ "$("$venv/bin/python" --version 2>&1)" != "$("$python" --version 2>&1)" ]; then
    "$python" -m venv --clear "$venv"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$pins"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$root"
  echo "$want" > "$stamp"
}
