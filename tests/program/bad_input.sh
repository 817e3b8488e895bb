#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/bad_input.sh PROGRAM -- whatever is wrong gives one sentence that says what, where and what was expected,
# a status that is not 0, and nothing overwritten or half written. SHOW=1 prints the sentences.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
cp -r corpus corpus2
sed -i '1s/$/ more/' corpus2/train/da.tsv
ok "train" train --out run --steps 6 --checkpoint-every 3 --validate-every 6
cp -r run original
unchanged() { check "$1: nothing is changed" diff -r original run; }
absent() { if [ -e "$2" ] || [ -n "$(find . -maxdepth 1 -name "$2.*")" ]; then bad "$1: left $2 behind"; rm -rf "$2" "$2".*; else pass; fi; }

# --- corpus
import() {  # import WHAT REGEX CONTENT: a TSV file with this content is refused
  printf '%b' "$3" >bad.tsv
  refuse "$1" "$2" "$program" corpus --out new --tsv bad.tsv --vocab 0 --strict
  absent "$1" new
}
import "TSV: malformed UTF-8" 'bad\.tsv:3: not valid UTF-8 at byte 2' 'en\tda\na b\tc\nx \xff\ty\n'
import "TSV: cut UTF-8" 'bad\.tsv:2: not valid UTF-8' 'en\tda\na\t\xc3'
import "TSV: overlong UTF-8" 'bad\.tsv:2: not valid UTF-8' 'en\tda\na\t\xc0\xaf\n'
import "TSV: too few columns" 'bad\.tsv:2: 1 columns, the header has 2' 'en\tda\na\n'
import "TSV: too many columns" 'bad\.tsv:3: 3 columns, the header has 2' 'en\tda\na\tb\na\tb\tc\n'
import "TSV: no header" 'bad\.tsv:1: ' 'the file\tden fil\n'
import "TSV: a language twice" 'bad\.tsv:1: en names two columns' 'en\ten\na\tb\n'
import "TSV: one column" 'bad\.tsv:1: expected two or more' 'en\na\n'
import "TSV: empty" 'bad\.tsv: empty file' ''
import "TSV: header alone" 'bad\.tsv: a header and no text' 'en\tda\n'
import "TSV: no source" 'bad\.tsv:2: no text in en' 'en\tda\n\tb\n'
import "TSV: no translation" 'bad\.tsv:2: no translation' 'en\tda\na\t\n'
import "TSV: a NUL byte" 'bad\.tsv:2: a NUL byte' 'en\tda\na\0b\tc\n'
printf 'a\nb\nc\n' >three
printf 'a\nb\n' >two
printf 'a\n\nc\n' >hole
pair() { refuse "$1" "$2" "$program" corpus --out new --pair "$3" "$4" --source en --target da --vocab 0 --strict; absent "$1" new; }
pair "files: unequal length" 'three:3: three has 3 lines and two has 2' three two
pair "files: an empty line" 'hole:2: no translation' three hole
pair "files: no such file" 'none: ' three none
pair "files: a directory" 'corpus: ' three corpus
refuse "files: one language" 'both en' "$program" corpus --out new --pair three three --source en --target en --vocab 0
refuse "files: no language" '--source and --target' "$program" corpus --out new --pair three three
refuse "corpus: --out exists" 'corpus exists: choose another --out' "$program" corpus --out corpus --tsv text.tsv
refuse "corpus: --force on something else" 'not a corpus' "$program" corpus --out run --force --tsv text.tsv
unchanged "corpus: --force"
refuse "corpus: vocabulary too large" 'cannot train a tokenizer of 60000 pieces' "$program" corpus --out new --tsv text.tsv --vocab 60000
absent "corpus: vocabulary too large" new
refuse "corpus: vocabulary too small" 'cannot train a tokenizer of 5 pieces' "$program" corpus --out new --tsv text.tsv --vocab 5
absent "corpus: vocabulary too small" new

# --- options and settings
setting() {  # setting REGEX ARGUMENT...: train refuses it
  local regex=$1
  shift
  refuse "train $*" "$regex" train --out new "$@"
  absent "train $*" new
}
refuse "no command" 'subcommand is required' "$program"
refuse "unknown command" 'sparsemoe-nmt: ' "$program" trian
setting 'did you mean --heads\?' --head 2
setting 'did you mean --learning-rate\?' --learning_rates=1
setting "no router 'tokne'.*did you mean token\?" --encoder-router tokne
setting "no router 'x': choose token, switch" --decoder-router x
setting "precision must be fp32 or bf16, not 'fp8'" --precision fp8
setting 'must be one of adamw, adafactor, factored_adam' --optimiser sgd
setting "linaer" --schedule linaer
setting "task must be target or pair, not 'source'" --task source
setting "hash_table must be" --hash-table none
setting "directions must be" --directions up
setting 'width must be a multiple of heads, not 32 and 5' --heads 5
setting 'width must be a multiple of heads' --heads 0
setting 'width must be a multiple of heads' --width -32
setting 'heads' --heads 2.5
setting 'heads' --heads 99999999999999999999
setting 'tokens \(24\) must hold one pair of max_length \(32\)' --tokens 24
setting 'experts must be at least 1, not 0' --experts 0
setting 'experts must be at least 2 for token routing' --experts 1
setting 'hidden, encoder_layers and decoder_layers must be at least 1' --hidden -64
setting 'hidden, encoder_layers and decoder_layers must be at least 1' --decoder-layers 0
setting 'sparse_every and group must not be negative' --sparse-every -1
setting 'dropout must be at least 0 and less than 1, not 1' --dropout 1
setting 'dropout must be at least 0 and less than 1, not -0.1' --dropout -0.1
setting 'dropout must be at least 0 and less than 1, not -?nan' --dropout nan
setting 'jitter must be' --jitter 1.5
setting 'label_smoothing must be' --label-smoothing 1
setting 'balance_loss and z_loss must not be negative' --z-loss -1
setting 'init_scale must be positive' --init-scale 0
setting 'capacity_factor and eval_capacity_factor must not be negative' --capacity-factor -1
setting 'capacity_factor is for token, switch, gshard and hash' --capacity-factor 1 --encoder-router task --decoder-router sentence
setting 'learning_rate must be positive' --learning-rate -1
setting 'learning_rate must be positive' --learning-rate nan
setting 'clip must be between' --clip -1
setting 'beta1 and beta2' --beta2 1
setting 'floor must be between' --floor 2
setting 'at least 1' --steps 0
setting 'at least 1' --accumulate 0
setting 'at least 1' --keep 0
setting 'minutes must be between' --minutes -1
setting 'temperature must be between' --temperature 0
setting 'threads must be between' --threads -1
setting 'bleu_rows must be between' --bleu-rows -1
setting 'width must be between 1 and 65536' --width 131072
setting 'warmup must be between' --warmup 9223372036854775807
setting 'accumulate must be between' --accumulate 9223372036854775807
setting 'steps times accumulate' --steps 100000000 --accumulate 65536
setting 'learning_rate must be' --learning-rate nan
setting 'parameters, which take more than .*this machine has' --width 65536 --hidden 1048576 --experts 65536 --encoder-layers 1000
setting "no language 'xx'" --languages xx
setting "no training pair of kinds 'q'" --kinds q
setting 'none\.json: ' --config none.json
printf '{"widht": 3}' >typo.json
refuse "config: unknown key" 'typo\.json: unknown key "widht"; did you mean "width"\?' "$program" train --corpus corpus --out new --config typo.json
printf '{"width": "wide"}' >typo.json
refuse "config: wrong type" 'typo\.json: key "width" must be an integer, got "wide"' "$program" train --corpus corpus --out new --config typo.json
refuse "train: no corpus" 'give --corpus DIR' "$program" train --out new
refuse "train: no run" 'give --out RUN' "$program" train --corpus corpus
refuse "train: no such corpus" 'none: no such directory' "$program" train --corpus none --out new
refuse "train: not a corpus" 'run: not a corpus' "$program" train --corpus run --out new
refuse "train: --out exists" 'run: there is a run already; add --resume' train --out run
refuse "train: --out is a file" 'lines: is not a directory' bash -c "touch lines; '$program' train --corpus corpus --out lines"
refuse "train: --out below a file" 'lines/run: ' train --out lines/run
refuse "train: --resume without a run" 'none: there is no run to resume' train --out none --resume
refuse "train: --resume of something else" 'corpus: there is no run to resume' train --out corpus --resume
refuse "train: --resume with another model" 'run/settings.json: hidden was 64 when the run began, and a run cannot change it to 128' train --out run --resume --hidden 128
check "train: before the corpus is encoded" bash -c '! grep -q ^encoding err'
refuse "train: soft routing in a decoder" 'soft routing is for encoders' train --out other --decoder-router soft
refuse "train: --resume with another router" 'encoder_router was "token"' train --out run --resume --encoder-router hash
refuse "train: --resume with other languages" 'languages was' train --out run --resume --languages da
refuse "train: --resume with another optimiser" 'optimiser was "adamw"' train --out run --resume --optimiser adafactor
refuse "train: --resume with another seed" 'seed was 1 when the run began' train --out run --resume --seed 9
refuse "train: --resume with other text" 'corpus2: has other training text' "$program" train --config small.json --out run --resume --corpus corpus2
unchanged "train"

# --- translate, evaluate, report
translate() { "$program" translate --model run --to da --threads 1 "$@"; }
refuse "translate: unknown --to" "^sparsemoe-nmt: --to: the model does not know the language 'xx'; it knows en, da, fi" "$program" translate --model run --to xx
refuse "translate: unknown --from" "^sparsemoe-nmt: --from: the model does not know the language 'zz'" translate --from zz
refuse "translate: no model" 'none: no such directory' "$program" translate --model none --to da
refuse "translate: not a model" 'corpus: neither a checkpoint' "$program" translate --model corpus --to da
refuse "translate: no --to" '--to is required' "$program" translate --model run
refuse "translate: --batch 0" '--batch' translate --batch 0
refuse "translate: unknown option" 'did you mean --max-length\?' translate --max-lenght 3
translate --strict < <(printf 'the file\n\nsmall \xe2\x28\xa1 game\nold\n') >out 2>err
refused "translate: malformed UTF-8" 'standard input:3: not valid UTF-8 at byte 6' $?
equal "translate: the lines before it are written" "$(wc -l <out)" 2
translate < <(echo "the file") >/dev/full 2>err
refused "translate: full standard output" 'standard output: cannot write' $?
translate <. >out 2>err
refused "translate: standard input is a directory" 'standard input: cannot read' $?
refuse "samples: unknown language" "the model does not know the language 'xx'" "$program" samples --model run --to da,xx
refuse "evaluate: no such split" "no split 'none'" "$program" evaluate --model run --corpus corpus --split none
refuse "evaluate: unknown language" "does not know the language 'xx'" "$program" evaluate --model run --corpus corpus --languages xx
refuse "evaluate: no such corpus" 'none: no such directory' "$program" evaluate --model run --corpus none
refuse "evaluate: --max-length -5" '--max-length' "$program" evaluate --model run --corpus corpus --max-length -5
"$program" evaluate --model run --corpus corpus --rows 1 --threads 1 >/dev/full 2>err
refused "evaluate: full standard output" 'standard output: cannot write' $?
refuse "evaluate: scores where no file can be" 'none/scores.json: not written' "$program" evaluate --model run --corpus corpus --rows 1 --scores none/scores.json
refuse "report: no such run" 'none' "$program" report --run none --out report.html
absent "report: no such run" report.html
refuse "report: where no file can be" 'none/report.html: not written' "$program" report --run run --out none/report.html
unchanged "translate, evaluate, report"

# --- a corpus that was damaged later
damaged() {  # damaged WHAT REGEX FILE CONTENT: appends to a file of a copy of the corpus
  rm -rf broken
  cp -r corpus broken
  printf '%b' "$4" >>"broken/$3"
  refuse "$1" "$2" "$program" train --corpus broken --config small.json --out new --steps 2
  absent "$1" new
}
damaged "corpus: malformed UTF-8" 'train/da\.tsv:[0-9]+: not valid UTF-8' train/da.tsv '999999\t\xff\n'
damaged "corpus: columns" 'train/da\.tsv:[0-9]+: 3 columns, expected 2' train/da.tsv '999999\ta\tb\n'
damaged "corpus: id" "'x1' is not an id" train/da.tsv 'x1\ta\n'
damaged "corpus: ids that do not ascend" 'id 1 does not ascend' train/da.tsv '000001\ta\n'
damaged "corpus: unknown id" 'id 999999 is not in sources.tsv' train/da.tsv '999999\ta\n'
damaged "corpus: corpus.json" 'corpus\.json: ' corpus.json '}'
damaged "corpus: tokenizer" 'spm\.model: not a SentencePiece model' spm.model '\xff\xff\xff\xff\xff'
rm -rf broken && cp -r corpus broken && echo '{"languages": []}' >broken/corpus.json
refuse "corpus: no languages" 'corpus\.json: has no list of languages|no XX.tsv' "$program" train --corpus broken --languages da --out new
rm -rf broken && cp -r corpus broken && rm broken/spm.model
refuse "corpus: no tokenizer" 'no tokenizer' "$program" train --corpus broken --config small.json --out new

# --- checkpoints: damaged, with an older one to fall back to
flip() {  # flip FILE BYTE BIT
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
  printf "\\x$(printf %02x $((byte ^ (1 << $3))))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
RANDOM=11
fresh() { rm -rf run && cp -r original run; }
files="model.safetensors config.json spm.model trainer.safetensors trainer.json manifest.json"
for file in $files; do
  for damage in missing truncated flipped empty; do
    fresh
    path=run/step-6/$file
    size=$(stat -c %s "$path")
    case $damage in
      missing) rm "$path" ;;
      truncated) truncate -s $((size / 2)) "$path" ;;
      flipped) flip "$path" $([ $file = manifest.json ] && echo 0 || echo $(((RANDOM * 32768 + RANDOM) % size))) $((RANDOM % 8)) ;;
      empty) : >"$path" ;;
    esac
    cmp -s "$path" "original/step-6/$file" && { bad "$file was not $damage"; continue; }
    ok "$file $damage: a model that is whole translates" translate < <(echo "the small file")
    if [[ $file = trainer.* ]]; then
      equal "$file $damage: translate reads the newest model, and only that" "$(cat err)" ""
    else
      check "$file $damage: a warning names the file" grep -qE "^warning: run/step-6/(manifest|$file)" err
    fi
    # A directory without manifest.json is a model that somebody copied.
    [ "$file $damage" = "manifest.json missing" ] || [[ $file = trainer.* ]] || refuse "$file $damage: the checkpoint itself is refused" 'run/step-6' "$program" translate --model run/step-6 --to da
    ok "$file $damage: the run goes on from the step before" train --out run --resume
    check "$file $damage: and says so" grep -q 'resumed from run/step-3' err
    same "$file $damage: to the same weights" run/step-6/model.safetensors original/step-6/model.safetensors
  done
done
fresh
rm -rf run/step-3
flip run/step-6/model.safetensors 3000 4
refuse "the only checkpoint is damaged: translate" 'run: no usable checkpoint; the newest: run/step-6/model.safetensors: corrupt' translate
refuse "the only checkpoint is damaged: resume" 'run: no usable checkpoint' train --out run --resume
check "the only checkpoint is damaged: it is still there" test -e run/step-6/model.safetensors
# Pruning never counts the damaged one.
fresh
flip run/step-6/model.safetensors 3000 4
ok "resume behind a damaged step, keeping one" train --out run --resume --steps 5 --keep 1
ok "resume behind a damaged step, keeping one: a good one stays" translate < <(echo "the small file")

# --- config.json of a copied checkpoint without manifest.json: believed only as far as the other files agree
fresh
config() {  # config WHAT REGEX SED: an edited config.json
  rm -rf model
  cp -r original/step-6 model
  rm model/manifest.json
  sed -i -E "$3" model/config.json
  refuse "config.json: $1" "$2" "$program" translate --model model --to da
}
config "no JSON" 'model/config\.json: is not valid JSON' 's/\}$//'
config "a number for a name" 'config\.json: key "precision" must be a string, got 5' 's/"bf16"/5/'
config "a name for a number" 'config\.json: key "width" must be an integer, got "x"' 's/("width": ).*,/\1"x",/'
config "a fraction" 'config\.json: key "width" must be an integer, got 32.5' 's/("width": ).*,/\132.5,/'
config "beyond 64 bits" 'config\.json: key "width" must be' 's/("width": ).*,/\199999999999999999999,/'
config "negative" 'config\.json: width must be a multiple' 's/("width": ).*,/\1-32,/'
config "a key twice" 'config\.json: duplicate key "width"' 's/("width": .*,)/\1 \1/'
config "unknown key" 'config\.json: unknown key "widht"; did you mean "width"' 's/"width"/"widht"/'
config "unknown router" "no router 'x'" 's/("encoder_router": ).*,/\1"x",/'
config "nested without end" 'config\.json: is nested more than 16 deep' "s/(\"width\": ).*,/\1$(printf '[%.0s' {1..3000})/"
config "width of terabytes" 'has .*B, too few for the .* parameters that config.json describes|this machine has' 's/("width": ).*,/\165536,/; s/("hidden": ).*,/\11048576,/; s/("experts": ).*,/\165536,/; s/("encoder_layers": ).*,/\11000,/'
config "more experts than stored" 'model\.safetensors: (has .*too few|tensor)' 's/("experts": ).*,/\164,/'
config "width of another model" 'model\.safetensors: (has .*too few|tensor)' 's/("width": ).*,/\134,/'
config "smaller model" "model\.safetensors: tensor" 's/("hidden": ).*,/\132,/'
config "more layers" "model\.safetensors: (tensor .* is missing|has .*too few)" 's/("encoder_layers": ).*,/\14,/'
config "fewer layers" "model\.safetensors: tensor .* is not a parameter" 's/("encoder_layers": ).*,/\11,/'
config "another router" "model\.safetensors: " 's/("encoder_router": ).*,/\1"hash",/'
config "vocabulary" 'spm\.model has 400 entries, config.json says 500' 's/("vocabulary": ).*,/\1500,/'
config "vocabulary of terabytes" 'spm\.model has 400 entries' 's/("vocabulary": ).*,/\19000000000000000000,/'
config "a language without a tag" "no tag <2xx>" 's/"fi"/"xx"/'
config "a language twice" "languages has 'da' twice" 's/"fi"/"da"/'
config "no languages" 'at least 2 languages' 's/"fi"|"da",?|"en",//g'

# --- model.safetensors without manifest.json: every flipped bit of the header and the length is refused or harmless
header=$(od -An -tu8 -N 8 original/step-6/model.safetensors | tr -d ' ')
for i in $(seq "${FLIPS:-24}"); do
  rm -rf model
  cp -r original/step-6 model
  rm model/manifest.json
  case $((i % 3)) in
    0) file=spm.model at=$(((RANDOM * 32768 + RANDOM) % $(stat -c %s model/spm.model))) ;;
    1) file=model.safetensors at=$((i < 12 ? i / 3 * 2 : (RANDOM * 32768 + RANDOM) % (header + 8))) ;;
    2) file=config.json at=$(((RANDOM * 32768 + RANDOM) % $(stat -c %s model/config.json))) ;;
  esac
  bit=$((RANDOM % 8))
  flip model/$file $at $bit
  status=0
  timeout 60 "$program" translate --model model --to da --threads 1 --max-length 4 < <(echo "the small file") >out 2>err || status=$?
  if [ $status = 0 ] && ! crashed err; then pass; else refused "$file: byte $at, bit $bit flipped" "model" $status; fi
done

# --- a full disk, as a limit on the size of files: what was there before still loads
fresh
limited() { (trap '' XFSZ && ulimit -f "$1" && shift && "$@"); }
limited 40 "$program" train --corpus corpus --config small.json --out run --resume --steps 12 >out 2>err </dev/null
refused "full disk: a checkpoint" 'not written|cannot write|File too large' $?
equal "full disk: the checkpoints are those from before" "$(cd run && echo step-*)" "step-3 step-6"
ok "full disk: the checkpoint from before translates" translate < <(echo "the small file")
ok "full disk: the run goes on when there is room" train --out run --resume --steps 12
limited 40 "$program" train --corpus corpus --config small.json --out new --steps 3 >out 2>err </dev/null
refused "full disk: the first checkpoint" 'not written|cannot write|File too large' $?
check "full disk: no checkpoint is left half written" test -z "$(find new -name 'step-*')"
ok "full disk: a run without a checkpoint starts again" train --out new --resume --steps 3
limited 8 "$program" corpus --out full --tsv text.tsv --vocab 0 >out 2>err </dev/null
refused "full disk: corpus" 'full\.partial|cannot|not written' $?
absent "full disk: corpus" full
finish
