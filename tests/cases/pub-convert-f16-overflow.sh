# SPDX-License-Identifier: Apache-2.0
# A number that does not fit the type is named, and nothing is written.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
refused "convert to F16" 'encoder.block.0.layer.1.DenseReluDense.wo.weight.*70000' "$convert" "$folder/model" half --dtype F16
if [ -e half ]; then fail "half is there"; else pass "nothing is written"; fi
finish
