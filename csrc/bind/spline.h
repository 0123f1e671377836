// What describes a spline, checked: for every op that moves its elements by one.
#pragma once

#include <cmath>

#include "../math/spline.h"
#include "tensor.h"

namespace pfk::bind {

// Slopes are 1 where their raw value is zero.
inline Spline spline_of(const char* op, int bins, int tails, double low, double high, double min_width,
                        double min_height, double min_slope, double softclip, bool inverse) {
    constexpr int most = 64;
    if (bins < 2 || bins > most)
        refuse<std::invalid_argument>(op, ": bins must be in 2..", most, "; got ", bins);
    if (tails < 0 || tails > 2)
        refuse<std::invalid_argument>(op, ": no such tails: ", tails);
    if (!(high > low && std::isfinite(low) && std::isfinite(high)))
        refuse<std::invalid_argument>(op, ": the interval must be finite and not empty; got [", low, ", ", high, "]");
    if (!(softclip >= 0 && softclip <= kLargestSoftclip))
        refuse<std::invalid_argument>(op, ": softclip must be in [0, ", kLargestSoftclip, "]; got ", softclip);
    const auto check = [op, bins, softclip](const char* what, double least) {
        if (!((least > 0 || (least == 0 && softclip > 0)) && least * bins < 1))
            refuse<std::invalid_argument>(op, ": ", what, " must be in (0, 1 / bins); got ", least, " with ", bins,
                                          " bins");
    };
    check("min_width", min_width);
    check("min_height", min_height);
    if (!(min_slope > 0 && min_slope < 1))
        refuse<std::invalid_argument>(op, ": min_slope must be in (0, 1); got ", min_slope);
    const double size = high - low;
    return {bins,
            static_cast<Tails>(tails),
            inverse,
            softclip > 0,
            {low, high, size * min_width, size * (1 - bins * min_width), size * min_height,
             size * (1 - bins * min_height), min_slope, std::log(std::expm1(1 - min_slope)),
             softclip > 0 ? 1 / softclip : 0}};
}

} // namespace pfk::bind
