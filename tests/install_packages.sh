#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/install_packages.sh [--full] [--list] -- what the library, its tests and its examples need, on Debian 12.
# --full adds what only some checks need: the second compiler, sanitizer runtimes, MPI. --list prints the names.
# Makes no network call when everything is there.
set -euo pipefail
packages=(
  g++ cmake ninja-build make pkg-config git                # build
  libeigen3-dev libthrust-dev librandom123-dev             # the library
  nlohmann-json3-dev libsentencepiece-dev libdnnl-dev      # its opt-in parts
  libcli11-dev liblzma-dev zlib1g-dev libutf8proc-dev      # example programs
  doctest-dev librapidcheck-dev libbenchmark-dev           # tests and benchmarks
)
full=(clang-16 libomp-16-dev libclang-rt-16-dev libopenmpi-dev openmpi-bin)
list=no
for argument in "$@"; do
  case $argument in
    --full) packages+=("${full[@]}") ;;
    --list) list=yes ;;
    -h|--help) sed -n '2,/^[^#]/{/^# SPDX-/d; s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "unknown argument $argument" >&2; exit 2 ;;
  esac
done
if [ $list = yes ]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

if ! command -v dpkg >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is not a Debian system, so nothing is installed (untested here). The Debian 12 names are:"
  echo "  ${packages[*]}"
  exit 0
fi
# shellcheck disable=SC1091
. /etc/os-release
[ "${ID:-} ${VERSION_ID:-}" = "debian 12" ] ||
  echo "Tested on Debian 12 only; trying the same package names on ${PRETTY_NAME:-this system}."

missing=()
for package in "${packages[@]}"; do
  dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
  echo "all ${#packages[@]} packages are installed"
  exit 0
fi
root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "need root or sudo to install: ${missing[*]}" >&2; exit 1; }
  root=(sudo)
fi
echo "installing ${missing[*]}"
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
