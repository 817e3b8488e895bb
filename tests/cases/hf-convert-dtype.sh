# SPDX-License-Identifier: Apache-2.0
# Types, bits and the files beside the weights stay.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok "to ours" "$convert" "$folder/model" ours --layout sparsemoe
ok "and back" "$convert" ours back
python3 - "$folder/model" back <<'P' && pass "bits, dtype, files" || fail "bits, dtype, files"
import json, pathlib, struct, sys
def tensors(path):
    raw = (path / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in head.items()}
a, b = map(pathlib.Path, sys.argv[1:])
one, two = tensors(a), tensors(b)
assert one == two, [k for k in one if one[k] != two.get(k)]
x, y = (json.loads((p / "config.json").read_text()) for p in (a, b))
assert x.get("dtype") == y.get("dtype") and x.get("torch_dtype") == y.get("torch_dtype"), y
assert (b / "generation_config.json").exists()
P
echo "1 2 3" >ids
ok "ours runs" "$generate" --model ours --ids --max-new-tokens 4 --threads 1 <ids
cp out first
ok "the original runs" "$generate" --model "$folder/model" --ids --max-new-tokens 4 --threads 1 <ids
equal "the same output" "$(cat first)" "$(cat out)"
finish
