#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/house_faults.sh -- plants each fault that tests/check_house.sh looks for in a copy of the project, one at a time,
# and wants to be told of it, at its place. Prints the faults that were not found; the last line is the sum. Exit status
# 0 or 1.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/tests/usage.sh"
usage 0 "$@"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
(cd "$root" && tar cf - --exclude='tests/data' --exclude='tests/fuzz/corpus' .ci CMakeLists.txt ./*.md benchmarks cmake docs examples include \
  tests tools) | tar xf - -C "$copy" && cd "$copy" || exit 1
found=0 missed=0

out=$(tests/check_house.sh 2>/dev/null) || { echo "there are findings before anything is planted:"; echo "$out"; exit 1; }

# expect PLACE SENTENCE: that it is among the findings, and one or two there are.
expect() {
  local out status=0
  out=$(tests/check_house.sh 2>/dev/null) || status=$?
  if [ $status = 1 ] && grep -F -- "$2" <<<"$out" | grep -q "^$1: " && [[ $out =~ ,\ [12]\ findings$ ]]; then
    found=$((found + 1))
  else
    missed=$((missed + 1))
    echo "not found: $1: $2"
    printf '%s\n' "$out" | sed 's/^/    /'
  fi
}
# fault FILE SED PLACE SENTENCE: FILE edited by SED, and then as it was.
fault() {
  cp "$1" "$copy.saved"
  sed -i -E "$2" "$1"
  ! cmp -s "$1" "$copy.saved" || echo "planted nothing in $1: $2"
  expect "$3" "$4"
  mv "$copy.saved" "$1"
}
h=include/sparsemoe

fault $h/precision.hpp '/^#pragma once/a #include "sparsemoe/concepts.hpp"' "$h/.*hpp:[0-9]*" "a cycle of headers: "
fault $h/kernels/lstm.hpp '/^#pragma once/a #include "sparsemoe/routers/switch.hpp"' "$h/kernels/lstm.hpp:[0-9]*" "a cycle of folders: "
fault $h/nn/moe.hpp '/^#pragma once/a #if defined(__clang__)' "$h/nn/moe.hpp:[0-9]*" "#if outside its rooms"
fault $h/io/directory.hpp '/^#if /d' "tests/check_house.sh:[0-9]*" "the list rooms names $h/io/directory.hpp"
fault $h/nn/moe.hpp 's/nn\/shared_expert.hpp and/nn\/shared_export.hpp and/' "$h/nn/moe.hpp:[0-9]*" '"Read next" names nn/shared_export.hpp'
fault $h/comm/solo.hpp '1,/comm\/threads.hpp/s/comm\/threads.hpp/concepts.hpp/' "$h/comm/threads.hpp:1" "no trail from README.md"
fault $h/nn/norm.hpp '1,3s/norm\.hpp/form.hpp/' "$h/nn/norm.hpp:[12]" "opens with its own name"
fault $h/train/update.hpp '$a const char* experts = "x.moe.experts.y";' "$h/train/update.hpp:[0-9]*" "a role is read from a name"
fault examples/five_routers.cpp '$a const bool sparse = router == "task";' "examples/five_routers.cpp:[0-9]*" "a name of a router"
fault $h/nn/linear.hpp "\$a $(printf '//\\n%.0s' {1..400})" "$h/nn/linear.hpp:1" "a header has at most 400"
fault $h/nn/linear.hpp "\$a $(printf '//\\n%.0s' {1..230})" "$h/nn/linear.hpp:1" "over 300 only with a reason"
fault $h/backend/cpu.hpp '200,$d' "tests/check_house.sh:[0-9]*" "the list over_300 names $h/backend/cpu.hpp"
fault README.md '$a Run sparsemoe-telepathy.' "README.md:[0-9]*" "there is no program sparsemoe-telepathy"
fault README.md '$a Run tests/telepathy.sh.' "README.md:[0-9]*" "there is no script tests/telepathy.sh"
fault README.md 's/^sparsemoe-nmt train /sparsemoe-nmt tarin /' "README.md:[0-9]*" "sparsemoe-nmt has no command 'tarin'"
fault $h/view.hpp '/SPDX/d' "$h/view.hpp:1" "SPDX"
fault tests/run.sh '/SPDX/d' "tests/run.sh:2" "SPDX"

# The last one needs a history that has the commit the script begins with.
start=$(sed -n 's/^first_commit=//p' tests/check_house.sh)
if git -C "$root" merge-base --is-ancestor "$start" HEAD 2>/dev/null && git clone -q --no-checkout "$root" "$copy.clone"; then
  mv "$copy.clone/.git" .git && rm -rf "$copy.clone"
  git -c user.name=house -c user.email=house@example.org commit -q --allow-empty -m "$(printf 'x%.0s' {1..73})"
  expect "[0-9a-f]*" "subject of 73 characters"
else
  echo "subjects: skipped, there is no history"
fi
echo "faults of the house: $found found, $missed missed"
[ $missed = 0 ]
