// sparsemoe.hpp -- the umbrella for users: everything that runs on a CPU and needs no package beyond the core's two.
// Not here, include them by name: io/ (nlohmann-json), backend/cuda.hpp, backend/gemm/ providers, text/, testing.hpp.
// The library itself never includes this file. Read next: concepts.hpp, then examples/hello_moe.cpp.
#pragma once

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/concepts.hpp"
#include "sparsemoe/infer/greedy.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/schedule.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/sampling.hpp"
#include "sparsemoe/train/update.hpp"
