#!/usr/bin/env bash
# An emulated 64-bit Raspberry Pi: a Debian root file system for arm64, whose programs qemu-user runs.
#
#   tests/arm64/build.sh FOLDER
#
# Makes FOLDER/rootfs, once: a second run finds it and does nothing. Needs Debian, root and the right to mount; packages
# come from the mirror that apt is set up with. Exit status 3: it cannot be built here, and why is on stderr.
set -euo pipefail

PACKAGES=python3,python3-venv,openssh-client
SUITE=bookworm
EMULATOR=/usr/libexec/qemu-binfmt/aarch64-binfmt-P

folder="${1:?name the folder to build in}"
rootfs="$folder/rootfs"
stamp="$rootfs/etc/edgespa-arm64"
recipe="$SUITE $PACKAGES 1"

cannot() {
    echo "arm64: cannot be built here: $*" >&2
    exit 3
}

[ "$(id -u)" = 0 ] || cannot "it takes root (chroot, mount)"
command -v apt-get >/dev/null || cannot "it takes Debian's apt"
unshare --mount true 2>/dev/null || cannot "this machine does not allow mounting"

missing=()
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v arch-test >/dev/null || missing+=(arch-test)
[ -x "$EMULATOR" ] || missing+=(qemu-user-static)
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "arm64: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if ! log=$(apt-get update -q 2>&1 && apt-get install -y -q --no-install-recommends "${missing[@]}" 2>&1); then
        tail -n 5 <<<"$log" >&2
        cannot "apt-get install ${missing[*]} failed"
    fi
fi

# The kernel starts programs for arm64 with qemu; F keeps it open, so that it works inside of the chroot.
if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null ||
        cannot "the kernel has no binfmt_misc, or may not be told about other programs"
fi
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
    cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register ||
        cannot "binfmt_misc does not take qemu-aarch64"
fi

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
    echo "arm64: $rootfs is there"
    exit 0
fi

sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
    "Created-By: Packages" "Origin: Debian" "Codename: $SUITE" | sort -u)
if [ -z "$sources" ]; then
    apt-get update -q >/dev/null 2>&1 || cannot "apt-get update failed"
    sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
        "Created-By: Packages" "Origin: Debian" "Codename: $SUITE" | sort -u)
fi
[ -n "$sources" ] || cannot "apt is not set up for Debian $SUITE"

echo "arm64: building $rootfs (about five minutes, 300 MB)"
mkdir -p "$folder"
rm -rf "$rootfs" "$rootfs.partial"
trap 'rm -rf --one-file-system "$rootfs.partial"' EXIT
# The clock of a snapshot's mirror may be behind or ahead of this machine's.
mmdebstrap --quiet --mode=root --architectures=arm64 --variant=minbase --include="$PACKAGES" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    "$SUITE" "$rootfs.partial" - <<<"$sources" || cannot "mmdebstrap failed"
echo "$recipe" >"$rootfs.partial/etc/edgespa-arm64"
mv "$rootfs.partial" "$rootfs"
echo "arm64: $rootfs is built"
