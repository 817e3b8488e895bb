// SPDX-License-Identifier: Apache-2.0
// testing.hpp -- for authors of layers and routers: check_layer and check_router, which return reports and need no test
// framework. Read next: testing/check_layer.hpp, testing/check_router.hpp.
#pragma once

#include "sparsemoe/testing/check_layer.hpp"
#include "sparsemoe/testing/check_router.hpp"
