// What a softmax asks for, of scores less their maximum.
#pragma once

#include "elementary.h"

namespace pfk {

// exp for x <= 0 and NaN, zero below e^-87 (e^-708 in double): unlike exp_flushed it has no other end to check.
template <class A> PFK_HD A exp_falling(A x) {
#ifdef __CUDA_ARCH__
    return detail::card_exp(x);
#else
    using R = detail::Real<A>;
    typename R::Int n;
    const A r = detail::reduce(x, n);
    const A y = (R::expm1_tail(r) * (r * r) + r + A(1)) * detail::power_of_two<A>(n);
    return x < R::exp_flushed_min ? A(0) : y;
#endif
}

} // namespace pfk
