// An Error without a sentence helps nobody, so there is no default constructor.
// expect: no matching function for call
#include "sparsemoe/error.hpp"

#ifdef SHOULD_FAIL
sparsemoe::Error error() { return sparsemoe::Error(); }
#else
sparsemoe::Error error() { return sparsemoe::Error("what, where, expected"); }
#endif
