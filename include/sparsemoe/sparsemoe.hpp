// SPDX-License-Identifier: Apache-2.0
// sparsemoe.hpp -- the umbrella for users: what runs on a CPU and needs no package beyond the core's.
// Not here, include them by name: io/ (nlohmann-json), backend/cuda.hpp, backend/gemm/ providers, text/, testing.hpp.
// The library itself never includes this file. Read next: concepts.hpp, then examples/hello_moe.cpp.
#pragma once

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/concepts.hpp"
#include "sparsemoe/describe_router.hpp"
#include "sparsemoe/infer/greedy.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/factored_adam.hpp"
#include "sparsemoe/optim/schedule.hpp"
#include "sparsemoe/routers/balanced.hpp"
#include "sparsemoe/routers/base.hpp"
#include "sparsemoe/routers/expert_choice.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/hash_variants.hpp"
#include "sparsemoe/routers/hierarchical.hpp"
#include "sparsemoe/routers/hierarchical_gshard.hpp"
#include "sparsemoe/routers/no_token_left_behind.hpp"
#include "sparsemoe/routers/noisy.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/sigmoid.hpp"
#include "sparsemoe/routers/sinkhorn.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/sampling.hpp"
#include "sparsemoe/train/update.hpp"
