#!/bin/bash
# Builds the root file system of deploy/container/Containerfile step by step with debootstrap and chroot, starts the
# engine from it in namespaces of their own, wires two namespaces and pings.  Needs root, debootstrap, unshare, ip, ping.
#
#     deploy/container/test-rootfs.sh [FOLDER]            keeps FOLDER, whose base/ is used again; without one all goes
#     deploy/container/test-rootfs.sh --start FOLDER      only starts what was built there
#
# BIND="FROM:TO ..." shows files and folders of this machine to the steps, such as a private CA's certificate; variables
# PIP_* are handed on.
set -euo pipefail
cd "$(dirname "$0")/../.."
recipe=deploy/container/Containerfile

if [ "${INSIDE:-}" != yes ]; then
    exec env INSIDE=yes unshare --mount --propagation private "$0" "$@"
fi
only_start=no
if [ "${1:-}" = --start ]; then
    only_start=yes
    shift
fi
work=${1:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'cd /; umount -R -l "$work"/* 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
fi
mkdir -p "$work"
work=$(realpath "$work")

fail() {
    echo "test-rootfs: $*" >&2
    exit 1
}

base() { # base FOLDER IMAGE: an image's root, from its distribution's own packages
    [ "$2" = debian:12-slim ] || fail "no way to make $2 without a container engine"
    [ -e "$work/base/etc/debian_version" ] || {
        debootstrap --variant=minbase bookworm "$work/base.new" >"$work/debootstrap.log"
        rm -rf "$work/base"
        mv "$work/base.new" "$work/base"
    }
    rm -rf --one-file-system "$1"
    cp -a --reflink=auto "$work/base" "$1"
}

run() ( # run FOLDER DIRECTORY COMMAND: as RUN does, in a shell, with the ENV so far
    mount --bind "$1" "$1"
    mount -t proc proc "$1/proc"
    mount -t tmpfs tmpfs "$1/dev"
    for device in null zero random urandom; do
        touch "$1/dev/$device"
        mount --bind "/dev/$device" "$1/dev/$device"
    done
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    made=()
    for pair in ${BIND:-}; do
        from=${pair%%:*} to=$1${pair#*:}
        if [ ! -e "$to" ]; then
            made+=("$to")
            if [ -d "$from" ]; then mkdir -p "$to"; else install -D /dev/null "$to"; fi
        fi
        mount --bind "$from" "$to"
    done
    mapfile -t given < <(env | grep '^PIP_' || true)
    status=0
    env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "${given[@]}" "${environment[@]}" \
        chroot "$1" /bin/sh -c "cd '$2' && $3" </dev/null || status=$?
    umount -R "$1"
    [ ${#made[@]} = 0 ] || rm -d "${made[@]}"
    return $status
)

copy() { # copy STAGE DIRECTORY WORDS...: as COPY does
    local stage=$1 directory=$2 from=. target
    shift 2
    if [[ $1 == --from=* ]]; then
        from=${stages[${1#--from=}]}
        shift
    fi
    target=${*: -1}
    [[ $target == /* ]] || target=$directory/$target
    local sources=("${@:1:$#-1}")
    if [[ $target == */ || $target == */. || ${#sources[@]} -gt 1 ]]; then mkdir -p "$stage$target"; fi
    mkdir -p "$(dirname "$stage$target")"
    for source in "${sources[@]}"; do
        if [ -d "$from/$source" ]; then # of a folder, what it holds
            mkdir -p "$stage$target"
            cp -a "$from/$source/." "$stage$target"
        else
            cp -a "$from/$source" "$stage$target"
        fi
    done
}

# -- the recipe ------------------------------------------------------------------------------------------------------

declare -A stages
environment=() entrypoint=""
while IFS= read -r line; do
    read -r word rest <<<"$line"
    case $word in
    FROM)
        read -r image _ name <<<"$rest"
        stage=$work/${name:-image} directory=/ environment=()
        stages[${name:-image}]=$stage
        [ $only_start = yes ] || base "$stage" "$image"
        ;;
    RUN) [ $only_start = yes ] || run "$stage" "$directory" "$rest" || fail "this step failed: $rest" ;;
    COPY)
        read -ra words <<<"$rest"
        [ $only_start = yes ] || copy "$stage" "$directory" "${words[@]}"
        ;;
    ENV)
        read -ra words <<<"$rest"
        environment+=("${words[@]}")
        ;;
    WORKDIR)
        directory=$rest
        mkdir -p "$stage$directory"
        ;;
    ENTRYPOINT) entrypoint=$(tr -d '[]",' <<<"$rest") ;;
    LABEL | STOPSIGNAL | CMD) ;;
    *) fail "cannot do $word" ;;
    esac
done < <(sed -e '/^#/d' "$recipe" | sed -e ':join; /\\$/ { N; s/\\\n/ /; b join }' -e '/^[[:space:]]*$/d')
echo "built: $(du -shx "$stage" | cut -f1) in $stage"

# -- the engine from it ----------------------------------------------------------------------------------------------

[ ! -e "$stage/src" ] || fail "the source tree is in the image"
unshare --net --mount --propagation private /bin/bash -euo pipefail -s "$work" "$stage" "$entrypoint" \
    "${environment[@]}" <<'SMOKE'
work=$1 stage=$2 entrypoint=$3
shift 3
environment=("$@")
inside() { env -i "${environment[@]}" chroot "$stage" "$@"; }

ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
mount --bind "$stage" "$stage"
mount -t proc proc "$stage/proc"
mount -t tmpfs tmpfs "$stage/dev"
touch "$stage/dev/null" "$stage/dev/urandom"
mount --bind /dev/null "$stage/dev/null"
mount --bind /dev/urandom "$stage/dev/urandom"
# as HostToContainer has it: what is mounted on the host later is seen inside
mkdir -p "$stage/run/netns"
mount --bind /run/netns "$stage/run/netns"
mount --make-slave "$stage/run/netns"

ip netns add before
(exec env -i "${environment[@]}" chroot "$stage" "$entrypoint" --nsm unix:/run/fastnl/nsm.sock >"$work/engine.log" 2>&1) &
engine=$!
trap 'kill $engine 2>/dev/null || true; wait $engine || true; cat "$work/engine.log"' EXIT
for _ in $(seq 100); do
    inside fastnl info >/dev/null 2>&1 && break
    kill -0 $engine
    sleep 0.1
done
# what it may be told to do needs libraries that are no dependencies of its core
inside python3 -c 'import aiodocker, fastnl_engine.kv.etcd, fastnl_engine.watch.docker'
for _ in $(seq 100); do
    grep -q 'forwarding for the mesh' "$work/engine.log" && break
    sleep 0.1
done
[ -S "$stage/run/fastnl/nsm.sock" ]

ip netns add after
printf '%s\n' '{id: smoke, kind: veth, a: {netns: before, ifname: e0, addresses: [10.0.0.1/24]},' \
    'b: {netns: after, ifname: e0, addresses: [10.0.0.2/24]}}' | inside fastnl connect -
ip netns exec before ping -q -c 1 -W 5 10.0.0.2
inside fastnl verify smoke
inside fastnl disconnect smoke
ip netns delete before
ip netns delete after
kill $engine
wait $engine
trap - EXIT
cat "$work/engine.log"
SMOKE
echo "test-rootfs: the engine in the image wires namespaces"
