#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/bitext.sh PROGRAM -- the corpus command on text as it comes: bad rows, packed files, several pairs, sets
# of one's own, any name of a language, tiny texts; and an archive that is not signed, which no setting makes good.
. "$(dirname "$0")/lib.sh"
rows() { cut -f2 "$1" | tr '\n' '/'; }
corpus() { "$program" corpus --out "$@"; }

# --- rows that cannot be used
printf 'one cup\n\nthree cups\nx \xff\nfive cups\n' >a.en
printf 'eine Tasse\nzwei Tassen\n\u00a0\nvier\nfünf Tassen\n' >a.de
ok "an empty line and a bad one" corpus c --pair a.en a.de --vocab 0
check "they are counted" grep -q '^5 rows read: 2 kept, 1 not UTF-8, 2 empty; the first: a.en:4 not UTF-8, a.en:2 empty$' err
check "no dev rows: said" grep -q '^warning: no dev rows: a twentieth of the rows is held out, and there are only 2; bring one by --dev-pair' err
refuse "strict" 'a.en:2: no text in en' corpus refused --pair a.en a.de --vocab 0 --strict
refuse "nothing is left" 'no row is left: 1 rows read: 0 kept, 1 empty' bash -c "printf '\n' >e.en; printf 'x\n' >e.de; '$program' corpus --out refused --pair e.en e.de --vocab 0"
check "nothing is left behind" bash -c '! ls -d refused* 2>/dev/null'
gzip -k a.en && xz -k a.de
ok "packed files" corpus packed --pair a.en.gz a.de.xz --vocab 0
same "packed files are the same text" c/train/de.tsv packed/train/de.tsv
head -c 40 a.en.gz >cut.en.gz
refuse "a packed file that is cut" 'cut.en.gz: is (cut short|damaged)' corpus refused --pair cut.en.gz a.de --vocab 0
refuse "options of the other source" '--suites is for package descriptions' corpus refused --pair a.en a.de --suites sid
refuse "options of own text without any" '--strict is for own text' corpus refused --strict

# --- several files, sets of one's own
text 300 3 | awk -F'\t' 'NR > 1 && $2 != "" && $3 != "" { print $1 > "x.en"; print $2 > "x.da"; print $1 > "y.en"; print $3 > "y.fi" }'
head -n 3 x.en >d.en && head -n 3 x.da >d.da
printf 'a sentence of its own\n' >t.en && printf 'en helt egen sætning\n' >t.da
ok "several pairs" corpus many --pair x.en x.da --pair y.en y.fi --dev-pair d.en d.da --test-pair t.en t.da --vocab 0
equal "several pairs: languages" "$(ls many/train | tr '\n' ' ')" "da.tsv en.tsv fi.tsv sources.tsv "
equal "own dev set" "$(rows many/dev/da.tsv)" "$(tr '\n' '/' <d.da)"
equal "own test set" "$(rows many/test/da.tsv)" "$(tr '\n' '/' <t.da)"
check "train shares nothing with it" bash -c "! cut -f2 many/train/en.tsv | grep -qxF \"\$(head -n 1 d.en)\""
check "and that is said" grep -qE '^[0-9]+ rows left out because they share a text with the dev or test set' err

# --- names, tiny texts
printf 'en\tzh-TW\tpt_BR\tsr@latin\tl00\teng_Latn2\nhouse\t房\tcasa\tkuća\tx\ty\n' >names.tsv
ok "names of languages" corpus names --tsv names.tsv --vocab 0
equal "names of languages" "$(ls names/train | tr '\n' ' ')" "en.tsv eng_Latn2.tsv l00.tsv pt_BR.tsv sources.tsv sr@latin.tsv zh-TW.tsv "
refuse "one language by two codes" 'names.tsv:1: de and deu names two columns' bash -c "printf 'en\tde\tdeu\na\tb\tc\n' >names.tsv; '$program' corpus --out refused --tsv names.tsv"
for i in $(seq 30); do echo "the $i. cup of tea on table $((i * 7 % 11))"; done >tiny.en
for i in $(seq 30); do echo "die $i. Tasse Tee auf Tisch $((i * 7 % 11))"; done >tiny.de
ok "30 rows" corpus tiny --pair tiny.en tiny.de --vocab-lines 2000
check "a vocabulary that fits, said" grep -qE '^the text carries [0-9]+ pieces, not 8000' err
check "nothing of SentencePiece's own words" bash -c '! grep -qE "trainer_interface|LOG|max_sentence_length" err out'
refuse "a vocabulary too large, as asked" 'the text carries at most [0-9]+; give --vocab' corpus refused --pair tiny.en tiny.de --vocab 5000 --vocab-lines 2000
awk 'BEGIN { print "en\txx"; for (i = 0; i < 4; ++i) { a = ""; for (k = 0; k < 900; ++k) a = a "word" (k * (i + 3)) % 97 " "; print a "\t" toupper(a) } }' >long.tsv
ok "lines of 6,000 characters" corpus long --tsv long.tsv --vocab-lines 100
refuse "a pipe" '/dev/stdin: not a regular file|stdin' bash -c "echo | '$program' corpus --out refused --tsv /dev/stdin --vocab 0"

# --- what lies around
bash -c 'mkdir -p co.partial-$$/train; exec "$0" corpus --tsv names.tsv --out co --vocab 0' "$program" >out 2>err
mkdir co.tmp-999999-1 && touch co.tmp-999999-1/x
ok "beside what a killed process left" corpus co --pair a.en a.de --vocab 0
check "it is removed" test ! -e co.tmp-999999-1
sed -i '$d' co/train/de.tsv
refuse "a file that was cut" 'train/de.tsv: has 1 rows, counts.json says 2' "$program" train --corpus co --out r

# --- sets that were brought are never replaced by others
awk 'BEGIN { for (i = 1; i <= 60; ++i) { w = sprintf("%c%c", 97 + i % 26, 97 + int(i / 26)); print "cup " w > "own.en"; print "kop " w > "own.da" } }'
printf '\n\n' >none.en && printf 'a\nb\n' >none.da
for set in dev test; do
  refuse "a $set set without a row" "none.en: no row is left of the $set set that was given; .*2 empty" \
    "$program" corpus --out new --vocab 0 --pair own.en own.da --$set-pair none.en none.da
done
head -n 5 own.en >five.en && head -n 5 own.da >five.da
refuse "a dev set that is the test set" 'every row of the dev set that was given shares a text with the test set' \
  "$program" corpus --out new --vocab 0 --pair own.en own.da --dev-pair five.en five.da --test-pair five.en five.da
for n in 1 2 3 4 5; do printf 'line %s\r' $n >>mac.en; printf 'linje %s\r' $n >>mac.da; done
ok "lines of old Macs" "$program" corpus --out mac --vocab 0 --pair mac.en mac.da
check "each is a row" grep -q '^5 rows read: ' err

# --- an archive that is not signed
if command -v apt-get >/dev/null && command -v gpgv >/dev/null; then
  d=archive/dists/bookworm
  mkdir -p $d/main/binary-amd64 $d/main/i18n
  printf 'Package: evil\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: evil\nDescription-md5: %032d\nFilename: x\nSize: 1\nSHA256: %064d\n\n' 0 0 >$d/main/binary-amd64/Packages
  for l in en da; do printf 'Package: evil\nDescription-md5: %032d\nDescription-%s: evil text\n a long line of text.\n\n' 0 $l >$d/main/i18n/Translation-$l; done
  (
    cd $d || exit
    printf 'Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Tue, 01 Dec 2026 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n'
    for f in main/binary-amd64/Packages main/i18n/Translation-*; do printf ' %s %s %s\n' "$(sha256sum $f | cut -d' ' -f1)" "$(stat -c %s $f)" $f; done
  ) >release
  mv release $d/Release
  export DDTP_ARCHIVE=file:$PWD/archive
  fetch() { refuse "$1" 'cannot fetch bookworm: ' timeout 60 "$program" corpus --out new --work work --languages da --suites bookworm --vocab 0; }
  fetch "an archive that is not signed"
  printf 'Acquire::AllowInsecureRepositories "true";\nAPT::Update::Post-Invoke {"touch %s/hook";};\nAPT::Update::Pre-Invoke {"touch %s/hook";};\n' "$PWD" "$PWD" >conf
  APT_CONFIG=$PWD/conf fetch "the same where the machine takes it"
  check "the machine's hooks do not run" test ! -e hook
  rm -rf work && mkdir -p work/bookworm && echo precious >victim && ln -s "$PWD/victim" work/bookworm/s.list
  fetch "a link in the work directory"
  equal "a link in the work directory is not written through" "$(cat victim)" precious
  rm -rf work && mkdir -p work/bookworm/lists && echo "da en" >work/bookworm/languages
  for f in main/binary-amd64/Packages main/i18n/Translation-en main/i18n/Translation-da Release; do
    cp $d/$f "work/bookworm/lists/deb.debian.org_debian_dists_bookworm_${f//\//_}"
  done
  fetch "lists that lie in the work directory, and that nobody signed"
fi
finish
