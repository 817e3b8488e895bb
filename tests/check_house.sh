#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_house.sh [DIRECTORY] -- what the house says of itself and a script can see, in this project or in a copy of
# it in DIRECTORY. One line per finding (file:line: sentence); the last line is the sum.
#   doors      no cycle of includes between headers, nor between folders of include/sparsemoe
#   rooms      #if stands in config.hpp and backend/gemm, and elsewhere only where the list below says why
#   trail      a header opens with its own name; "Read next:" names files that exist, and leads from README.md to all headers
#   names      a router's name stands in model/by_name.hpp, a parameter's role where visit() is written: no code compares
#              with the string
#   size       no header has over 400 lines, and a public one over 300 has a reason in the list below
#   commands   programs, scripts and subcommands that the documents name exist
#   licence    a source begins with its SPDX line; a script has it below #!
#   commits    subjects have at most 72 characters, from the commit below on; skipped where there is no history
# A list that names what is no longer so is a finding too. Exit status 0 or 1.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage 1 "$@"
self=$(realpath "${BASH_SOURCE[0]}")
root=$(realpath "${1:-$(dirname "${BASH_SOURCE[0]}")/..}") && cd "$root" || exit 1
export LC_ALL=C.UTF-8

# ----------------------------------------------------------------------------------------------------------- lists
# FILE REASON, one a line. Paths end like this.
rooms='
include/sparsemoe/backend/cuda.hpp     warp shuffles exist only in the pass that makes device code
include/sparsemoe/io/directory.hpp     the C library says whether two names can be swapped
corpus/text_file.                      zlib and liblzma are optional
examples/translation/run_facts.hpp     the log names the compiler
'
over_300='
include/sparsemoe/backend/cpu.hpp               one backend, verb after verb
include/sparsemoe/backend/cuda.hpp              one backend, verb after verb
include/sparsemoe/backend/gemm/forms.hpp        every form of an operand beside the others, each in its vector widths
include/sparsemoe/infer/beam.hpp                one state machine, in the order of the rules that it repeats
include/sparsemoe/io/safetensors_header.hpp     one grammar, parsed and written
include/sparsemoe/io/sharded.hpp                one check of an index against its shards, whole before it is believed
include/sparsemoe/kernels/dispatch.hpp          forward above backward, functor by functor
include/sparsemoe/kernels/routing.hpp           forward above backward, functor by functor
include/sparsemoe/kernels/rows.hpp              forward above backward, functor by functor
include/sparsemoe/nn/soft_moe.hpp               a layer of its own, forward and backward
include/sparsemoe/optim/adafactor.hpp           three passes of one optimiser
include/sparsemoe/report/training_report.hpp    one page, section after section
include/sparsemoe/router_concept.hpp            the contract of a router, with a sentence for each part of it
include/sparsemoe/testing/check_router.hpp      one property after another, as they are printed
include/sparsemoe/testing/router_bench.hpp      a whole layer once more, in plain loops
'
# To go: FILE LINES, the most it may have until it is cut in two.
over_400='
include/sparsemoe/model/decoder.hpp          520
include/sparsemoe/nn/routing.hpp             460
examples/translation/extract_command.hpp     490
examples/translation/benchmark/benchmark.hpp 450
'
# Where names are the subject: the leaves of a sparse layer by name, and the tables of names of others.
role_names='
include/sparsemoe/model/sparse_names.hpp
include/sparsemoe/hf/
'
router_names='
include/sparsemoe/model/by_name.hpp
'
first_commit=9f8fde886923738bd9ba27ba1ea382899cfb059a
# ---------------------------------------------------------------------------------------------------------------

is_checkout() { [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$root" ]; }
files=$(if is_checkout; then git ls-files --cached --others --exclude-standard
        else find . -type f -not -path './.git/*' -not -path './build*' | sed 's|^\./||'; fi |
  while IFS= read -r file; do [ -f "$file" ] && printf '%s\n' "$file"; done | sort)
headers=$(grep '^include/sparsemoe/.*\.hpp$' <<<"$files")
[ -n "$headers" ] || { echo "there are no headers in $root/include/sparsemoe"; exit 1; }
code=$(grep -E '^(include|examples|tools)/.*\.(hpp|cpp)$' <<<"$files")
sources=$(grep -E '^(include|examples|tools|benchmarks|tests)/.*\.(hpp|cpp|cu)$' <<<"$files")
entries() { sed -E '/^$/d; s/ .*//' <<<"$1"; }
# stale NAME ENTRY: ENTRY of the list NAME is no longer so.
stale() {
  local line
  line=$(awk -v name="$1" -v entry="$2" '$0 == name "=\x27" { on = 1 } on && $1 == entry { print NR; exit }' "$self")
  echo "tests/check_house.sh:$line: the list $1 names $2, where it is no longer so"
}
# unlisted NAME: the lines FILE:... of standard input whose file is in none of the entries of the list NAME; then the
# entries that no line has met.
unlisted() {
  local line
  awk -v list="$(entries "${!1}")" '
    BEGIN { n = split(list, entry, "\n") }
    {
      file = $0
      sub(/:.*/, "", file)
      for (i = 1; i <= n; ++i)
        if (index(entry[i], "/") && (index(file, entry[i]) == 1 || index(file, "/" entry[i]))) { met[i] = 1; next }
      print
    }
    END { for (i = 1; i <= n; ++i) if (entry[i] != "" && !met[i]) print "stale " entry[i] }' |
    while IFS= read -r line; do
      if [[ $line == stale\ * ]]; then stale "$1" "${line#stale }"; else echo "$line"; fi
    done
}

# ----------------------------------------------------------------------------------------------------------- doors
# Standard input: FROM<tab>TO<tab>PLACE, an edge a line. A cycle is told once, at the edge of it that is drawn least.
cycles() {
  awk -F '\t' -v what="$1" '
    function visit(n,    i, m) {
      state[n] = 1; path[++depth] = n
      for (i = 1; i <= out[n]; ++i) {
        m = edge[n, i]
        if (state[m] == 1) tell(m)
        else if (state[m] == 0) visit(m)
      }
      state[n] = 2; --depth
    }
    function tell(first,    at, i, text, from, least) {
      for (at = depth; path[at] != first; --at);
      path[depth + 1] = first
      text = first
      for (i = at; i <= depth; ++i) {
        text = text " -> " path[i + 1]
        if (i == at || drawn[path[i], path[i + 1]] <= least) {
          least = drawn[path[i], path[i + 1]]
          from = place[path[i], path[i + 1]]
        }
      }
      print from ": a cycle of " what ": " text
    }
    !($1 in out) { node[++nodes] = $1; out[$1] = 0 }
    !(($1, $2) in drawn) { edge[$1, ++out[$1]] = $2; place[$1, $2] = $3 }
    { ++drawn[$1, $2] }
    END { for (i = 1; i <= nodes; ++i) if (state[node[i]] == 0) visit(node[i]) }'
}
# shellcheck disable=SC2086
includes=$(grep -nE '^ *# *include "sparsemoe/' $headers | sed -E 's|^include/sparsemoe/([^:]*):([0-9]*):.*"sparsemoe/([^"]*)".*|\1\t\3\tinclude/sparsemoe/\1:\2|')
doors() {
  cycles headers <<<"$includes"
  # Headers of no folder are the ground floor; the two that include everything are the roof. gemm is a part of backend.
  awk -F '\t' -v OFS='\t' '
    function folder(h) { return h == "sparsemoe.hpp" || h == "testing.hpp" ? "the roof" : h ~ /\// ? substr(h, 1, index(h, "/") - 1) : "the ground floor" }
    folder($1) != folder($2) { print folder($1), folder($2), $3 }' <<<"$includes" | cycles folders
}

# ----------------------------------------------------------------------------------------------------------- rooms
rooms() {
  # shellcheck disable=SC2086
  grep -nE '^ *# *(el)?if(n?def)?\b' $code | grep -vE '^include/sparsemoe/(config\.hpp|backend/gemm/)' |
    sed -E 's/^([^:]*:[0-9]*):.*/\1: #if outside its rooms: ask in config.hpp, and give the answer a name/' | unlisted rooms
}

# ----------------------------------------------------------------------------------------------------------- trail
trail() {
  # shellcheck disable=SC2086
  awk -v files="$files" '
    function exists(p) { return p in is_file }
    function folder_of(p) { sub(/[^\/]*$/, "", p); return p }
    # A name with a folder is seen from include/sparsemoe, then from the root; a bare one from its own folder first.
    function find(name, from,    own) {
      sub(/^sparsemoe\//, "", name)
      own = folder_of(from) name
      while (sub(/[^\/]+\/\.\.\//, "", own));
      if (name !~ /\// && exists(own)) return own
      if (exists("include/sparsemoe/" name)) return "include/sparsemoe/" name
      if (exists(name)) return name
      return exists(own) ? own : ""
    }
    # The names of files in text; each is looked for, and is a step from the file that names it.
    function steps(text, from, line,    name, to) {
      while (match(text, /[A-Za-z0-9_.\/*-]+\.(hpp|cpp|cu|md|sh)/)) {
        name = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (name ~ /\*/) continue
        to = find(name, from)
        if (to == "") print from ":" line ": \"Read next\" names " name ", which does not exist"
        else step[from, ++out[from]] = to
      }
    }
    function close_comment(    text) {
      if (file == "") return
      if (at = index(comment, "Read next:")) steps(substr(comment, at + 10), file, FNR_of_trail)
      file = ""
    }
    BEGIN {
      n = split(files, f, "\n")
      for (i = 1; i <= n; ++i) is_file[f[i]] = 1
    }
    FILENAME == "README.md" {
      text = $0
      while (match(text, /\]\([^)]*\)/)) {
        name = substr(text, RSTART + 2, RLENGTH - 3)
        text = substr(text, RSTART + RLENGTH)
        if (name in is_file) step["README.md", ++out["README.md"]] = name
      }
      next
    }
    FNR == 1 {
      close_comment()
      file = FILENAME; comment = ""; FNR_of_trail = 1; opened = 0
    }
    /^\/\/ SPDX-License-Identifier:/ { next }
    /^\/\// {
      if (!opened && FILENAME ~ /^include\//) {
        name = $2
        if ($3 != "--" || (FILENAME != name && substr(FILENAME, length(FILENAME) - length(name)) != "/" name))
          print FILENAME ":" FNR ": a header opens with its own name:  // " substr(FILENAME, 19) " -- what it is"
      }
      opened = 1
      if (index($0, "Read next:") || (/Read$/ && !index(comment, "Read next:"))) FNR_of_trail = FNR
      comment = comment " " substr($0, 3)
      sub(/Read  next:/, "Read next:", comment)
      next
    }
    { close_comment(); nextfile }
    END {
      close_comment()
      queue[last = 1] = "README.md"; seen["README.md"] = 1
      for (first = 1; first <= last; ++first)
        for (i = 1; i <= out[queue[first]]; ++i)
          if (!((to = step[queue[first], i]) in seen)) { seen[to] = 1; queue[++last] = to }
      for (i = 1; i <= n; ++i)
        if (f[i] ~ /^include\/sparsemoe\/.*\.hpp$/ && !(f[i] in seen))
          print f[i] ":1: no trail from README.md leads here: name it behind \"Read next:\" in a header that one does lead to"
    }' README.md $sources
}

# ----------------------------------------------------------------------------------------------------------- names
names() {
  # Comments may name what code must not.
  # shellcheck disable=SC2086
  grep -nE '"[^"]*(\.moe\.|\.experts\.|\bmoe\.(experts|router)\.)[^"]*"' $code | grep -vE '^[^:]*:[0-9]*: *//' |
    sed -E 's/^([^:]*:[0-9]*):.*/\1: a role is read from a name: ask the leaf (params.hpp)/' | unlisted role_names
  local rows
  rows=$(sed -nE 's/^ *RouterRow<.*\.name = "([^"]*)".*/\1/p' include/sparsemoe/model/by_name.hpp 2>/dev/null | paste -sd '|')
  [ -n "$rows" ] || { echo "include/sparsemoe/model/by_name.hpp:1: no row gives a router a name"; return; }
  # Some are words with other uses ("task", "hash"): compared with or given to a router they are names. Others are only that.
  # shellcheck disable=SC2086
  grep -nE "[!=]= *\"($rows)\"|router[a-z_]* = \"($rows)\"|\"(gshard|sentence-prefix)\"" $code |
    grep -vE '^[^:]*:[0-9]*: *//' |
    sed -E 's/^([^:]*:[0-9]*):.*/\1: a name of a router: ask model\/by_name.hpp/' | unlisted router_names
}

# ------------------------------------------------------------------------------------------------------------ size
size() {
  local line
  # shellcheck disable=SC2086
  wc -l $(grep '\.hpp$' <<<"$code") | awk -v reasons="$(entries "$over_300")" -v to_go="$over_400" '
    BEGIN {
      n = split(reasons, r, "\n")
      for (i = 1; i <= n; ++i) reason[r[i]] = 1
      m = split(to_go, t, "\n")
      for (i = 1; i <= m; ++i) if (split(t[i], w, " ") == 2) most[w[1]] = w[2] + 0
    }
    $2 == "total" { next }
    $2 in most {
      if ($1 > most[$2]) print $2 ":1: has " $1 " lines; it is to be cut, and may not grow over " most[$2]
      if ($1 > 400) met[$2] = 1
      next
    }
    $1 > 400 { print $2 ":1: has " $1 " lines: cut it, a header has at most 400"; met[$2] = 1; next }
    $1 > 300 && $2 ~ /^include\// {
      met[$2] = 1
      if (!($2 in reason)) print $2 ":1: has " $1 " lines: over 300 only with a reason in tests/check_house.sh"
    }
    END {
      for (f in reason) if (f != "" && !(f in met)) print "stale over_300 " f
      for (f in most) if (!(f in met)) print "stale over_400 " f
    }' | sort | while IFS= read -r line; do
    # shellcheck disable=SC2086
    if [[ $line == stale\ * ]]; then $line; else echo "$line"; fi
  done
}

# -------------------------------------------------------------------------------------------------------- commands
commands() {
  local place word name
  # shellcheck disable=SC2046
  grep -noE '\bsparsemoe-[a-z]+(-[a-z]+)*( [a-z]+[a-z-]*)?|(^|[ `])\.?/?[a-z.]+(/[a-z_-]+)*/[a-z_]+\.sh\b' $(grep -E '^(README|CONTRIBUTING|docs/.*)\.md$' <<<"$files") |
    sed -E 's/^([^:]*:[0-9]*):[ `]?/\1\t/' | sort -u | while IFS=$'\t' read -r place word; do
    case $word in
      sparsemoe-*)
        name=${word%% *}
        grep -qE "\b${name#sparsemoe-}\b" cmake/programs.cmake || { echo "$place: there is no program $name"; continue; }
        ;;
      *) word=${word#./}; [ -f "$word" ] || echo "$place: there is no script $word" ;;
    esac
  done
  # In blocks of commands the word behind a program with subcommands is one.
  awk '/^ *```/ { inside = /```sh/; next } inside && match($0, /sparsemoe-nmt [a-z-]+/) {
         print FILENAME ":" FNR "\t" substr($0, RSTART + 14, RLENGTH - 14) }' README.md |
    while IFS=$'\t' read -r place word; do
      grep -rqF --include='*.hpp' --include='*.cpp' "\"$word\"" examples/translation tools ||
        echo "$place: sparsemoe-nmt has no command '$word'"
    done
}

# --------------------------------------------------------------------------------------------------------- licence
licence() {
  grep -E '(\.(hpp|cpp|cu|cuh|c|sh|py|cmake|cmake\.in)|(^|/)(CMakeLists\.txt|Makefile)|^\.ci/run)$' <<<"$files" | tr '\n' '\0' |
    xargs -0 awk '
      FNR == 1 && /^#!/ { next }
      !/^(\/\/|#) SPDX-License-Identifier: Apache-2\.0$/ { print FILENAME ":" FNR ": the SPDX line of LICENSE is not here" }
      { nextfile }'
}

# --------------------------------------------------------------------------------------------------------- commits
commits() {
  if ! is_checkout || ! git merge-base --is-ancestor "$first_commit" HEAD 2>/dev/null; then
    echo "commits: skipped, there is no history from $first_commit on" >&2
    return
  fi
  local hash subject
  git log --no-merges --format='%h %s' "$first_commit..HEAD" | while read -r hash subject; do
    [ ${#subject} -le 72 ] || echo "$hash: subject of ${#subject} characters, at most 72: $subject"
  done
}

found=$(doors; rooms; trail; names; size; commands; licence; commits)
[ -z "$found" ] || printf '%s\n' "$found"
echo "the house: $(wc -l <<<"$headers") headers, $(grep -c . <<<"$found") findings"
[ -z "$found" ]
