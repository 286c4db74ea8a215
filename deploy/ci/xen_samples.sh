#!/usr/bin/env bash
# Unpacks the files that Debian's package xen-utils-common installs into a folder, for the tests that
# parse them. Nothing is installed, and nothing of the package belongs to this repository.
#
#   xen_samples.sh FOLDER    fetch and unpack, unless that was done already
set -euo pipefail

FOLDER=${1:?usage: xen_samples.sh FOLDER}
PACKAGE=xen-utils-common
FETCH_S_MAX=300

if [ -d "$FOLDER/etc/xen" ]; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"  # apt fetches as a user of its own
cd "$work"
# The index may be missing, or older than the archive.
timeout "$FETCH_S_MAX" apt-get -qq download "$PACKAGE" 2>/dev/null || {
    timeout "$FETCH_S_MAX" apt-get -qq update
    timeout "$FETCH_S_MAX" apt-get -qq download "$PACKAGE"
}
dpkg -x "$PACKAGE"_*.deb unpacked
mkdir -p "$(dirname "$FOLDER")"
rm -rf "$FOLDER"
mv unpacked "$FOLDER"
