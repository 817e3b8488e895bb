# SPDX-License-Identifier: Apache-2.0
# lib.sh -- sourced by the tests of the whole program: a scratch directory, a small made-up parallel text, a small model,
# and checks that count. Usage: tests/program/NAME.sh PROGRAM; the exit status says whether all checks passed.
# Works for a sanitizer build too: a report of a sanitizer fails the check that caused it.
set -uo pipefail
case ${1:-} in
  -h|--help) sed -n '2,/^[^#]/{/^# SPDX-/d; s/^# \{0,1\}//p}' "$0"; exit 0 ;;
esac
program=$(realpath "${1:?usage: $0 PROGRAM}")
name_of_program=$(basename "$program")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
export OMP_WAIT_POLICY=passive LC_ALL=C.UTF-8
checks=0 wrong=0

pass() { checks=$((checks + 1)); }
bad() {  # bad WHAT [FILE]: a check that failed, and the end of what was printed
  checks=$((checks + 1)) wrong=$((wrong + 1))
  echo "WRONG: $1"
  [ -z "${2:-}" ] || tail -n 15 "$2" | cut -c1-300 | sed 's/^/    /'
}
check() {  # check WHAT COMMAND...: the command succeeds
  local what=$1
  shift
  if "$@" >check.out 2>&1; then pass; else bad "$what" check.out; fi
}
equal() {  # equal WHAT GOT EXPECTED
  if [ "$2" = "$3" ]; then pass; else bad "$1: got '$2', expected '$3'"; fi
}
same() { check "$1: $2 and $3 differ" cmp "$2" "$3"; }
finish() {
  echo "$((checks - wrong)) checks passed, $wrong failed, $SECONDS s"
  [ $wrong = 0 ]
}

crashed() { grep -qE 'Sanitizer|runtime error:|terminate called|Assertion|core dumped|what\(\):|basic_string|_M_' "$1"; }

ok() {  # ok WHAT COMMAND...: status 0; output in out and err
  local what=$1 status=0
  shift
  "$@" >out 2>err || status=$?
  if [ $status = 0 ] && ! crashed err; then pass; else bad "$what: exit status $status" err; fi
}
# refuse WHAT REGEX COMMAND...: a non-zero status, and on standard error one sentence of the program that matches.
refuse() {
  local what=$1 regex=$2 status=0
  shift 2
  "$@" >out 2>err </dev/null || status=$?
  refused "$what" "$regex" $status
}
refused() {  # refused WHAT REGEX STATUS: the same of a command that has run
  local sentences
  sentences=$(grep -c "^$name_of_program: " err)
  if [ "$3" = 0 ]; then
    bad "$1: not refused" err
  elif [ "$3" -gt 127 ] || crashed err; then
    bad "$1: exit status $3" err
  elif [ "$sentences" != 1 ] || ! grep "^$name_of_program: " err | grep -qE -- "$2"; then
    bad "$1: expected one sentence like: $2" err
  else
    pass
  fi
  [ -z "${SHOW:-}" ] || grep "^$name_of_program: " err
}

# Is the whole file one JSON value?
json='(?(DEFINE)(?<s>"(?:[^"\\[:cntrl:]]|\\.)*")(?<v>\s*(?:\{(?:\s*(?&s)\s*:(?&v)(?:,\s*(?&s)\s*:(?&v))*)?\s*\}|\[(?:(?&v)(?:,(?&v))*)?\s*\]|(?&s)|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)\s*))'
is_json() { grep -qzP "\A$json(?&v)\z" "$1"; }
are_json_lines() { ! grep -vqP "^$json(?&v)\$" "$1"; }

# text ROWS SEED: rows of English, Danish and Finnish made of the same words in another order; some rows lack one.
text() {
  awk -v rows="$1" -v seed="$2" 'BEGIN {
    en = "a the small fast red blue old new file text page line word tool game disk network music image sound for with and or of"
    da = "en den lille hurtig rød blå gammel ny fil tekst side linje ord værktøj spil disk netværk musik billede lyd for med og eller af"
    fi = "yksi se pieni nopea punainen sininen vanha uusi tiedosto teksti sivu rivi sana työkalu peli levy verkko musiikki kuva ääni varten kanssa ja tai osa"
    n = split(en, e, " "); split(da, d, " "); split(fi, f, " ")
    x = seed + 1
    print "en\tda\tfi"
    for (r = 0; r < rows; ++r) {
      a = b = c = ""
      x = x * 16807 % 2147483647
      for (k = 3 + x % 6; k > 0; --k) {
        x = x * 16807 % 2147483647
        w = 1 + x % n
        a = a (a == "" ? "" : " ") e[w]; b = b (b == "" ? "" : " ") d[w]; c = f[w] (c == "" ? "" : " ") c
      }
      if (r % 10 == 7) b = ""
      if (r % 20 == 5) c = ""
      print a "\t" b "\t" c
    }
  }'
}
make_corpus() {  # make_corpus DIR [ROWS]
  text "${2:-400}" 7 >text.tsv
  "$program" corpus --out "$1" --tsv text.tsv --vocab 400 >corpus.out 2>&1 || bad "corpus $1" corpus.out
}

# A small model and short batches; with dropout and jitter as by default. The command line overrides the file.
cat >small.json <<'END'
{"width": 32, "heads": 2, "hidden": 64, "experts": 4, "encoder_layers": 2, "decoder_layers": 2, "tokens": 256,
 "max_length": 32, "warmup": 5, "learning_rate": 0.01, "threads": 1, "validate_rows": 8, "bleu_rows": 2}
END
train() { "$program" train --corpus corpus --config small.json "$@"; }
newest() { find "$1" -maxdepth 1 -name 'step-*' ! -name '*.tmp-*' | sort -V | tail -n 1; }
