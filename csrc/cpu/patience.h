// A long search looks up now and then, and ends where nobody waits for it any more.
#pragma once

#include "dispatch.h"

namespace pfk::cpu {
namespace {

class Patience {
  public:
    void step() {
        if (++steps_ % kSteps == 0)
            check_interrupt();
    }

  private:
    static constexpr int64_t kSteps = 64;
    int64_t steps_ = 0;
};

} // namespace
} // namespace pfk::cpu
