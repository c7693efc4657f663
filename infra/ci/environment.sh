#!/bin/sh
# Makes .venv, or brings it up to date: environment.sh run|dev installs what requirements/GROUP.txt pins, and then this
# project itself. `make` calls it only when a stamp is missing or older than the files that it stands for.
#
# .venv/place holds the path for which the environment is complete. It is emptied before anything is changed and
# written last, so that an environment that was cut off half way, or copied from elsewhere (it holds absolute paths),
# is made anew instead of being trusted.
set -eu

group=$1
python=${PYTHON:-python3}
here=$(pwd -P)

fail() {
  printf 'headway: %s\n' "$*" >&2
  exit 1
}

sound() {
  [ -x .venv/bin/python ] || return 1
  [ ! -e .venv/place ] || [ "$(cat .venv/place)" = "$here" ] || return 1
  .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

create() {
  command -v "$python" >/dev/null || fail "Python 3.11 or newer is needed, and there is no $python here."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, and $python is $("$python" -V 2>&1). Name another one: make PYTHON=python3.12 ..."
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv"
  echo "headway: installing what requirements/$group.txt names into .venv (first time, about a minute)" >&2
  rm -rf .venv
  mkdir .venv
  : >.venv/place
  "$python" -m venv .venv
}

# One at a time: a second `make`, or one after a `make` that was killed while its pip still runs, waits here.
exec 9<infra/ci/environment.sh
if command -v flock >/dev/null && ! flock --nonblock 9; then
  echo "headway: waiting for another installation into .venv" >&2
  flock 9
  if sound && [ -s .venv/place ] && [ ".venv/$group.stamp" -nt "requirements/$group.txt" ]; then exit 0; fi
fi

if sound; then
  echo "headway: bringing .venv up to date with requirements/$group.txt" >&2
else
  create
fi
: >.venv/place
rm -f .venv/*.stamp

pip="-m pip install --quiet --disable-pip-version-check --no-input"
# shellcheck disable=SC2086  # the options are words
.venv/bin/python $pip --require-hashes -r "requirements/$group.txt"
# shellcheck disable=SC2086
.venv/bin/python $pip --no-deps --no-build-isolation -e .

touch ".venv/$group.stamp"
if [ "$group" = dev ]; then touch .venv/run.stamp; fi # dev holds all of run
printf '%s' "$here" >.venv/place
