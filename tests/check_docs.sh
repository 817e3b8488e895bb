#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_docs.sh BUILD-DIRECTORY [DOCUMENT...] -- documents are run: every command in a fenced block (sh, bash) of
# README.md, CONTRIBUTING.md and docs/ is tried, or at least understood.
#   programs of the project   the subcommand and every option stand in --help; it is run, in a scratch directory with a
#                             small corpus, model and text of the names that the documents use, if it does not train
#                             (--help has no --minutes or --steps), for 45 s at most, and all that it reads is there
#   scripts                   exist, can be executed, and have a --help that knows the options
#   g++ ...                   compiles, without code generation
#   cmake, ctest              presets, targets, cache entries and tests exist
#   others                    are installed, or are left out with a word
# Blocks of cpp that are whole programs compile; others stand in an example that their section names. Links and paths name
# files that exist. One line per fault; the last line is the sum. Exit status 0 or 1.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/tests/usage.sh"
usage any "$@"
build=$(realpath "${1:?usage: tests/check_docs.sh BUILD-DIRECTORY [DOCUMENT...]}") || exit 1
shift
cd "$root" || exit 1
documents=("$@")
[ $# -gt 0 ] || mapfile -t documents < <(ls README.md CONTRIBUTING.md; find docs -name '*.md' 2>/dev/null | sort)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
ran=0 parsed=0 left=0 faults=0 where=""
seconds=${SECONDS_EACH:-45}  # a command that takes longer was understood, and is left at that
declare -A help_of

fault() { echo "$where: $*"; faults=$((faults + 1)); }
leave() { [ -z "${VERBOSE:-}" ] || echo "left out: $where: $*"; left=$((left + 1)); }

# ------------------------------------------------------------------------------------------------------- commands
# words LINE: its words, one a line, with | ; && || < > as words of their own behind a tab; comments are gone.
words() {
  awk -v line="$1" 'BEGIN {
    n = length(line); w = ""; has = 0; quote = ""
    for (i = 1; i <= n; ++i) {
      c = substr(line, i, 1); two = substr(line, i, 2)
      if (quote != "") { if (c == quote) quote = ""; else w = w c; continue }
      if (c == "\x27" || c == "\"") { quote = c; has = 1; continue }
      if (c == "#" && !has) break
      if (c ~ /[ \t]/) { if (has) print w; w = ""; has = 0; continue }
      if (two == "&&" || two == "||" || two == ">>" || c ~ /[|;<>&]/) {
        if (c ~ /[<>]/ && w ~ /^[0-9]$/) { w = ""; has = 0 }
        if (has) print w
        w = ""; has = 0
        if (two == "&&" || two == "||" || two == ">>") { print "\t" two; ++i } else print "\t" c
        continue
      }
      w = w c; has = 1
    }
    if (has) print w
  }'
}

# help PROGRAM [SUBCOMMAND]: its --help, asked for once; status 1 if it has none.
help() {
  local key="$*"
  if [ -z "${help_of[$key]+x}" ]; then
    help_of[$key]=$(timeout 60 "$@" --help 2>&1 </dev/null) || help_of[$key]=""
  fi
  [ -n "${help_of[$key]}" ]
}
# knows OPTION HELP-KEY
knows() { grep -qE -- "(^|[^a-zA-Z0-9-])${1%%=*}([^a-zA-Z0-9-]|\$)" <<<"${help_of[$2]}"; }

# our_program WORD...: a program of the project. Sets `trains`, and `key` of help_of.
our_program() {
  local program=$build/${1##*/} word
  shift
  if [ ! -x "$program" ]; then leave "${program##*/} is not built in $build"; return 1; fi
  help "$program" || { fault "${program##*/} --help fails"; return 1; }
  key=$program
  if [ $# -gt 0 ] && [[ $1 != -* ]] && grep -qiE '^subcommands:' <<<"${help_of[$key]}"; then
    grep -qE "^  $1( |\$)" <<<"${help_of[$key]}" || { fault "${program##*/} has no command '$1'"; return 1; }
    help "$program" "$1" || { fault "${program##*/} $1 --help fails"; return 1; }
    key="$program $1"
  fi
  for word in "$@"; do
    [[ $word == -[a-zA-Z-]* ]] || continue
    knows "$word" "$key" || { fault "${key##*/} has no option ${word%%=*}"; can_run=no; }
  done
  parsed=$((parsed + 1))
}
# trains KEY: whether the command works for as long as it is told to.
trains() { grep -qE -- '--(minutes|steps|duration)\b' <<<"${help_of[$1]}"; }

script() {  # script PATH WORD...
  local path=$1 word
  shift
  [ -x "$path" ] || { fault "there is no script $path that can be executed"; return; }
  grep -qE -- '--help|usage (any|[0-9])' "$path" || { fault "$path does not know --help"; return; }
  help "$path" || { fault "$path --help fails"; return; }
  for word in "$@"; do
    [[ $word == --* ]] || continue
    knows "$word" "$path" || fault "$path has no option $word"
  done
  parsed=$((parsed + 1))
}

preset() {  # preset KIND NAME: of configurePresets, buildPresets or testPresets; hidden ones are not for users
  awk -v kind="\"$1\"" '/Presets": \[/ { on = index($0, kind) > 0 } on' CMakePresets.json |
    grep -qE "\"name\": \"$2\"" || fault "CMakePresets.json has no $1 named $2"
}
target() { cmake --build "$build" --target "$1" -- -n >/dev/null 2>&1; }  # -n: what would be done
cmake_command() {
  local mode=configure word previous="" value
  for word in "$@"; do
    case $word in
      --build) mode=build ;;
      --install) mode=install ;;
      -D*)
        value=${word#-D}
        [[ ${value%%[=:]*} != SPARSEMOE_* ]] || grep -q "${value%%[=:]*}" CMakeLists.txt ||
          fault "CMakeLists.txt has no ${value%%[=:]*}" ;;
    esac
    case $previous in
      --preset) if [ $mode = build ]; then preset buildPresets "$word"; else preset configurePresets "$word"; fi ;;
      --build|--install) [[ $word != build/* ]] || preset configurePresets "${word#build/}" ;;
      --target|-t)
        target "$word" || fault "there is no target $word"
        built="$built $word" ;;
    esac
    previous=$word
  done
  parsed=$((parsed + 1))
}
ctest_command() {
  local previous="" word matched one
  for word in "$@"; do
    case $previous in
      --preset) preset testPresets "$word" ;;
      -R)
        matched=$(ctest --test-dir "$build" -N -R "$word" 2>/dev/null | sed -n 's/^ *Test *#[0-9]*: //p')
        [ -n "$matched" ] || fault "ctest -R $word selects no test"
        # After a build of single targets, a test of another one would count as failed.
        for one in $matched; do
          [ -z "$built" ] || [[ "$built " == *" $one "* ]] || fault "ctest -R $word also selects $one, which is not built"
        done ;;
    esac
    previous=$word
  done
  parsed=$((parsed + 1))
}

# simple WORD...: one command without redirections. Sets `can_run` to no where it must not be run.
simple() {
  while [[ ${1:-} =~ ^[A-Za-z_][A-Za-z_0-9]*=.* ]]; do shift; done
  [ $# -gt 0 ] || return
  local name=$1 path=${1#./}
  shift
  case $name in
    *sparsemoe-[a-z]*) our_program "$name" "$@" || { can_run=no; return; }
      trains "$key" && can_run=no
      reads "$@" ;;
    cmake) can_run=no; cmake_command "$@" ;;
    ctest) can_run=no; ctest_command "$@" ;;
    g++|clang++*|c++) can_run=no; compile "$name" "$@" ;;
    echo|printf|cat|head|tail|sort|cut|cd|mkdir|export|true) ;;
    */*|*.sh)
      can_run=no
      if [ -e "$path" ]; then
        if [ -x "$path" ] && head -1 "$path" | grep -q '^#!.*sh'; then script "$path" "$@"; else leave "$name"; fi
      elif [[ $path == build/*/* ]] && target "${path##*/}"; then
        leave "$name"
      else
        fault "there is no $name"
      fi ;;
    *)
      can_run=no
      if command -v "$name" >/dev/null; then parsed=$((parsed + 1)); else leave "$name is not installed"; fi ;;
  esac
}
# reads WORD...: not run if it reads what the scratch directory and the project do not have.
reads() {
  local previous="" word
  [ $can_run = yes ] && fixture || { can_run=no; return; }
  for word in "$@"; do
    case $previous in
      --out|--scores|--layout|--dtype) ;;
      --model|--models|--corpus|--teacher|--student|--run|--tsv|--config|--dense|--extracted|--pair)
        local one
        for one in ${word//,/ }; do [[ $one == -* ]] || [ -e "$scratch/work/$one" ] || can_run=no; done ;;
    esac
    previous=$word
  done
  # Bare words after the command (sparsemoe-convert FROM TO, sparsemoe-conformance DIR): files or directories.
  if [ $# -gt 0 ] && [[ $key != *" "* ]] && [[ $1 != -* ]]; then [ -e "$scratch/work/$1" ] || can_run=no; fi
  # Fetches what this machine may not reach.
  if [[ $key == *" corpus" ]] && [[ "$*" != *--tsv* && "$*" != *--pair* ]]; then can_run=no; fi
}
compile() {  # the command as it is, but only as far as errors are found
  local arguments=() word previous="" compiler=$1
  shift
  for word in "$@"; do
    [ "$previous" = -o ] || [ "$word" = -o ] || [[ $word == -O* || $word == -march=* ]] || arguments+=("$word")
    previous=$word
  done
  set -- "${arguments[@]}"
  if [ $# -gt 1 ]; then
    "$compiler" "$@" -fsyntax-only >"$scratch/log" 2>&1 || { fault "does not compile: $*"; head -3 "$scratch/log"; return; }
  fi
  ran=$((ran + 1))
}
command_line() {
  local list=() word can_run=yes built="" key="" skip=""
  where=$1
  while IFS= read -r word; do
    case $word in
      $'\t<'|$'\t>'|$'\t>>') skip=yes ;;
      $'\t'*) simple "${list[@]}"; list=() ;;
      *) if [ -n "$skip" ]; then skip=""; else list+=("$word"); fi ;;
    esac
  done < <(words "$2")
  [ ${#list[@]} = 0 ] || simple "${list[@]}"
  [ $can_run = yes ] && [[ $2 == *sparsemoe-* ]] || return 0
  local line=$2 out
  out=$(grep -oE -- '--out +[^ ]+' <<<"$line" | head -1 | sed 's/--out *//')  # what is there already stays as it is
  [ -z "$out" ] || [ ! -e "$scratch/work/$out" ] || line=${line/"--out $out"/"--out $out.$ran"}
  (cd "$scratch/work" && PATH=$build:$PATH OMP_NUM_THREADS=1 timeout "$seconds" bash -o pipefail -c "$line") \
    >"$scratch/log" 2>&1 </dev/null
  local status=$?
  if [ $status = 124 ]; then leave "not ended in $seconds s: $2"; return; fi
  [ $status = 0 ] || { fault "exit status $status: $2"; tail -3 "$scratch/log" | sed 's/^/    /'; }
  ran=$((ran + 1))
}

# A corpus, a model of a few steps and text, under the names that the documents use. Made when first asked for.
fixture_state=""
fixture() {
  [ -n "$fixture_state" ] || { make_fixture && fixture_state=good || fixture_state=bad; }
  [ $fixture_state = good ]
}
make_fixture() {
  mkdir -p "$scratch/work" && cd "$scratch/work" || return 1
  ln -s "$root/tests" "$root/examples" .
  awk 'BEGIN {
    en = "a the small fast red blue old new file text page line word tool game disk network music image sound for with and or of"
    da = "en den lille hurtig rød blå gammel ny fil tekst side linje ord værktøj spil disk netværk musik billede lyd for med og eller af"
    it = "un il piccolo veloce rosso blu vecchio nuovo documento testo pagina riga parola strumento gioco disco rete musica immagine suono per con e o di"
    n = split(en, e, " "); split(da, d, " "); split(it, t, " "); x = 7
    print "en\tda\tit"
    for (r = 0; r < 400; ++r) {
      a = b = c = ""
      for (k = 3 + r % 6; k > 0; --k) {
        x = x * 16807 % 2147483647; w = 1 + x % n
        a = a (a == "" ? "" : " ") e[w]; b = b (b == "" ? "" : " ") d[w]; c = c (c == "" ? "" : " ") t[w]
      }
      print a "\t" b "\t" c
    }
  }' >text.tsv
  cut -f1 text.tsv | tail -n +2 >a.en
  cut -f2 text.tsv | tail -n +2 | tee a.de >a.da
  head -5 a.en | tee in.txt >input.txt
  "$build/sparsemoe-nmt" corpus --out corpus --tsv text.tsv --vocab 400 >log 2>&1 &&
    "$build/sparsemoe-nmt" train --corpus corpus --out run --steps 4 --width 32 --heads 2 --hidden 64 --experts 4 \
      --encoder-layers 2 --decoder-layers 2 --tokens 256 --threads 1 >log 2>&1 || { where=fixture; fault "no small model: $(tail -1 log)"; cd "$root"; return 1; }
  cd "$root" || return 1
}

# ---------------------------------------------------------------------------------------------------------- blocks
# blocks DOCUMENT LANGUAGES: "first line<TAB>text with \x01 for newlines" of each fenced block.
blocks() {
  awk -v languages="^($2)\$" '
    /^[ \t]*(```|~~~)/ {
      if (inside) { if (wanted) print first "\t" text; inside = 0; next }
      tag = $0; sub(/^[ \t]*(```|~~~)[ \t]*/, "", tag); sub(/[ \t{].*/, "", tag)
      inside = 1; wanted = tag ~ languages; first = NR + 1; text = ""; next
    }
    inside { text = text (text == "" ? "" : "\x01") $0 }' "$1"
}
shell_blocks() {
  local first text line number joined
  while IFS=$'\t' read -r first text; do
    number=$((first - 1)) joined=""
    while IFS= read -r line; do
      number=$((number + 1))
      line=${line#\$ }
      joined=$joined$line
      if [[ $joined == *\\ ]]; then joined=${joined%\\}; continue; fi
      [ -z "${joined// }" ] || command_line "$1:$number" "$joined"
      joined=""
    done < <(tr '\001' '\n' <<<"$text")
  done < <(blocks "$1" "sh|bash|shell|console")
}
# Whether all lines of file $1 stand in file $2, one after another, whatever the indentation.
stands_in() {
  awk 'function bare(s) { gsub(/[ \t]+/, " ", s); gsub(/^ | $/, "", s); return s }
    FNR == NR { if (bare($0) != "") want[++n] = bare($0); next }
    bare($0) != "" { have[++m] = bare($0) }
    END {
      for (i = 0; i + n <= m; ++i) { for (k = 1; k <= n && have[i + k] == want[k]; ++k); if (k > n) exit 0 }
      exit 1
    }' "$1" "$2"
}
cpp_blocks() {
  local first text named file found
  while IFS=$'\t' read -r first text; do
    where=$1:$first
    tr '\001' '\n' <<<"$text" >"$scratch/block.cpp"
    if grep -qE '^int main\(' "$scratch/block.cpp"; then
      # shellcheck disable=SC2046
      "${CXX:-g++}" $(tests/flags.sh "${CXX:-g++}") -I. -fsyntax-only "$scratch/block.cpp" >"$scratch/log" 2>&1 ||
        { fault "the program does not compile"; head -3 "$scratch/log"; }
      ran=$((ran + 1))
      continue
    fi
    # The .cpp files that the section names so far.
    named=$(head -n "$first" "$1" | awk '/^#/ { text = "" } { text = text "\n" $0 } END { print text }' |
      grep -oE '[A-Za-z0-9_./-]+\.cpp' | sort -u)
    found=""
    for file in $named; do [ -f "$file" ] && stands_in "$scratch/block.cpp" "$file" && found=yes; done
    if [ -n "$found" ]; then
      parsed=$((parsed + 1))
    elif [ -n "$(for file in $named; do [ -f "$file" ] && echo "$file"; done)" ]; then
      fault "these lines are in none of: $(echo $named)"
    else
      leave "lines of C++ that no example has"
    fi
  done < <(blocks "$1" "cpp|c[+][+]")
}
# Links and paths, outside of fenced blocks.
paths() {
  local document=$1 at=$(dirname "$1") number text target file
  while IFS=$'\t' read -r number text; do
    where=$document:$number
    while IFS= read -r target; do
      case $target in http:*|https:*|mailto:*) continue ;; esac
      file=${target%%#*}
      [ -z "$file" ] || [ -e "$at/$file" ] || fault "the link $target leads nowhere"
      if [[ $target == *"#"* ]] && [[ -z $file || $file == *.md ]]; then
        slugs "${file:+$at/}${file:-$document}" | grep -qxF -- "${target#*#}" || fault "there is no heading #${target#*#}"
      fi
      parsed=$((parsed + 1))
    done < <(grep -oE '\]\([^) ]+\)' <<<"$text" | sed 's/^](//; s/)$//')
    while IFS= read -r target; do
      target=${target#./}
      [[ $target == *"*"* ]] && target=${target%/*}  # a pattern of names to come: its folder is there
      # A path of this project begins with one of its folders, or one of the library's.
      for file in . include/sparsemoe; do
        [[ -d $file/${target%%/*} && ${target%%/*} != build && ${target%%/*} != out ]] || continue
        compgen -G "$file/$target" >/dev/null && continue 2
      done
      [[ -d ${target%%/*} || -d include/sparsemoe/${target%%/*} ]] && [[ ${target%%/*} != build ]] && [[ ${target%%/*} != out ]] &&
        fault "there is no file $target"
    done < <(grep -oE '`[^` ]+/[^` ]*\.(sh|cpp|hpp|cu|md|json|cmake|py)`' <<<"$text" | tr -d '`')
  done < <(awk '/^[ \t]*(```|~~~)/ { inside = !inside; next } !inside { print NR "\t" $0 }' "$document")
}
slugs() {
  sed -nE 's/^#+ +//p' "$1" | tr '[:upper:]' '[:lower:]' | sed -E 's/`//g; s/[^[:alnum:] _-]//g; s/ /-/g'
}

for document in "${documents[@]}"; do
  [ -f "$document" ] || { where=$document; fault "there is no such document"; continue; }
  shell_blocks "$document"
  cpp_blocks "$document"
  paths "$document"
done
echo "documents: $ran run, $parsed understood, $left left out, $faults faults"
[ $faults = 0 ]
