#!/bin/sh
# Puts up what the make targets need: missing Debian packages, a virtual environment, the compiled extension.
# Usage: scripts/setup.sh [extra ...]   with the extras of pyproject.toml, e.g. "test lint"
set -eu
cd "$(dirname "$0")/.."
venv=.venv
python=${PYTHON:-python3}

need=""
want() { # want PACKAGE CHECK...: the package is missing when the check fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || need="$need $package"
}
install() { # install PACKAGE...
    echo "installing: $*"
    # Debian starts the servers that it installs; the tests start their own, so for this moment it shall not
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}
want gcc command -v gcc
want make command -v make
want libc6-dev test -e /usr/include/stdio.h
want linux-libc-dev test -e /usr/include/linux/rtnetlink.h
want iproute2 command -v ip
want iputils-ping command -v ping
want util-linux command -v nsenter
want etcd-server command -v etcd
want etcd-client command -v etcdctl
want python3 command -v "$python"
want python3-venv "$python" -c 'import ensurepip, venv'
want python3-dev "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
if [ -n "$need" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "missing:$need; on this system install them by hand (the names are Debian's)" >&2
        exit 1
    fi
    # shellcheck disable=SC2086  # a list of names
    install $need
    case $need in *etcd-server*) systemctl disable etcd.service >/dev/null 2>&1 || true ;; esac
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "fastnl needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=..." >&2
    exit 1
}

# what an earlier run has done is done: the stamp holds a hash of all that the build is made of
extras=$(echo "$*" | tr ' ' ',')
state=$( (echo "$extras" "$("$python" --version)"; cat pyproject.toml setup.py src/fastnl/*.pyx src/fastnl/nl/*) | sha256sum)
[ -f "$venv/.built" ] && [ "$(cat "$venv/.built")" = "$state" ] && exit 0
# the tests that want Docker are skipped without it, so this may fail
if [ "${extras#*test}" != "$extras" ] && ! command -v dockerd >/dev/null; then
    if command -v apt-get >/dev/null && install docker.io; then
        # nor shall it start with the machine, where it would change how packets are forwarded
        systemctl disable docker.service docker.socket containerd.service >/dev/null 2>&1 || true
    else
        echo "no docker.io here: the tests of microservices will be skipped" >&2
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "building fastnl (a minute at the first time)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -e ".${extras:+[$extras]}"
echo "$state" >"$venv/.built"
