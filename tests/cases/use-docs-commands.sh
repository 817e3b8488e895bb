# SPDX-License-Identifier: Apache-2.0
# What the documents say runs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok "the documents" "$SM/tests/check_docs.sh" "$BIN"
ok "run.sh --help" timeout 20 "$SM/tests/run.sh" --help
for program in conformance generate convert nmt pretrain hash-lm lstm-lm; do
  ok "$program --help" "$BIN/sparsemoe-$program" --help
  ok "$program --version" "$BIN/sparsemoe-$program" --version
done
refused "a slip in a command" 'tarin.*train' "$nmt" tarin
finish
