// tools/conformance/models.hpp -- whole models, each family in a translation unit of its own.
#pragma once

#include "case.hpp"

namespace conformance {

template <class P>
void t5_model_case(Run<P>& run);
template <class P>
void t5_generate_case(Run<P>& run);

template <class P>
void switch_model_case(Run<P>& run);
template <class P>
void switch_generate_case(Run<P>& run);
template <class P>
void nllb_model_case(Run<P>& run);
template <class P>
void nllb_generate_case(Run<P>& run);

template <class P>
void mixtral_model_case(Run<P>& run);
template <class P>
void mixtral_generate_case(Run<P>& run);

}  // namespace conformance
