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
  if [ -n "${AUTOPACK_VENV:-}" ]; then
    [ -x "$venv/bin/python" ] || fail "AUTOPACK_VENV=$AUTOPACK_VENV is no virtual environment: it has no bin/python."
    return
  fi
  command -v "$python" >/dev/null || fail "There is no '$python'. Install Python 3.11 or newer, or set PYTHON to it."
  want="$(wanted "$1")"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
  # What the tests need holds all that a run needs.
  if [ "$1" = runtime ] && [ "$(cat "$venv/.autopack-dev" 2>/dev/null)" = "$(wanted dev)" ]; then return; fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "autopack needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1). Set PYTHON to another one."
  echo "Preparing $venv (once) ..." >&2
  rm -f "$stamp"
  if ! is_usable; then
    "$python" -m venv --clear "$venv" ||
      fail "'$python -m venv' failed. On Debian and Ubuntu it needs the package python3-venv."
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$pins"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$root"
  echo "$want" > "$stamp"
}

is_usable() { # a first attempt that was interrupted leaves an environment without pip; a moved one, wrong paths
  [ "$("$venv/bin/python" --version 2>&1)" = "$("$python" --version 2>&1)" ] &&
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
    grep -qF "$venv" "$venv/bin/activate"
}

build_wheel() { # FOLDER: the wheel of this very tree, from the environment of the tests
  (cd "$root" && "$venv/bin/hatchling" build --target wheel --directory "$1") >"$1.log" 2>&1 ||
    { cat "$1.log" >&2; fail "The wheel cannot be built."; }
}

fail() {
  echo "$*" >&2
  exit 2
}
